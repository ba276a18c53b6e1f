// The blur along one axis of every lattice of a launch, from one buffer of rows to another:
// to = from + (previous + next) / 2, where a missing neighbour counts as zero (Adams, Baek and
// Davis 2010, section 3.2). The order of the axes is part of the result.
#pragma once

#include "pass_list.h"

namespace densecrf::cuda {

// The buffers of a step, for every lattice of the list.
template <typename T>
struct BlurStep {
  const T* from[kListed];
  T* to[kListed];
  int axis[kListed];  // -1: this lattice has no axis left
};

template <typename T>
__global__ void __launch_bounds__(kTile, kResident)
    blur_rows(const __grid_constant__ PassList<T> list, const __grid_constant__ BlurStep<T> step,
              const __grid_constant__ BlockShares shares) {
  if (list.is_over()) return;
  const int k = shares.lattice_of(blockIdx.x);
  const int axis = step.axis[k];
  if (axis < 0) return;
  const PassLattice<T>& pass = list.lattice[k];
  const int chunks = list.chunks;
  const RowShare mine = share_rows(chunks);
  if (mine.row >= mine.rows) return;
  const int64_t capacity = pass.lattice.capacity;
  const int32_t* previous = pass.lattice.neighbour + 2 * axis * capacity;
  const int32_t* next = previous + capacity;
  const int64_t vertices = pass.vertices(), items = vertices * pass.copies;
  const int64_t stride = (shares.first[k + 1] - shares.first[k]) * mine.rows;
  for (int64_t i = (blockIdx.x - shares.first[k]) * mine.rows + mine.row; i < items; i += stride) {
    const int64_t copy = pass.copies == 1 ? 0 : i / vertices, v = i - copy * vertices;
    const int64_t base = copy * capacity;
    const int64_t before = previous[v], after = next[v];
    const Chunk<T>* from = as_chunks(step.from[k]) + base * chunks;
    Chunk<T>* to = as_chunks(step.to[k]) + (base + v) * chunks;
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

}  // namespace densecrf::cuda
