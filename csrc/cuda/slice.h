// Slice: from the rows of vertices back to points.
#pragma once

#include <cmath>

#include "pass_list.h"

namespace densecrf::cuda {

// The sum of weight * row, blurred in a round, over the vertices of the point in `lane`, for the
// chunks first + i lanes of the row, i < mine <= kChunks. `at`: the tile's place in what has
// [batch, tiles].
template <int kChunks, typename T>
__device__ __forceinline__ void slice_point(const PassLattice<T>& pass, int round, int64_t at,
                                            int64_t copy, int lane, int chunks, int first,
                                            int lanes, int mine, Chunk<T>* sum) {
  const LatticeView<T>& lattice = pass.lattice;
  const int64_t incidence = at * lattice.vertices_per_point * kTile + lane;
  const int32_t* row = lattice.row + incidence;
  const T* weight = pass.weight + incidence;
  const Chunk<T>* rows = as_chunks(pass.blurred(round)) + copy * lattice.capacity * chunks + first;
  // Rows on their way at once: two are enough where each is several loads, and spare registers.
#pragma unroll(kChunks < 2 ? 3 : 2)
  for (int r = 0; r < lattice.vertices_per_point; ++r) {
    const T w = weight[r * kTile];
    const Chunk<T>* from = rows + static_cast<int64_t>(row[r * kTile]) * chunks;
    for (int i = 0; i < kChunks; ++i) {
      if (i < mine) sum[i].add_scaled(w, from[i * lanes]);
    }
  }
}

// What the filter returns: result [images, N, channels], of which `count` channels from `first` on
// come out of this pass.
template <typename T>
__global__ void __launch_bounds__(kTile, kResident)
    slice_channels(const __grid_constant__ PassList<T> list, T* result, int64_t channels,
                   int64_t first, int count) {
  const PassLattice<T>& pass = list.lattice[0];
  const TileMap& tiles = list.tiles;
  const int chunks = list.chunks;
  const RowShare mine = share_rows(chunks);
  if (mine.row >= mine.rows) return;
  const bool failed = has_failed(list);
  for (int64_t item = blockIdx.x; item < list.images * tiles.tiles; item += gridDim.x) {
    const auto [image, tile] = batch_tile(item, tiles);
    const int64_t at = pass.tile_of(image, tile);
    for (int lane = mine.row; lane < kTile; lane += mine.rows) {
      const int64_t point = tiles.point(tile, lane);
      if (point < 0) continue;
      const T scale = failed ? static_cast<T>(NAN) : pass.scale[at * kTile + lane];
      T* to = result + (image * tiles.points + point) * channels + first;
      for (int c = mine.chunk; c < chunks; c += mine.lanes) {
        Chunk<T> sum = Chunk<T>::zero();
        slice_point<1>(pass, list.round, at, pass.copy_of(image), lane, chunks, c, 1, 1, &sum);
        for (int i = 0; i < kChunk<T>; ++i) {
          const int channel = c * kChunk<T> + i;
          if (channel < count) to[channel] = sum.value[i] * scale;
        }
      }
    }
  }
}

}  // namespace densecrf::cuda
