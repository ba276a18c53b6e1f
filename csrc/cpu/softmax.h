// Softmax over the labels of a point. Logits of the passes are in units of ln 2, so that
// exp(logit ln 2) = 2^logit needs no multiplication.
#pragma once

#include <cmath>

#include "pass.h"

namespace densecrf::inline DENSECRF_ISA {

// x <- 2^x for |x| far below 1e13: the maximum is not subtracted, and is_safe(sum) tells whether
// that did.
template <typename T, int kWidth>
HOST_DEVICE void exponentials(const Labels<T, kWidth>& labels,
                              typename Labels<T, kWidth>::Chunk* x) {
  for (int i = 0; i < labels.chunks(); ++i) x[i] = x[i].power_of_two_near();
}

template <typename T, int kWidth>
HOST_DEVICE T sum_of(const Labels<T, kWidth>& labels, const typename Labels<T, kWidth>::Chunk* x) {
  auto sum = x[0];
  for (int i = 1; i < labels.chunks(); ++i) sum += x[i];
  return sum.sum();
}

// Whether a sum of exponentials neither overflowed nor lost its largest term; false for NaN.
template <typename T>
HOST_DEVICE bool is_safe(T sum) {
  return __builtin_expect(sum > T(1e-30) && sum < T(1e30), 1);
}

template <typename T>
struct ShiftedSum {
  T sum;
  T shift;
};

// x <- 2^(x - max x); returns the sum and the maximum.
template <typename T, int kWidth>
HOST_DEVICE ShiftedSum<T> shifted_exponentials(const Labels<T, kWidth>& labels,
                                               typename Labels<T, kWidth>::Chunk* x) {
  auto highest = x[0];
  for (int i = 1; i < labels.chunks(); ++i) highest = highest.larger(x[i]);
  const T shift = highest.maximum();
  for (int i = 0; i < labels.chunks(); ++i) x[i] = (x[i] - shift).power_of_two();
  return {sum_of(labels, x), shift};
}

// x <- softmax(x ln 2), for any x.
template <typename T, int kWidth>
HOST_DEVICE void softmax(const Labels<T, kWidth>& labels, typename Labels<T, kWidth>::Chunk* x) {
  labels.multiply(x, T(1) / shifted_exponentials(labels, x).sum);
}

// x <- log softmax(x ln 2), for any x; `saved` is scratch.
template <typename T, int kWidth>
HOST_DEVICE void log_softmax(const Labels<T, kWidth>& labels, typename Labels<T, kWidth>::Chunk* x,
                             typename Labels<T, kWidth>::Chunk* saved) {
  labels.copy(x, saved);
  const ShiftedSum<T> total = shifted_exponentials(labels, x);
  const T log_sum = std::log(total.sum);
  for (int i = 0; i < labels.chunks(); ++i) {
    x[i] = (saved[i] - total.shift) * kLn2<T> - log_sum;
  }
}

}  // namespace densecrf::inline DENSECRF_ISA
