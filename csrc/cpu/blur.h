// The blur over all axes, in place: rows of a vertex are the values of its channels.
//
// new = old + (previous + next) / 2 along every chain (taps 1/2, 1, 1/2; a missing neighbour counts
// as zero), axes 0 ... d in this order, or in reverse for the adjoint: the order is part of the
// result, because vertices that no point touches cut paths.
#pragma once

#include "parallel.h"
#include "row.h"
#include "sections.h"

namespace densecrf::inline DENSECRF_ISA {

// Blurs kWidth values of every row of the chain entries [begin, end): each row is read and written
// once, its predecessor and successor stay in registers.
template <typename T, int kWidth>
void blur_chains(const uint32_t* chain, int64_t begin, int64_t end, T* rows, int64_t stride) {
  using Values = Row<T, kWidth>;
  if (begin == end) return;
  constexpr int64_t kAhead = 12, kLine = 64 / sizeof(T);
  T* at = rows + (chain[begin] >> 1) * stride;
  Values previous = Values::zero(), current = Values::load(at);
  for (int64_t e = begin; e < end - 1; ++e) {
    const T* ahead = rows + (chain[e + kAhead] >> 1) * stride;
#pragma GCC unroll 4
    for (int64_t i = 0; i < kWidth; i += kLine) prefetch_write(ahead + i);
    // At a chain's end the next entry is another chain's head: loaded, not used.
    const bool inside = (chain[e] & 1) == 0;
    T* after = rows + (chain[e + 1] >> 1) * stride;
    const Values next = Values::load(after);
    (current + (previous + next.keep_if(inside)) * T(0.5)).store(at);
    previous = current.keep_if(inside);
    current = next;
    at = after;
  }
  // A list is cut at chain ends: what follows the last entry is another task's.
  (current + previous * T(0.5)).store(at);
}

// rows [lattice.rows, stride]: the first kWidth values of every row.
template <typename T, int kWidth>
void blur(const LatticeView<T>& lattice, T* rows, int64_t stride, bool reverse,
          const cpu::Executor& executor) {
  using Values = Row<T, kWidth>;
  const int tasks = lattice.parts;
  const auto for_copies = [&](auto&& body) {
    if (lattice.header->copies == 0) return;
    parallel(executor, tasks, [&](int part) {
      for (int64_t i = lattice.copy_cuts[part]; i < lattice.copy_cuts[part + 1]; ++i) {
        body(rows + lattice.copies[i].primary * stride, rows + lattice.copies[i].copy * stride);
      }
    });
  };
  for_copies(
      [](T* primary, T* copy) { (Values::load(primary) + Values::load(copy)).store(primary); });
  const int axes = lattice.vertices_per_point;
  for (int step = 0; step < axes; ++step) {
    const int axis = reverse ? axes - 1 - step : step;
    const uint32_t* chain = lattice.chains + axis * lattice.chain_stride;
    const int64_t* cuts = lattice.chain_cuts + axis * (tasks + 1);
    parallel(executor, tasks, [&](int part) {
      blur_chains<T, kWidth>(chain, cuts[part], cuts[part + 1], rows, stride);
    });
  }
  for_copies([](T* primary, T* copy) { Values::load(primary).store(copy); });
}

}  // namespace densecrf::inline DENSECRF_ISA
