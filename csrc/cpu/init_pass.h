// The pass before the first iteration: folds the normalisation into the point weights, brings the
// unaries from planes to rows, and splats the first Q.
#pragma once

#include "softmax.h"

namespace densecrf::inline DENSECRF_ISA {

// What a kernel's point weights and scales become. With n' = alpha n + 1e-20, n the filter of ones:
//   none       splat 1          slice alpha
//   before     splat 1/n'       slice alpha
//   after      splat 1          slice alpha/n'
//   symmetric  splat 1/sqrt n'  slice alpha/sqrt n'
// The adjoint exchanges before and after. Where both sides have the same factor up to a constant,
// its square root goes to either side and no scale is needed (`folded`). Messages are wanted in units
// of ln 2, like all logits of the passes.
template <typename T>
struct FoldKernel {
  const uint32_t* row;   // from the segment's first group on, like all that follows
  uint32_t* offset;      // where the passes find that row
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
HOST_DEVICE void fold_group(const FoldKernel<T>& kernel, int64_t group, int64_t stride) {
  const int64_t at = group * kGroup * kernel.vertices;
  const auto units = static_cast<uint32_t>(static_cast<size_t>(stride) * sizeof(T) / kOffsetUnit);
  T n[kGroup] = {}, splat[kGroup];
  for (int r = 0; r < kernel.vertices; ++r) {
    for (int q = 0; q < kGroup; ++q) {
      const int64_t entry = at + r * kGroup + q;
      n[q] += kernel.raw_weight[entry] * kernel.ones[kernel.row[entry]];
    }
  }
  for (int q = 0; q < kGroup; ++q) {
    const T total = kernel.alpha * n[q] + T(1e-20);
    T factor = T(1), slice = kernel.alpha * kernel.attraction * kLog2E<T>;
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
      splat[q] = factor * std::sqrt(kernel.alpha * kernel.attraction * kLog2E<T>);
    } else {
      splat[q] = factor;
      kernel.scale[group * kGroup + q] = slice / factor;  // the weights hold `factor` already
    }
  }
  for (int r = 0; r < kernel.vertices; ++r) {
    for (int q = 0; q < kGroup; ++q) {
      const int64_t entry = at + r * kGroup + q;
      kernel.weight[entry] = kernel.raw_weight[entry] * splat[q];
      kernel.offset[entry] = kernel.row[entry] * units;
    }
  }
}

// unary[q][c] = (logits[c][q] - max_c logits[c][q]) / ln 2 for the 16 points from `first` on; labels beyond
// `classes` get kNever, points beyond the last get zeros.
template <typename T>
HOST_DEVICE void load_unaries(const PassArguments<T>& pass, const T* logits, int64_t first,
                              T* columns) {
  constexpr int kLanes = kNativeLanes<T> < kGroup ? kNativeLanes<T> : kGroup;
  using V = Vec<T, kLanes>;
  const int64_t n = pass.points - first < kGroup ? pass.points - first : kGroup;
  for (int64_t c = 0; c < pass.classes; ++c) {
    const T* plane = logits + c * pass.points + first;
    T* column = columns + c * kGroup;
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

template <typename T, int kWidth>
void init_pass(const PassArguments<T>& pass, const Segment<T>& segment, const FoldKernel<T>* folds,
               const T* logits, bool splat, T* scratch) {
  const Labels<T, kWidth> labels{pass.stride};
  using Chunk = typename Labels<T, kWidth>::Chunk;
  T* columns = scratch + kGroup * labels.stride();
  Chunk fixed[2];
  auto* spare = reinterpret_cast<Chunk*>(columns + kGroup * labels.stride());
  Chunk* x = kWidth > 0 ? fixed : spare;
  Chunk* saved = kWidth > 0 ? fixed + 1 : spare + labels.chunks();
  for (int64_t g = 0; g < segment.groups; ++g) {
    const int64_t first = segment.first_point + g * kGroup;
    load_unaries(pass, logits, first, columns);
    if (splat) {
      clear_new_rows(segment, g, labels.stride());
      for (int k = 0; k < segment.kernel_count; ++k) fold_group(folds[k], g, labels.stride());
    }
    for (int q = 0; q < kGroup; ++q) {
      labels.load(x, pass.unary + (first + q) * labels.stride());
      softmax(labels, x, saved);
      if (pass.kept != nullptr) labels.store(x, pass.kept + (first + q) * labels.stride());
      for (int k = 0; splat && k < segment.kernel_count; ++k) {
        const PassKernel<T>& kernel = segment.kernels[k];
        splat_point<0>(labels, kernel, g * kGroup * kernel.vertices + q, x);
      }
    }
  }
}

}  // namespace densecrf::inline DENSECRF_ISA
