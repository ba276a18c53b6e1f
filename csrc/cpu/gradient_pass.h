// One pass over the points of mean field's backward: from dL/dz of an iteration to that of the
// iteration before.
//
// An iteration is z = logits - sum_k C_k F_k(Q), S = softmax(z), Q' = (1 - a) S + a Q with damping
// a. Given g = dL/dz, splatted and blurred by the adjoint of every filter, a pass slices
// m_k = F_k' g, and with H = dL/dQ, U = dL/dQ of damping alone (kept in `carry`),
//
//   dL/dC_k -= m_k Q^T      H = -sum_k C_k^T m_k + U
//   g <- S ((1 - a) H - <S, (1 - a) H>)      U <- a H      dL/dlogits += g
#pragma once

#include "kernel_list.h"
#include "output.h"
#include "softmax.h"

namespace densecrf::inline DENSECRF_ISA {

template <typename T>
struct GradientPass {
  PassArguments<T> common;  // points, classes, stride, and where the gradient of the logits goes
  const T* q;               // [padded points, stride] the iteration's Q
  const T* earlier;         // Q of the iteration before; null in the first, or without damping
  T* total;                 // [padded points, stride] gradient of the logits so far
  T* carry;                 // [padded points, stride] U, or null without damping
  T damping;
};

// A kernel's share of a span: products of 16 points, in the passes' precision, and their sums.
template <typename T>
struct WeightSums {
  T* group;       // [stride], or of a matrix [classes, stride]
  double* total;  // likewise
  int64_t count;
};

// x <- x - C^T m of one kernel, m the sliced message; sums <- sums - m q^T.
template <typename T, int kWidth>
HOST_DEVICE void add_gradient(const Labels<T, kWidth>& labels, const PassKernel<T>& kernel,
                              int64_t classes, const typename Labels<T, kWidth>::Chunk* message,
                              const typename Labels<T, kWidth>::Chunk* q,
                              typename Labels<T, kWidth>::Chunk* x, T* sums) {
  using Chunk = typename Labels<T, kWidth>::Chunk;
  if (kernel.compatibility != Compatibility::kMatrix) {
    for (int i = 0; i < labels.chunks(); ++i) {
      T* sum = sums + i * labels.kChunk;
      (Chunk::load(sum) + message[i] * q[i]).store(sum);
      x[i] += message[i] * Chunk::load(kernel.label_weight + i * labels.kChunk);
    }
    return;
  }
  for (int64_t c = 0; c < classes; ++c) {
    const T value = reinterpret_cast<const T*>(message)[c];
    const T* row = kernel.label_weight + c * labels.stride();
    T* sum = sums + c * labels.stride();
    for (int i = 0; i < labels.chunks(); ++i) {
      x[i].add_scaled(value, row + i * labels.kChunk);
      q[i].add_scaled_to(-value, sum + i * labels.kChunk);
    }
  }
}

template <typename T>
HOST_DEVICE void add_up(const WeightSums<T>& sums) {
  for (int64_t i = 0; i < sums.count; ++i) sums.total[i] += static_cast<double>(sums.group[i]);
  __builtin_memset(sums.group, 0, static_cast<size_t>(sums.count) * sizeof(T));
}

// x <- s (x - <s, x>): the gradient of z from that of s = softmax(z).
template <typename T, int kWidth>
HOST_DEVICE void through_softmax(const Labels<T, kWidth>& labels,
                                 const typename Labels<T, kWidth>::Chunk* s,
                                 typename Labels<T, kWidth>::Chunk* x) {
  auto products = s[0] * x[0];
  for (int i = 1; i < labels.chunks(); ++i) products += s[i] * x[i];
  const T mean = products.sum();
  for (int i = 0; i < labels.chunks(); ++i) x[i] = s[i] * (x[i] - mean);
}

// s <- softmax(z) = (Q' - a Q) / (1 - a), from s = Q' and the Q before.
template <typename T, int kWidth>
HOST_DEVICE void undamp(const Labels<T, kWidth>& labels, T damping, const T* earlier,
                        typename Labels<T, kWidth>::Chunk* s) {
  using Chunk = typename Labels<T, kWidth>::Chunk;
  const T scale = T(1) / (T(1) - damping);
  for (int i = 0; i < labels.chunks(); ++i) {
    s[i] = (s[i] - Chunk::load(earlier + i * labels.kChunk) * damping) * scale;
  }
}

// kSplat: another iteration comes before this one. Scratch: see Labels::scratch.
template <typename T, int kWidth, int kFirst, int kSecond, bool kSplat>
void gradient_pass(const GradientPass<T>& pass, const Segment<T>& segment,
                   const WeightSums<T>* sums, T* scratch) {
  const Labels<T, kWidth> labels{pass.common.stride};
  using Chunk = typename Labels<T, kWidth>::Chunk;
  T* values = scratch;                             // [16, stride]
  T* columns = values + kGroup * labels.stride();  // [stride, 16]
  Chunk fixed[3];
  auto* spare = reinterpret_cast<Chunk*>(columns + kGroup * labels.stride());
  Chunk* q = kWidth > 0 ? fixed : spare;
  Chunk* message = kWidth > 0 ? fixed + 1 : spare + labels.chunks();
  Chunk* x = kWidth > 0 ? fixed + 2 : spare + 2 * labels.chunks();
  const KernelList<T, kFirst, kSecond> kernels(segment);
  for (int64_t g = 0; g < segment.groups; ++g) {
    if constexpr (kSplat) clear_new_rows(segment, g, labels.stride());
    const int64_t first = segment.first_point + g * kGroup;
    for (int p = 0; p < kGroup; ++p) {
      const int64_t at = (first + p) * labels.stride();
      constexpr int64_t kLine = 64 / sizeof(T);
      for (int64_t i = 0; i < 2; ++i) {
        prefetch(pass.q + at + kGroup * labels.stride() + i * kLine);
        prefetch_write(pass.total + at + kGroup * labels.stride() + i * kLine);
      }
      labels.load(q, pass.q + at);
      if (pass.carry != nullptr) {
        labels.load(x, pass.carry + at);
      } else {
        for (int i = 0; i < labels.chunks(); ++i) x[i] = Chunk::zero();
      }
      int k = 0;
      kernels.for_each([&]<int kVertices>(const PassKernel<T>& kernel) ALWAYS_INLINE {
        const int vertices = kVertices > 0 ? kVertices : kernel.vertices;
        for (int i = 0; i < labels.chunks(); ++i) message[i] = Chunk::zero();
        slice_point<kVertices>(labels, kernel, g * kGroup * vertices + p, message);
        if (kernel.scale != nullptr) labels.multiply(message, kernel.scale[g * kGroup + p]);
        add_gradient(labels, kernel, pass.common.classes, message, q, x, sums[k].group);
        ++k;
      });
      if (pass.earlier != nullptr) undamp(labels, pass.damping, pass.earlier + at, q);
      if (kSplat && pass.carry != nullptr) {
        for (int i = 0; i < labels.chunks(); ++i) {
          (x[i] * pass.damping).store(pass.carry + at + i * labels.kChunk);
        }
        labels.multiply(x, T(1) - pass.damping);
      }
      through_softmax(labels, q, x);
      if constexpr (kSplat) {
        kernels.for_each([&]<int kVertices>(const PassKernel<T>& kernel) ALWAYS_INLINE {
          const int vertices = kVertices > 0 ? kVertices : kernel.vertices;
          splat_point<kVertices>(labels, kernel, g * kGroup * vertices + p, x);
        });
      }
      for (int i = 0; i < labels.chunks(); ++i)
        x[i] += Chunk::load(pass.total + at + i * labels.kChunk);
      labels.store(x, kSplat ? pass.total + at : values + p * labels.stride());
    }
    for (int k = 0; k < segment.kernel_count; ++k) add_up(sums[k]);
    if constexpr (!kSplat) write_result(pass.common, first, values, columns);
  }
}

// rows[16, stride] <- the values of 16 points from `first` on of planes [classes, points]; zeros
// beyond the last class and the last point.
template <typename T>
HOST_DEVICE void load_group(const PassArguments<T>& pass, const T* planes, int64_t first,
                            T* columns, T* rows) {
  const int64_t left = pass.points - first, n = left < kGroup ? left : kGroup;
  __builtin_memset(columns, 0, static_cast<size_t>(pass.stride) * kGroup * sizeof(T));
  for (int64_t c = 0; c < pass.classes; ++c) {
    const T* plane = planes + c * pass.points + first;
    prefetch(plane + kAhead);
    for (int64_t p = 0; p < n; ++p) columns[c * kGroup + p] = plane[p];
  }
  transpose(columns, kGroup, pass.stride, kGroup, rows, pass.stride);
}

// Stands in for a Q that vanishes; a quotient by it meets a factor no larger than Q later on.
template <typename T>
constexpr T kSmallest = T(1e-30);

// From the gradient of log Q' to those of z and, in `carry`, of Q; x holds the first, s is S.
// With r = (1 - a) S / Q' they are r x - S sum(r x) and a x / Q'.
template <typename T, int kWidth>
HOST_DEVICE void through_log(const Labels<T, kWidth>& labels, T damping, const T* after,
                             const T* earlier, T* carry, const typename Labels<T, kWidth>::Chunk* s,
                             typename Labels<T, kWidth>::Chunk* x) {
  if (carry != nullptr) {
    T* value = reinterpret_cast<T*>(x);
    for (int64_t c = 0; c < labels.stride(); ++c) {
      const T part = damping / (after[c] > kSmallest<T> ? after[c] : kSmallest<T>);
      carry[c] = part * value[c];
      value[c] *= T(1) - part * earlier[c];
    }
  }
  const T sum = sum_of(labels, x);
  for (int i = 0; i < labels.chunks(); ++i) x[i] = x[i] - s[i] * sum;
}

// The pass before all others: from the gradient of the result to dL/dz of the last iteration. With
// kSplat = false there was no iteration, and that is the gradient of the logits.
template <typename T, int kWidth, bool kSplat>
void gradient_init_pass(const GradientPass<T>& pass, const Segment<T>& segment,
                        const FoldKernel<T>* folds, const T* gradient, const T* result,
                        T* scratch) {
  const Labels<T, kWidth> labels{pass.common.stride};
  using Chunk = typename Labels<T, kWidth>::Chunk;
  const bool logits = pass.common.output == Output::kLogits;
  T* rows = scratch;                             // [16, stride]
  T* columns = rows + kGroup * labels.stride();  // [stride, 16]
  auto* s = reinterpret_cast<Chunk*>(columns + kGroup * labels.stride());
  Chunk* x = s + labels.chunks();
  T* after = reinterpret_cast<T*>(x + labels.chunks());
  for (int64_t g = 0; g < segment.groups; ++g) {
    const int64_t first = segment.first_point + g * kGroup;
    if constexpr (kSplat) {
      clear_new_rows(segment, g, labels.stride());
      for (int k = 0; k < segment.kernel_count; ++k) fold_group(folds[k], g, labels.stride());
    }
    load_group(pass.common, gradient, first, columns, rows);
    T* totals = pass.total + first * labels.stride();
    load_group(pass.common, result, first, columns, totals);
    for (int p = 0; p < kGroup; ++p) {
      const int64_t at = (first + p) * labels.stride();
      labels.load(s, totals + p * labels.stride());
      labels.load(x, rows + p * labels.stride());
      if (logits) exponentiate(labels, s);
      for (int64_t c = pass.common.classes; c < labels.stride(); ++c)
        reinterpret_cast<T*>(s)[c] = T(0);
      labels.store(s, after);
      if (pass.earlier != nullptr) undamp(labels, pass.damping, pass.earlier + at, s);
      T* carry = pass.carry == nullptr ? nullptr : pass.carry + at;
      if (logits) {
        const T* earlier = pass.earlier == nullptr ? nullptr : pass.earlier + at;
        through_log(labels, pass.damping, after, earlier, carry, s, x);
      } else {
        for (int i = 0; carry != nullptr && i < labels.chunks(); ++i) {
          (x[i] * pass.damping).store(carry + i * labels.kChunk);
        }
        if (carry != nullptr) labels.multiply(x, T(1) - pass.damping);
        through_softmax(labels, s, x);
      }
      for (int k = 0; kSplat && k < segment.kernel_count; ++k) {
        const PassKernel<T>& kernel = segment.kernels[k];
        splat_point<0>(labels, kernel, g * kGroup * kernel.vertices + p, x);
      }
      labels.store(x, totals + p * labels.stride());
    }
    if constexpr (!kSplat) write_result(pass.common, first, totals, columns);
  }
}

}  // namespace densecrf::inline DENSECRF_ISA
