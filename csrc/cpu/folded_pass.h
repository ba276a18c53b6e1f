// One pass over the points of a mean-field iteration where every kernel attracts with a scalar
// weight that is folded into the point weights: logits <- unary + sum_k slice_k, softmax, and the
// splat of the next iteration. Q itself stays in registers.
#pragma once

#include "fold.h"
#include "kernel_list.h"
#include "output.h"
#include "softmax.h"

namespace densecrf::inline DENSECRF_ISA {

// With kState, Q is left in pass.state as well. prepare(group) is called before a group's unaries
// are read; without kSlice there are no messages yet. Four points are in flight, one in each stage,
// so that the chain of operations on one point does not bound the speed.
template <int kFirst, int kSecond, bool kSlice, bool kState, typename T, int kWidth,
          typename Prepare>
HOST_DEVICE void splat_pass(const Labels<T, kWidth>& labels, const PassArguments<T>& pass,
                            const Segment<T>& segment, T* scratch, const Prepare& prepare) {
  using Chunk = typename Labels<T, kWidth>::Chunk;
  constexpr int kFixed = kWidth > 0 ? 3 : 1;
  constexpr int kLag = 3;  // stages behind the first
  Chunk fixed[kFixed];
  auto* spare = reinterpret_cast<Chunk*>(scratch + 2 * kGroup * labels.stride());
  Chunk* logits = kWidth > 0 ? fixed : spare;
  Chunk* terms = kWidth > 0 ? fixed + 1 : spare + labels.chunks();
  Chunk* q_values = kWidth > 0 ? fixed + 2 : spare + 2 * labels.chunks();
  for (int i = 0; i < labels.chunks(); ++i) logits[i] = terms[i] = q_values[i] = Chunk::zero();
  T inverse = T(0);
  const KernelList<T, kFirst, kSecond> kernels(segment);
  const T* unary = pass.unary + segment.first_point * labels.stride();
  const auto logits_of = [&](int64_t group, int q, Chunk* x) ALWAYS_INLINE {
    if constexpr (kSlice) {
      slice_all(labels, kernels, unary, group, q, x);
    } else {
      labels.load(x, unary + (group * kGroup + q) * labels.stride());
    }
  };

  for (int64_t g = 0; g < segment.groups; ++g) {
    prepare(g);
    clear_new_rows(segment, g, labels.stride());
    for (int q = 0; q < kGroup + kLag; ++q) {
      if (q >= 3) {
        labels.multiply(q_values, inverse);
        if constexpr (kState) {
          const int64_t point = segment.first_point + g * kGroup + q - 3;
          labels.store(q_values, pass.state + point * labels.stride());
        }
        splat_all(labels, kernels, g, q - 3, q_values);
      }
      if (q >= 2 && q < kGroup + 2) {
        T sum = sum_of(labels, terms);
        if (!is_safe(sum)) {  // rare: the logits are computed again
          logits_of(g, q - 2, terms);
          sum = shifted_exponentials(labels, terms).sum;
        }
        inverse = T(1) / sum;
        labels.copy(terms, q_values);
      }
      if (q >= 1 && q < kGroup + 1) {
        labels.copy(logits, terms);
        exponentials(labels, terms);
      }
      if (q < kGroup) logits_of(g, q, logits);
    }
  }
}

// The pass of every iteration but the last.
template <typename T, int kWidth, int kFirst, int kSecond>
void folded_pass(const PassArguments<T>& pass, const Segment<T>& segment, T* scratch) {
  const Labels<T, kWidth> labels{pass.stride};
  const auto nothing = [](int64_t) {};
  if (pass.state == nullptr) {
    splat_pass<kFirst, kSecond, true, false>(labels, pass, segment, scratch, nothing);
  } else {
    splat_pass<kFirst, kSecond, true, true>(labels, pass, segment, scratch, nothing);
  }
}

// The pass before the first iteration.
template <typename T, int kWidth, int kFirst, int kSecond>
void folded_init_pass(const PassArguments<T>& pass, const Segment<T>& segment,
                      const FoldKernel<T>* folds, const T* logits, T* scratch) {
  const Labels<T, kWidth> labels{pass.stride};
  T* columns = scratch + kGroup * labels.stride();
  const auto prepare = [&](int64_t g) ALWAYS_INLINE {
    load_unaries(pass, logits, segment.first_point + g * kGroup, columns);
    for (int k = 0; k < segment.kernel_count; ++k) fold_group(folds[k], g, labels.stride());
  };
  if (pass.state == nullptr) {
    splat_pass<kFirst, kSecond, false, false>(labels, pass, segment, scratch, prepare);
  } else {
    splat_pass<kFirst, kSecond, false, true>(labels, pass, segment, scratch, prepare);
  }
}

// The last pass: the result is written instead of splatted.
template <typename T, int kWidth, int kFirst, int kSecond>
void folded_last_pass(const PassArguments<T>& pass, const Segment<T>& segment, T* scratch) {
  const Labels<T, kWidth> labels{pass.stride};
  using Chunk = typename Labels<T, kWidth>::Chunk;
  T* values = scratch;                             // [16, stride]
  T* columns = values + kGroup * labels.stride();  // [stride, 16]
  Chunk fixed[2];
  auto* spare = reinterpret_cast<Chunk*>(columns + kGroup * labels.stride());
  Chunk* x = kWidth > 0 ? fixed : spare;
  Chunk* saved = kWidth > 0 ? fixed + 1 : spare + labels.chunks();
  const KernelList<T, kFirst, kSecond> kernels(segment);
  const T* unary = pass.unary + segment.first_point * labels.stride();
  for (int64_t g = 0; g < segment.groups; ++g) {
    for (int q = 0; q < kGroup; ++q) {
      slice_all(labels, kernels, unary, g, q, x);
      if (pass.output == Output::kProbabilities) softmax(labels, x);
      if (pass.output == Output::kLogits) log_softmax(labels, x, saved);
      labels.store(x, values + q * labels.stride());
    }
    write_result(pass, segment.first_point + g * kGroup, values, columns);
  }
}

}  // namespace densecrf::inline DENSECRF_ISA
