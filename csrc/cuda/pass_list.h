// The lattices that one launch works on, and the rows that go through them.
#pragma once

#include "context.h"
#include "lattice_view.h"
#include "rows.h"

namespace densecrf::cuda {

// One lattice of a pass. Splatting a tile leaves a partial row for each of its tile rows; the
// partial rows of a vertex are added to its row in the order of the tiles, so that sums do not
// depend on which block came first.
//
// Rows lie in two buffers and go to and fro: partial rows in one, their sums in the other, after
// every axis that is not blurred in place in the one that they were not in. Values may go through a
// lattice in rounds, numbered 0, 1, 0, 1 and so on: a round begins where the blurred rows of the
// one before are not.
template <typename T>
struct PassLattice {
  LatticeView<T> lattice;
  int64_t copies;   // sets of rows: as many as images where one lattice serves all, else 1
  const T* weight;  // [batch, tiles, V, 256] barycentric weight times what splat multiplies by
  const T* scale;   // [batch, tiles, 256] what a sliced value is multiplied by besides
  T* buffer[2];     // room for [copies, tile_row_capacity or capacity, chunks] each
  BlurWay way;      // along its axes

  // Partial rows of a round [copies, tile_row_capacity, chunks].
  __device__ __forceinline__ T* partial(int round) const {
    return buffer[round * lattice.vertices_per_point % 2];
  }
  // Sums of a round after so many moves to the other buffer [copies, capacity, chunks].
  __device__ __forceinline__ T* rows(int round, int moves) const {
    return buffer[(round * lattice.vertices_per_point + moves + 1) % 2];
  }
  // The blur moves rows as often as there are axes, or less by an even number.
  __device__ __forceinline__ T* blurred(int round) const {
    return rows(round, lattice.vertices_per_point);
  }

  // Place of an image's tile in what has [batch, tiles]; and its set of rows.
  __device__ __forceinline__ int64_t tile_of(int64_t image, int64_t tile) const {
    return (lattice.batch == 1 ? 0 : image) * lattice.tiles.tiles + tile;
  }
  __device__ __forceinline__ int64_t copy_of(int64_t image) const {
    return copies == 1 ? 0 : image;
  }
  __device__ __forceinline__ int64_t vertices() const { return lattice.image_first[lattice.batch]; }
};

// A tile of a batch; there are fewer than 2^32 of them, and the division is a cheap one.
struct BatchTile {
  int64_t image, tile;
};
__device__ __forceinline__ BatchTile batch_tile(int64_t item, const TileMap& tiles) {
  const auto number = static_cast<uint32_t>(item), each = static_cast<uint32_t>(tiles.tiles);
  const uint32_t image = number / each;
  return {image, number - image * each};
}

constexpr int kListed = 4;  // lattices a launch can work on

template <typename T>
struct PassList {
  PassLattice<T> lattice[kListed];
  int count;
  int chunks;    // of a row
  bool adjoint;  // the blur takes the axes in reverse
  int round;     // that the launch slices, or else splats or blurs
  int64_t images;
  TileMap tiles;           // of every lattice
  const int32_t* running;  // [1] images that have not converged; null: none ever does

  // Whether there is nothing left to do.
  __device__ __forceinline__ bool is_over() const { return running != nullptr && *running == 0; }
};

// Whether results through these lattices mean nothing.
template <typename T>
__device__ __forceinline__ bool has_failed(const PassList<T>& list) {
  for (int k = 0; k < list.count; ++k) {
    if (*list.lattice[k].lattice.failure != kSound) return true;
  }
  return false;
}

// Which blocks of a launch work on which lattice.
struct BlockShares {
  int64_t first[kListed + 1];

  __device__ __forceinline__ int lattice_of(int64_t block) const {
    int k = 0;
    while (block >= first[k + 1]) ++k;
    return k;
  }
  __device__ __forceinline__ BlockPlace place(int k, int64_t block) const {
    return {block - first[k], first[k + 1] - first[k]};
  }
};

}  // namespace densecrf::cuda
