// The pass of a mean-field iteration for everything that does not fold into the point weights: any
// normalisation and label compatibility, damping, and Q kept between iterations.
#pragma once

#include <cmath>

#include "fold.h"
#include "output.h"
#include "softmax.h"

namespace densecrf::inline DENSECRF_ISA {

// x <- x + C_k(message): the message of one kernel to a point, scaled, through its label
// compatibility.
template <typename T, int kWidth>
HOST_DEVICE void add_message(const Labels<T, kWidth>& labels, const PassKernel<T>& kernel,
                             int64_t classes, int64_t point,
                             const typename Labels<T, kWidth>::Chunk* message,
                             typename Labels<T, kWidth>::Chunk* x) {
  using Chunk = typename Labels<T, kWidth>::Chunk;
  const T scale = kernel.scale == nullptr ? T(1) : kernel.scale[point];
  switch (kernel.compatibility) {
    case Compatibility::kPotts:
      for (int i = 0; i < labels.chunks(); ++i) x[i] += message[i] * scale;
      break;
    case Compatibility::kPerClass:
      for (int i = 0; i < labels.chunks(); ++i) {
        x[i] += message[i] * scale * Chunk::load(kernel.label_weight + i * labels.kChunk);
      }
      break;
    case Compatibility::kMatrix:
      for (int64_t c = 0; c < classes; ++c) {
        const T* column = kernel.label_weight + c * labels.stride();
        const T value = scale * reinterpret_cast<const T*>(message)[c];
        for (int i = 0; i < labels.chunks(); ++i) {
          x[i].add_scaled(value, column + i * labels.kChunk);
        }
      }
      break;
  }
}

// x <- exp(x).
template <typename T, int kWidth>
HOST_DEVICE void exponentiate(const Labels<T, kWidth>& labels,
                              typename Labels<T, kWidth>::Chunk* x) {
  for (int i = 0; i < labels.chunks(); ++i) x[i] = (x[i] * kLog2E<T>).power_of_two();
}

// log((1 - damping) exp(a) + damping exp(b)), also where both exponentials vanish.
template <typename T>
HOST_DEVICE T damp_log(T damping, T a, T b) {
  if (damping == T(0)) return a;
  a += std::log1p(-damping);
  b += std::log(damping);
  const T high = a > b ? a : b, low = a > b ? b : a;
  return high + std::log1p(std::exp(low - high));
}

// x <- the damped Q of a point whose logits are x; keeps it, and its logarithm where wanted.
template <typename T, int kWidth>
HOST_DEVICE void update_kept(const Labels<T, kWidth>& labels, const PassArguments<T>& pass,
                             int64_t point, typename Labels<T, kWidth>::Chunk* x,
                             typename Labels<T, kWidth>::Chunk* saved,
                             typename Labels<T, kWidth>::Chunk* change) {
  using Chunk = typename Labels<T, kWidth>::Chunk;
  T* kept = pass.kept + point * labels.stride();
  if (pass.kept_log != nullptr) {
    T* kept_log = pass.kept_log + point * labels.stride();
    log_softmax(labels, x, saved);
    T* value = reinterpret_cast<T*>(x);
    for (int64_t c = 0; c < labels.stride(); ++c) {
      value[c] = damp_log(pass.damping, value[c], kept_log[c]);
    }
    labels.store(x, kept_log);
    exponentiate(labels, x);
  } else {
    softmax(labels, x);
    for (int i = 0; i < labels.chunks(); ++i) {
      x[i] += (Chunk::load(kept + i * labels.kChunk) - x[i]) * pass.damping;
    }
  }
  for (int i = 0; i < labels.chunks(); ++i) {
    const Chunk old = Chunk::load(kept + i * labels.kChunk);
    *change = change->larger((x[i] - old).larger(old - x[i]));
  }
  labels.store(x, kept);
}

// The pass before the first iteration; it splats only if there is one.
template <typename T, int kWidth>
void general_init_pass(const PassArguments<T>& pass, const Segment<T>& segment,
                       const FoldKernel<T>* folds, const T* logits, bool splat, T* scratch) {
  const Labels<T, kWidth> labels{pass.stride};
  using Chunk = typename Labels<T, kWidth>::Chunk;
  T* columns = scratch + kGroup * labels.stride();
  Chunk* x = reinterpret_cast<Chunk*>(columns + kGroup * labels.stride());
  Chunk* saved = x + labels.chunks();
  for (int64_t g = 0; g < segment.groups; ++g) {
    const int64_t first = segment.first_point + g * kGroup;
    load_unaries(pass, logits, first, columns);
    if (splat) clear_new_rows(segment, g, labels.stride());
    for (int k = 0; splat && k < segment.kernel_count; ++k) {
      fold_group(folds[k], g, labels.stride());
    }
    for (int q = 0; q < kGroup; ++q) {
      labels.load(x, pass.unary + (first + q) * labels.stride());
      if (pass.kept_log != nullptr) {
        log_softmax(labels, x, saved);
        labels.store(x, pass.kept_log + (first + q) * labels.stride());
        exponentiate(labels, x);
      } else {
        softmax(labels, x);
      }
      if (pass.kept != nullptr) labels.store(x, pass.kept + (first + q) * labels.stride());
      if (pass.state != nullptr) labels.store(x, pass.state + (first + q) * labels.stride());
      for (int k = 0; splat && k < segment.kernel_count; ++k) {
        const PassKernel<T>& kernel = segment.kernels[k];
        splat_point<0>(labels, kernel, g * kGroup * kernel.vertices + q, x);
      }
    }
  }
}

// Returns the largest change of a kept Q.
template <typename T, int kWidth, bool kSplat>
T general_pass(const PassArguments<T>& pass, const Segment<T>& segment, T* scratch) {
  const Labels<T, kWidth> labels{pass.stride};
  using Chunk = typename Labels<T, kWidth>::Chunk;
  T* values = scratch;                             // [16, stride]
  T* columns = values + kGroup * labels.stride();  // [stride, 16]
  Chunk* x = reinterpret_cast<Chunk*>(columns + kGroup * labels.stride());
  Chunk* message = x + labels.chunks();
  Chunk* saved = message + labels.chunks();
  const bool emits = !kSplat && pass.kept == nullptr;
  Chunk change = Chunk::zero();
  for (int64_t g = 0; g < segment.groups; ++g) {
    if constexpr (kSplat) clear_new_rows(segment, g, labels.stride());
    const int64_t first = segment.first_point + g * kGroup;
    for (int q = 0; q < kGroup; ++q) {
      labels.load(x, pass.unary + (first + q) * labels.stride());
      for (int k = 0; k < segment.kernel_count; ++k) {
        const PassKernel<T>& kernel = segment.kernels[k];
        for (int i = 0; i < labels.chunks(); ++i) message[i] = Chunk::zero();
        slice_point<0>(labels, kernel, g * kGroup * kernel.vertices + q, message);
        add_message(labels, kernel, pass.classes, g * kGroup + q, message, x);
      }
      for (int i = 0; i < labels.chunks(); ++i) {
        x[i] += Chunk::load(pass.padding + i * labels.kChunk);
      }
      if (pass.kept != nullptr) {
        if (first + q < pass.points) {
          update_kept(labels, pass, first + q, x, saved, &change);
        } else {
          softmax(labels, x);  // padding: finite, and nothing else
        }
      } else if (kSplat || pass.output == Output::kProbabilities) {
        softmax(labels, x);
      } else if (pass.output == Output::kLogits) {
        log_softmax(labels, x, saved);
      }
      if constexpr (kSplat) {
        if (pass.state != nullptr) labels.store(x, pass.state + (first + q) * labels.stride());
        for (int k = 0; k < segment.kernel_count; ++k) {
          const PassKernel<T>& kernel = segment.kernels[k];
          splat_point<0>(labels, kernel, g * kGroup * kernel.vertices + q, x);
        }
      } else {
        labels.store(x, values + q * labels.stride());
      }
    }
    if (emits) write_result(pass, first, values, columns);
  }
  return change.maximum();
}

}  // namespace densecrf::inline DENSECRF_ISA
