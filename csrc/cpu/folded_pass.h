// One pass over the points of a mean-field iteration where every kernel attracts with a scalar
// weight that is folded into the point weights: logits <- unary + sum_k slice_k, softmax, and the
// splat of the next iteration. Q itself stays in registers.
#pragma once

#include "output.h"
#include "softmax.h"

namespace densecrf::inline DENSECRF_ISA {

// The kernels of a segment: two with kFirst and kSecond vertices per point, held in the object
// itself so that no store to a row can seem to change them, or (kFirst = 0) any list.
template <typename T, int kFirst, int kSecond>
struct KernelList {
  PassKernel<T> first{}, second{};
  const PassKernel<T>* all;
  int count;

  HOST_DEVICE explicit KernelList(const Segment<T>& segment)
      : all(segment.kernels), count(segment.kernel_count) {
    if constexpr (kFirst > 0) {
      first = segment.kernels[0];
      second = segment.kernels[1];
    }
  }

  // visit<vertices>(kernel), vertices 0 where only the kernel knows.
  template <typename Visit>
  HOST_DEVICE void for_each(const Visit& visit) const {
    if constexpr (kFirst > 0) {
      visit.template operator()<kFirst>(first);
      visit.template operator()<kSecond>(second);
    } else {
      for (int k = 0; k < count; ++k) visit.template operator()<0>(all[k]);
    }
  }
};

// x <- unary + the messages of all kernels to point q of the group.
template <typename T, int kWidth, int kFirst, int kSecond>
HOST_DEVICE void slice_all(const Labels<T, kWidth>& labels,
                           const KernelList<T, kFirst, kSecond>& kernels, const T* unary,
                           int64_t group, int q, typename Labels<T, kWidth>::Chunk* x) {
  constexpr int64_t kLine = 64 / sizeof(T);
  const T* at = unary + (group * kGroup + q) * labels.stride();
  prefetch(at + kGroup * labels.stride());
  prefetch(at + kGroup * labels.stride() + kLine);
  labels.load(x, at);
  kernels.for_each([&]<int kVertices>(const PassKernel<T>& kernel) ALWAYS_INLINE {
    const int vertices = kVertices > 0 ? kVertices : kernel.vertices;
    slice_point<kVertices>(labels, kernel, group * kGroup * vertices + q, x);
  });
}

template <typename T, int kWidth, int kFirst, int kSecond>
HOST_DEVICE void splat_all(const Labels<T, kWidth>& labels,
                           const KernelList<T, kFirst, kSecond>& kernels, int64_t group, int q,
                           const typename Labels<T, kWidth>::Chunk* x) {
  kernels.for_each([&]<int kVertices>(const PassKernel<T>& kernel) ALWAYS_INLINE {
    const int vertices = kVertices > 0 ? kVertices : kernel.vertices;
    splat_point<kVertices>(labels, kernel, group * kGroup * vertices + q, x);
  });
}

// Four points are in flight, one in each stage, so that the chain of operations on one point does
// not bound the speed.
template <typename T, int kWidth, int kFirst, int kSecond>
void folded_pass(const PassArguments<T>& pass, const Segment<T>& segment, T* scratch) {
  const Labels<T, kWidth> labels{pass.stride};
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

  for (int64_t g = 0; g < segment.groups; ++g) {
    clear_new_rows(segment, g, labels.stride());
    for (int q = 0; q < kGroup + kLag; ++q) {
      if (q >= 3) {
        labels.multiply(q_values, inverse);
        splat_all(labels, kernels, g, q - 3, q_values);
      }
      if (q >= 2 && q < kGroup + 2) {
        T sum = sum_of(labels, terms);
        if (!is_safe(sum)) {  // rare: the logits are computed again
          slice_all(labels, kernels, unary, g, q - 2, terms);
          sum = shifted_exponentials(labels, terms).sum;
        }
        inverse = T(1) / sum;
        labels.copy(terms, q_values);
      }
      if (q >= 1 && q < kGroup + 1) {
        labels.copy(logits, terms);
        exponentials(labels, terms);
      }
      if (q < kGroup) slice_all(labels, kernels, unary, g, q, logits);
    }
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
      if (pass.output == cpu::Output::kProbabilities) softmax(labels, x, saved);
      if (pass.output == cpu::Output::kLogits) log_softmax(labels, x, saved);
      labels.store(x, values + q * labels.stride());
    }
    write_result(pass, segment.first_point + g * kGroup, values, columns);
  }
}

}  // namespace densecrf::inline DENSECRF_ISA
