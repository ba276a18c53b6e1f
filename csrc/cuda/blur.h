// The blur along one axis, from one buffer of rows to another:
// to = from + (previous + next) / 2, where a missing neighbour counts as zero (Adams, Baek and
// Davis 2010, section 3.2). The order of the axes is part of the result.
#pragma once

#include "pass_list.h"

namespace densecrf::cuda {

// The so manieth step of the blur of a round: nothing, where the lattice has no axis left.
template <typename T>
__device__ __forceinline__ void blur_step(const PassLattice<T>& pass, int round, int step,
                                          bool adjoint, int chunks, BlockPlace place) {
  const int axes = pass.lattice.vertices_per_point;
  if (step >= axes) return;
  const int axis = adjoint ? axes - 1 - step : step;
  const T* source = pass.rows(round, step);
  T* target = pass.rows(round, step + 1);
  const RowShare mine = share_rows(chunks);
  if (mine.row >= mine.rows) return;
  const int64_t capacity = pass.lattice.capacity;
  const int32_t* previous = pass.lattice.neighbour + 2 * axis * capacity;
  const int32_t* next = previous + capacity;
  const int64_t vertices = pass.vertices(), items = vertices * pass.copies;
  const int64_t stride = place.count * mine.rows;
  for (int64_t i = place.number * mine.rows + mine.row; i < items; i += stride) {
    const int64_t copy = pass.copies == 1 ? 0 : i / vertices, v = i - copy * vertices;
    const int64_t base = copy * capacity;
    const int64_t before = previous[v], after = next[v];
    const Chunk<T>* from = as_chunks(source) + base * chunks;
    Chunk<T>* to = as_chunks(target) + (base + v) * chunks;
    for (int c = mine.chunk; c < chunks; c += mine.lanes) {
      Chunk<T> sum = Chunk<T>::zero();
      if (before >= 0) sum.add(from[before * chunks + c]);
      if (after >= 0) sum.add(from[after * chunks + c]);
      Chunk<T> x = from[v * chunks + c];
      x.add_scaled(T(0.5), sum);
      to[c] = x;
    }
  }
}

// A step of every lattice's blur.
template <typename T>
__global__ void __launch_bounds__(kTile, kResident)
    blur_rows(const __grid_constant__ PassList<T> list, int step,
              const __grid_constant__ BlockShares shares) {
  if (list.is_over()) return;
  const int k = shares.lattice_of(blockIdx.x);
  blur_step(list.lattice[k], list.round, step, list.adjoint, list.chunks,
            shares.place(k, blockIdx.x));
}

}  // namespace densecrf::cuda
