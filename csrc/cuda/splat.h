// Splat: from the values of points to partial rows by tile, and from these to rows of vertices.
// There are no floating-point atomics: every sum has one owner and one order.
#pragma once

#include "pass_list.h"

namespace densecrf::cuda {

// The partial rows of one tile in a round. values [256, stride]: in shared or global memory.
template <typename T>
__device__ __forceinline__ void splat_tile(const PassLattice<T>& pass, int round, int64_t image,
                                           int64_t tile, const Chunk<T>* values, int64_t stride,
                                           int chunks) {
  const LatticeView<T>& lattice = pass.lattice;
  const int64_t at = pass.tile_of(image, tile);
  const int64_t incidences = at * lattice.vertices_per_point * kTile;
  const uint16_t* entry = lattice.entry + incidences;
  const T* weight = pass.weight + incidences;
  const int64_t last = lattice.tile_first[at + 1];
  T* partial =
      pass.partial(round) + pass.copy_of(image) * lattice.tile_row_capacity * chunks * kChunk<T>;
  const RowShare mine = share_rows(chunks);
  if (mine.row >= mine.rows) return;
  for (int64_t t = lattice.tile_first[at] + mine.row; t < last; t += mine.rows) {
    const int begin = lattice.entry_first[t], end = lattice.entries_end(at, t);
    Chunk<T>* to = as_chunks(partial) + t * chunks;
    for (int c = mine.chunk; c < chunks; c += mine.lanes) {
      Chunk<T> sum = Chunk<T>::zero();
#pragma unroll 4
      for (int e = begin; e < end; ++e) {
        const int incidence = entry[e];
        sum.add_scaled(weight[incidence], values[(incidence % kTile) * stride + c]);
      }
      to[c] = sum;
    }
  }
}

// source [images, tiles, 256, stride]: of its rows the chunks from `first` on are splatted. A block
// of 256 threads for every tile of every image.
template <typename T>
__global__ void __launch_bounds__(kTile, kResident)
    splat_tiles(const __grid_constant__ PassList<T> list, const T* source, int64_t stride,
                int64_t first) {
  if (list.is_over()) return;
  for (int64_t item = blockIdx.x; item < list.images * list.tiles.tiles; item += gridDim.x) {
    const auto [image, tile] = batch_tile(item, list.tiles);
    const Chunk<T>* values = as_chunks(source) + item * kTile * stride + first;
    for (int k = 0; k < list.count; ++k) {
      splat_tile(list.lattice[k], list.round, image, tile, values, stride, list.chunks);
    }
  }
}

// rows[v] = the sum of the partial rows of vertex v in a round, tile by tile.
template <typename T>
__device__ __forceinline__ void gather_partial_rows(const PassLattice<T>& pass, int round,
                                                    int chunks, BlockPlace place) {
  const LatticeView<T>& lattice = pass.lattice;
  const T* source = pass.partial(round);
  T* target = pass.rows(round, 0);
  const RowShare mine = share_rows(chunks);
  if (mine.row >= mine.rows) return;
  const int64_t vertices = pass.vertices(), items = vertices * pass.copies;
  const int64_t stride = place.count * mine.rows;
  for (int64_t i = place.number * mine.rows + mine.row; i < items; i += stride) {
    const int64_t copy = pass.copies == 1 ? 0 : i / vertices, v = i - copy * vertices;
    const int64_t begin = lattice.vertex_first[v], end = lattice.vertex_first[v + 1];
    const Chunk<T>* from = as_chunks(source) + copy * lattice.tile_row_capacity * chunks;
    Chunk<T>* to = as_chunks(target) + (copy * lattice.capacity + v) * chunks;
    for (int c = mine.chunk; c < chunks; c += mine.lanes) {
      Chunk<T> sum = Chunk<T>::zero();
#pragma unroll 4
      for (int64_t j = begin; j < end; ++j) {
        sum.add(from[static_cast<int64_t>(lattice.tile_row[j]) * chunks + c]);
      }
      to[c] = sum;
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(kTile, kResident)
    add_partial_rows(const __grid_constant__ PassList<T> list,
                     const __grid_constant__ BlockShares shares) {
  if (list.is_over()) return;
  const int k = shares.lattice_of(blockIdx.x);
  gather_partial_rows(list.lattice[k], list.round, list.chunks, shares.place(k, blockIdx.x));
}

}  // namespace densecrf::cuda
