// The filter of ones, from which every normalisation is made: splat and blur of the weights.
#pragma once

#include "device.h"
#include "lattice_view.h"

namespace densecrf::cuda {

// partial[t]: the sum of tile row t's weights, in the order of its entries. A block owns a tile.
template <typename T>
__global__ void __launch_bounds__(kTile) sum_tile_rows(LatticeView<T> lattice, T* partial) {
  const int64_t tiles = lattice.batch * lattice.tiles.tiles;
  const int64_t n = int64_t{lattice.vertices_per_point} * kTile;
  for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const uint16_t* entry = lattice.entry + tile * n;
    const T* weight = lattice.weight + tile * n;
    const int32_t end = lattice.tile_first[tile + 1];
    for (int64_t t = lattice.tile_first[tile] + int64_t{threadIdx.x}; t < end; t += kTile) {
      const int last = lattice.entries_end(tile, t);
      T sum = 0;
      for (int e = lattice.entry_first[t]; e < last; ++e) sum += weight[entry[e]];
      partial[t] = sum;
    }
  }
}

// Eight lanes own a vertex: each adds every eighth of its tile rows, then they add up.
template <typename T>
__global__ void __launch_bounds__(kTile)
    sum_vertices(LatticeView<T> lattice, const T* partial, T* sums) {
  constexpr int kLanes = 8;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int64_t vertices = lattice.image_first[lattice.batch];
  const int64_t groups = threads_of_grid() / kLanes;
  // The lanes of a warp go round together, so that all take part in the shuffles.
  const int64_t rounds = (vertices + groups - 1) / groups;
  for (int64_t round = 0; round < rounds; ++round) {
    const int64_t v = round * groups + thread_of_grid() / kLanes;
    T sum = 0;
    if (v < vertices) {
      const int32_t end = lattice.vertex_first[v + 1];
      for (int32_t i = lattice.vertex_first[v] + lane; i < end; i += kLanes) {
        sum += partial[lattice.tile_row[i]];
      }
    }
    for (int lanes = kLanes / 2; lanes > 0; lanes /= 2) {
      sum += __shfl_xor_sync(kFullWarp, sum, lanes);
    }
    if (v < vertices && lane == 0) sums[v] = sum;
  }
}

// One axis of the blur.
template <typename T>
__global__ void __launch_bounds__(kTile)
    blur_ones(LatticeView<T> lattice, int axis, const T* from, T* to) {
  const int64_t vertices = lattice.image_first[lattice.batch];
  const int32_t* previous = lattice.neighbour + 2 * axis * lattice.capacity;
  const int32_t* next = previous + lattice.capacity;
  for (int64_t v = thread_of_grid(); v < vertices; v += threads_of_grid()) {
    const int32_t p = previous[v], n = next[v];
    to[v] = from[v] + T(0.5) * ((p >= 0 ? from[p] : T(0)) + (n >= 0 ? from[n] : T(0)));
  }
}

}  // namespace densecrf::cuda
