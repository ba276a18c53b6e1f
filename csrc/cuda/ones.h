// The filter of ones, from which every normalisation is made: splat and blur of the weights.
#pragma once

#include "sums.h"

namespace densecrf::cuda {

// partial[t]: the sum of tile row t's weights. A block owns a tile.
template <typename T>
__global__ void __launch_bounds__(kTile) sum_tile_rows(LatticeView<T> lattice, T* partial) {
  const int64_t tiles = lattice.batch * lattice.tiles.tiles;
  const int64_t n = int64_t{lattice.vertices_per_point} * kTile;
  for (int64_t at = blockIdx.x; at < tiles; at += gridDim.x) {
    const uint16_t* entry = lattice.entry + at * n;
    const T* weight = lattice.weight + at * n;
    T* to = partial + lattice.tile_first[at];
    sum_runs<T>(
        runs_of_tile(lattice, at, at % lattice.tiles.tiles), group_lanes(1),
        [&](int e) { return weight[entry[e]]; }, [](T& sum, T x) { sum += x; },
        [&](int row, T sum) { to[row] = sum; });
  }
}

// Eight lanes own a vertex: each adds every eighth of its tile rows, then they add up; for long
// lists a block does.
template <typename T>
__global__ void __launch_bounds__(kTile, kResident)
    sum_vertices(LatticeView<T> lattice, const T* partial, T* sums) {
  constexpr int kLanes = 8, kMost = 32 * kLanes;
  auto& shared = shared_memory<LongListSums<T, 1>>();
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int64_t vertices = lattice.image_first[lattice.batch];
  const int64_t groups = threads_of_grid() / kLanes;
  const auto length_of = [&](int64_t v) {
    return lattice.vertex_first[v + 1] - lattice.vertex_first[v];
  };
  // The lanes of a warp go round together, so that all take part in the shuffles.
  const int64_t rounds = (vertices + groups - 1) / groups;
  for (int64_t round = 0; round < rounds; ++round) {
    const int64_t v = round * groups + thread_of_grid() / kLanes;
    const bool is_short = v < vertices && length_of(v) <= kMost;
    T sum = 0;
    if (is_short) {
      const int32_t end = lattice.vertex_first[v + 1];
      for (int32_t i = lattice.vertex_first[v] + lane; i < end; i += kLanes) {
        sum += partial[lattice.tile_row[i]];
      }
    }
    for (int lanes = kLanes / 2; lanes > 0; lanes /= 2) {
      sum += __shfl_xor_sync(kFullWarp, sum, lanes);
    }
    if (is_short && lane == 0) sums[v] = sum;
  }
  const LongLists lists{place_in_grid(), vertices, kMost};
  lists.for_each(shared, lists.finds(0, length_of), length_of, [&](int64_t v, int turn) {
    const int32_t* rows = lattice.tile_row + lattice.vertex_first[v];
    sum_long_list(
        shared, group_lanes(1), turn, length_of(v), [&](int j) { return partial[rows[j]]; },
        [&](T sum) { sums[v] = sum; });
  });
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
