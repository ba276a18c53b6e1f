// The pass before the first iteration: folds the normalisation into the point weights, brings the
// unaries from planes to rows, and splats the first Q.
#pragma once

#include "pixel_pass.h"

namespace densecrf::inline DENSECRF_ISA {

// What a kernel's point weights and scales become. With n' = alpha n + 1e-20, n the filter of ones:
//   none       splat 1          slice alpha
//   before     splat 1/n'       slice alpha
//   after      splat 1          slice alpha/n'
//   symmetric  splat 1/sqrt n'  slice alpha/sqrt n'
// The adjoint exchanges before and after. Where both sides have the same factor up to a constant,
// its square root goes to either side and no scale is needed (`folded`).
template <typename T>
struct FoldKernel {
  const uint32_t* row;   // from the segment's first group on, like all that follows
  const T* raw_weight;
  const T* ones;         // [rows] of the segment's band
  T* weight;
  T* scale;              // [points], unused when folded
  int vertices;
  cpu::Normalization normalization;
  bool folded;
  T alpha;
  T attraction;          // Potts weight, 1 for other compatibilities
};

template <typename T>
HOST_DEVICE void fold_group(const FoldKernel<T>& kernel, int64_t group) {
  const int64_t at = group * kGroup * kernel.vertices;
  T n[kGroup] = {}, splat[kGroup];
  for (int r = 0; r < kernel.vertices; ++r) {
    for (int q = 0; q < kGroup; ++q) {
      const int64_t entry = at + r * kGroup + q;
      n[q] += kernel.raw_weight[entry] * kernel.ones[kernel.row[entry]];
    }
  }
  for (int q = 0; q < kGroup; ++q) {
    const T total = kernel.alpha * n[q] + T(1e-20);
    T factor = T(1), slice = kernel.alpha * kernel.attraction;
    switch (kernel.normalization) {
      case cpu::Normalization::kNone: break;
      case cpu::Normalization::kBefore: factor = T(1) / total; break;
      case cpu::Normalization::kAfter: slice = slice / total; break;
      case cpu::Normalization::kSymmetric:
        factor = T(1) / std::sqrt(total);
        slice = slice * factor;
        break;
    }
    if (kernel.folded) {
      splat[q] = factor * std::sqrt(kernel.alpha * kernel.attraction);
    } else {
      splat[q] = factor;
      kernel.scale[group * kGroup + q] = slice;
    }
  }
  for (int r = 0; r < kernel.vertices; ++r) {
    for (int q = 0; q < kGroup; ++q) {
      const int64_t entry = at + r * kGroup + q;
      kernel.weight[entry] = kernel.raw_weight[entry] * splat[q];
    }
  }
}

// unary[q][c] = logits[c][q] - max_c logits[c][q] for the 16 points from `first` on; labels beyond
// `classes` get kNever, points beyond the last get zeros.
template <typename T>
HOST_DEVICE void load_unaries(const PassArguments<T>& pass, const T* logits, int64_t first,
                              T* columns) {
  using V = Vec<T, kGroup>;
  const int64_t n = pass.points - first < kGroup ? pass.points - first : kGroup;
  V highest{};
  for (int64_t c = 0; c < pass.classes; ++c) {
    V value{};
    const T* plane = logits + c * pass.points + first;
    if (n == kGroup) {
      value = load<V>(plane);
    } else {
      for (int64_t q = 0; q < n; ++q) value[q] = plane[q];
    }
    highest = c == 0 ? value : max(highest, value);
    store(columns + c * kGroup, value);
  }
  for (int64_t c = 0; c < pass.stride; ++c) {
    V value = V{} + kNever<T>;
    if (c < pass.classes) value = load<V>(columns + c * kGroup) - highest;
    store(columns + c * kGroup, value);
  }
  transpose(columns, kGroup, pass.stride, kGroup, pass.unary + first * pass.stride, pass.stride);
}

template <typename T, int kLanes, int kParts>
void init_pass(const PassArguments<T>& pass, const Segment<T>& segment, const FoldKernel<T>* folds,
               const T* logits, bool splat, T* scratch) {
  using V = Vec<T, kLanes>;
  const int parts = kParts > 0 ? kParts : static_cast<int>(pass.stride / kLanes);
  const int64_t stride = kParts > 0 ? kParts * kLanes : pass.stride;
  T* columns = scratch + kGroup * stride;
  V fixed[2][kParts > 0 ? kParts : 1];
  V* spare = reinterpret_cast<V*>(columns + kGroup * stride);
  V* x = kParts > 0 ? fixed[0] : spare;
  V* saved = kParts > 0 ? fixed[1] : spare + parts;
  for (int64_t g = 0; g < segment.groups; ++g) {
    const int64_t first = segment.first_point + g * kGroup;
    load_unaries(pass, logits, first, columns);
    if (splat) {
      clear_new_rows(segment, g, stride);
      for (int k = 0; k < segment.kernel_count; ++k) fold_group(folds[k], g);
    }
    for (int q = 0; q < kGroup; ++q) {
      const T* unary = pass.unary + (first + q) * stride;
      for (int i = 0; i < parts; ++i) x[i] = load<V>(unary + i * kLanes);
      softmax<T, kLanes, false>(x, parts, saved);
      if (pass.kept != nullptr) {
        for (int i = 0; i < parts; ++i) {
          store(pass.kept + (first + q) * stride + i * kLanes, x[i]);
        }
      }
      for (int k = 0; splat && k < segment.kernel_count; ++k) {
        const PassKernel<T>& kernel = segment.kernels[k];
        const int64_t record = g * kGroup * kernel.vertices + q;
        splat_point<T, kLanes, kParts, 0>(kernel, kernel.row + record, kernel.weight + record,
                                          stride, x, parts);
      }
    }
  }
}

}  // namespace densecrf::inline DENSECRF_ISA
