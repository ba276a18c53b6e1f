// What is done once, before the first iteration: the normalisation is folded into the point
// weights, and unaries go from planes to rows.
#pragma once

#include <cmath>

#include "normalization.h"
#include "pass.h"

namespace densecrf::inline DENSECRF_ISA {

// What a kernel's point weights and scales become. With n' = alpha n + 1e-20, n the filter of ones:
//   none       splat 1          slice alpha
//   before     splat 1/n'       slice alpha
//   after      splat 1          slice alpha/n'
//   symmetric  splat 1/sqrt n'  slice alpha/sqrt n'
// The adjoint exchanges before and after. Where both sides have the same factor up to a constant,
// its square root goes to either side and no scale is needed (`folded`). Messages are wanted in
// units of ln 2, like all logits of the passes.
template <typename T>
struct FoldKernel {
  const uint32_t* row;  // from the segment's first group on, like all that follows
  uint32_t* offset;     // where the passes find that row
  const T* raw_weight;
  const T* ones;  // [rows] of the segment's band
  T* weight;
  T* scale;  // [points], unused when folded
  int vertices;
  Normalization normalization;
  bool folded;
  T alpha;
  T response;  // alpha times all that a message is multiplied by besides the normalisation
};

// How far ahead the streams of the init pass are fetched: they are more than the machine follows by
// itself.
constexpr int64_t kAhead = 4 * kGroup;

template <typename T>
[[gnu::noinline]] void fold_group(const FoldKernel<T>& kernel, int64_t group, int64_t stride) {
  const int64_t at = group * kGroup * kernel.vertices;
  const auto units = static_cast<uint32_t>(static_cast<size_t>(stride) * sizeof(T) / kOffsetUnit);
  T total[kGroup] = {}, splat[kGroup], slice[kGroup];
  for (int r = 0; r < kernel.vertices; ++r) {
    const uint32_t* row = kernel.row + at + r * kGroup;
    const T* weight = kernel.raw_weight + at + r * kGroup;
    prefetch(row + kAhead * kernel.vertices);
    prefetch(weight + kAhead * kernel.vertices);
#pragma GCC unroll 1
    for (int q = 0; q < kGroup; ++q) total[q] += weight[q] * kernel.ones[row[q]];
  }
  for (int q = 0; q < kGroup; ++q) total[q] = kernel.alpha * total[q] + T(1e-20);
  side_factors(kernel.normalization, kernel.response, total, splat, slice);
  if (kernel.folded) {
    const T root = std::sqrt(kernel.response);
    for (int q = 0; q < kGroup; ++q) splat[q] *= root;
  } else {
    // The weights hold the splat's factor already.
    T* scale = kernel.scale + group * kGroup;
    for (int q = 0; q < kGroup; ++q) scale[q] = slice[q] / splat[q];
  }
  for (int r = 0; r < kernel.vertices; ++r) {
    const int64_t entry = at + r * kGroup;
    for (int q = 0; q < kGroup; ++q) {
      kernel.weight[entry + q] = kernel.raw_weight[entry + q] * splat[q];
    }
    for (int q = 0; q < kGroup; ++q) kernel.offset[entry + q] = kernel.row[entry + q] * units;
  }
}

// unary[q][c] = (logits[c][q] - max_c logits[c][q]) / ln 2 for the 16 points from `first` on;
// labels beyond `classes` get kNever, points beyond the last get zeros.
template <typename T>
HOST_DEVICE void load_unaries(const PassArguments<T>& pass, const T* logits, int64_t first,
                              T* columns) {
  constexpr int kLanes = kNativeLanes<T> < kGroup ? kNativeLanes<T> : kGroup;
  using V = Vec<T, kLanes>;
  const int64_t n = pass.points - first < kGroup ? pass.points - first : kGroup;
  for (int64_t c = 0; c < pass.classes; ++c) {
    const T* plane = logits + c * pass.points + first;
    T* column = columns + c * kGroup;
    prefetch(plane + kAhead);
    if (n == kGroup) {
      __builtin_memcpy(column, plane, kGroup * sizeof(T));
    } else {
      for (int64_t q = 0; q < kGroup; ++q) column[q] = q < n ? plane[q] : T(0);
    }
  }
  for (int part = 0; part < kGroup; part += kLanes) {
    V highest = load<V>(columns + part);
    for (int64_t c = 1; c < pass.classes; ++c) {
      highest = max(highest, load<V>(columns + c * kGroup + part));
    }
    for (int64_t c = 0; c < pass.classes; ++c) {
      T* column = columns + c * kGroup + part;
      store(column, max((load<V>(column) - highest) * kLog2E<T>, V{} + kNever<T>));
    }
    for (int64_t c = pass.classes; c < pass.stride; ++c) {
      store(columns + c * kGroup + part, V{} + kNever<T>);
    }
  }
  transpose(columns, kGroup, pass.stride, kGroup, pass.unary + first * pass.stride, pass.stride);
}

}  // namespace densecrf::inline DENSECRF_ISA
