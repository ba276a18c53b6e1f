// The blur along one axis, to another buffer of rows or in place:
// new = old + (previous + next) / 2, where a missing neighbour counts as zero (Adams, Baek and
// Davis 2010, section 3.2). The order of the axes is part of the result; the way is not.
//
// To another buffer, every row is written and read up to three times, and none waits for another.
// In place, a group of threads goes along a chain of neighbours with the rows before and after in
// registers: every row of a chain is read once and written once, one after another, and vertices
// without neighbours, which the blur leaves as they are, cost nothing.
#pragma once

#include "pass_list.h"

namespace densecrf::cuda {

// Chunks of rows that pay for one more vertex of the longest chain. In place, an axis saves about a
// chunk's traffic or more for every chunk there is, and takes at least as many loads, one after
// another, as the longest chain has vertices. A load takes about a quarter of a microsecond, in
// which four terabytes a second are a megabyte. (From data sheets: nobody has timed it here.)
constexpr int64_t kChunksPerLink = int64_t{1} << 16;

struct AxisPlan {
  bool in_place;
  int moves;  // to another buffer, along the axes that came before
};

// How the so manieth step is done. Axes are blurred in place two and two, so that the blurred rows
// lie where they lie without any: a last one without a partner goes to the other buffer.
template <typename T>
__device__ __forceinline__ AxisPlan plan_axis(const PassLattice<T>& pass, int step, bool adjoint,
                                              int64_t rows, int chunks) {
  const int axes = pass.lattice.vertices_per_point;
  const auto pays = [&](int s) {
    const int longest = pass.lattice.longest_chain[adjoint ? axes - 1 - s : s];
    const bool enough = longest * kChunksPerLink <= rows * chunks;
    return longest <= kLongestChain && (pass.way == BlurWay::kInPlace || enough);
  };
  if (pass.way == BlurWay::kTwoBuffers) return {false, step};
  int before = 0, all = 0;
  for (int s = 0; s < axes; ++s) {
    const int one = pays(s) ? 1 : 0;
    all += one;
    before += s < step ? one : 0;
  }
  const int paired = all / 2 * 2;
  return {before < paired && pays(step), step - (before < paired ? before : paired)};
}

// rows [vertices, chunks], from the chunk that is wanted on; next [vertices]. The next link is
// fetched together with the next row, so that a vertex takes the time of one load.
template <typename T>
__device__ __forceinline__ void blur_chain(const int32_t* next, int32_t head, Chunk<T>* rows,
                                           int chunks) {
  Chunk<T>* at = rows + static_cast<int64_t>(head) * chunks;
  Chunk<T> x = *at, sum = Chunk<T>::zero();
  int32_t after = next[head];
  while (after >= 0) {
    Chunk<T>* const there = rows + static_cast<int64_t>(after) * chunks;
    const Chunk<T> following = *there;
    after = next[after];
    sum.add(following);
    Chunk<T> blurred = x;
    blurred.add_scaled(T(0.5), sum);
    *at = blurred;
    sum = Chunk<T>::zero();
    sum.add(x);
    x = following;
    at = there;
  }
  x.add_scaled(T(0.5), sum);
  *at = x;
}

template <typename T>
__device__ __forceinline__ void blur_in_place(const PassLattice<T>& pass, int axis, T* rows,
                                              int chunks, BlockPlace place) {
  const RowShare mine = share_rows(chunks);
  if (mine.row >= mine.rows) return;
  const LatticeView<T>& lattice = pass.lattice;
  const int32_t *heads = lattice.heads_along(axis), *next = lattice.next_along(axis);
  const int64_t count = lattice.chain_count[axis], items = count * pass.copies;
  const int64_t stride = place.count * mine.rows;
  for (int64_t i = place.number * mine.rows + mine.row; i < items; i += stride) {
    const int64_t copy = pass.copies == 1 ? 0 : i / count;
    const int32_t head = heads[i - copy * count];
    Chunk<T>* own = as_chunks(rows) + copy * lattice.capacity * chunks;
    for (int c = mine.chunk; c < chunks; c += mine.lanes) blur_chain(next, head, own + c, chunks);
  }
}

template <typename T>
__device__ __forceinline__ void blur_to(const PassLattice<T>& pass, int axis, const T* source,
                                        T* target, int chunks, BlockPlace place) {
  const RowShare mine = share_rows(chunks);
  if (mine.row >= mine.rows) return;
  const int64_t capacity = pass.lattice.capacity;
  const int32_t *previous = pass.lattice.previous_along(axis),
                *next = pass.lattice.next_along(axis);
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

// The so manieth step of the blur of a round: nothing, where the lattice has no axis left.
template <typename T>
__device__ __forceinline__ void blur_step(const PassLattice<T>& pass, int round, int step,
                                          bool adjoint, int chunks, BlockPlace place) {
  const int axes = pass.lattice.vertices_per_point;
  if (step >= axes) return;
  const int axis = adjoint ? axes - 1 - step : step;
  const AxisPlan plan = plan_axis(pass, step, adjoint, pass.vertices() * pass.copies, chunks);
  T* rows = pass.rows(round, plan.moves);
  if (plan.in_place) {
    blur_in_place(pass, axis, rows, chunks, place);
  } else {
    blur_to(pass, axis, rows, pass.rows(round, plan.moves + 1), chunks, place);
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
