// The blur over all axes, in place: rows of a vertex are the values of its channels.
//
// new = old + (previous + next) / 2 along every chain (taps 1/2, 1, 1/2; a missing neighbour counts
// as zero), axes 0 ... d in this order, or in reverse for the adjoint: the order is part of the
// result, because vertices that no point touches cut paths.
#pragma once

#include "parallel.h"
#include "sections.h"
#include "vector.h"

namespace densecrf::inline DENSECRF_ISA {

// Blurs kParts vectors of every row of the chain entries [begin, end): each row is read and written
// once, its predecessor and successor stay in registers.
template <typename T, int kLanes, int kParts>
void blur_chains(const uint32_t* chain, int64_t begin, int64_t end, T* rows, int64_t stride) {
  using V = Vec<T, kLanes>;
  if (begin == end) return;
  constexpr int kAhead = 12;
  const V zero{};
  const T half = T(0.5);
  V previous[kParts], current[kParts];
  T* at = rows + (chain[begin] >> 1) * stride;
#pragma GCC unroll 8
  for (int i = 0; i < kParts; ++i) {
    previous[i] = zero;
    current[i] = load<V>(at + i * kLanes);
  }
  for (int64_t e = begin; e < end; ++e) {
    const char* ahead = reinterpret_cast<const char*>(rows + (chain[e + kAhead] >> 1) * stride);
#pragma GCC unroll 4
    for (int64_t line = 0; line < static_cast<int64_t>(kParts * sizeof(V)); line += 64) {
      prefetch(ahead + line);
    }
    // At a chain's end the next entry is another chain's head: loaded, not used.
    const T inside = (chain[e] & 1) != 0 ? T(0) : T(1);
    T* after = rows + (chain[e + 1] >> 1) * stride;
#pragma GCC unroll 8
    for (int i = 0; i < kParts; ++i) {
      const V next = load<V>(after + i * kLanes);
      const V sum = previous[i] + (inside != T(0) ? next : zero);
      store(at + i * kLanes, current[i] + sum * half);
      previous[i] = inside != T(0) ? current[i] : zero;
      current[i] = next;
    }
    at = after;
  }
}

// rows [lattice.rows, stride]: the first kParts * kLanes values of every row.
template <typename T, int kLanes, int kParts>
void blur(const LatticeView<T>& lattice, T* rows, int64_t stride, bool reverse,
          const cpu::Executor& executor) {
  using V = Vec<T, kLanes>;
  const int tasks = lattice.parts;
  const auto for_copies = [&](auto&& body) {
    if (lattice.header->copies == 0) return;
    parallel(executor, tasks, [&](int part) {
      for (int64_t i = lattice.copy_cuts[part]; i < lattice.copy_cuts[part + 1]; ++i) {
        body(rows + lattice.copies[i].primary * stride, rows + lattice.copies[i].copy * stride);
      }
    });
  };
  for_copies([](T* primary, T* copy) {
#pragma GCC unroll 8
    for (int i = 0; i < kParts * kLanes; i += kLanes) {
      store(primary + i, load<V>(primary + i) + load<V>(copy + i));
    }
  });
  const int axes = lattice.vertices_per_point;
  for (int step = 0; step < axes; ++step) {
    const int axis = reverse ? axes - 1 - step : step;
    const uint32_t* chain = lattice.chains + axis * lattice.chain_stride;
    const int64_t* cuts = lattice.chain_cuts + axis * (tasks + 1);
    parallel(executor, tasks, [&](int part) {
      blur_chains<T, kLanes, kParts>(chain, cuts[part], cuts[part + 1], rows, stride);
    });
  }
  for_copies([](T* primary, T* copy) {
#pragma GCC unroll 8
    for (int i = 0; i < kParts * kLanes; i += kLanes) store(copy + i, load<V>(primary + i));
  });
}

}  // namespace densecrf::inline DENSECRF_ISA
