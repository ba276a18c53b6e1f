// One pass over the points of a mean-field iteration: slice the blurred rows of every kernel, update
// and normalise the label distribution, splat it into the rows of the next iteration. Nothing but
// rows and unaries is read or written: Q itself stays in registers.
//
// Rows and unaries are padded to `stride` values; padded labels have the unary kNever.
#pragma once

#include <cmath>

#include "backend.h"
#include "sections.h"
#include "vector.h"

namespace densecrf::inline DENSECRF_ISA {

template <typename T>
constexpr T kNever = T(-10000);  // a label that cannot be: exp is 0 to rounding

// One kernel as a pass sees it; pointers start at the segment's first point, rows at its band's.
template <typename T>
struct PassKernel {
  const uint32_t* row;         // [groups, vertices, 16]
  const T* weight;             // [groups, vertices, 16], what splat multiplies by
  const T* scale;              // [points] what the sliced message is multiplied by; null: 1
  const T* from;               // [rows, stride] blurred
  T* to;                       // [rows, stride] splatted
  const uint32_t* first_rows;  // [blocks + 1], from the band's base
  int vertices;
  cpu::Compatibility compatibility;
  const T* label_weight;  // per class [stride], or minus the penalty matrix by columns
                          // [classes, stride]; Potts weights are in `scale`
};

template <typename T>
struct Segment {
  int64_t first_point;
  int64_t groups;
  const PassKernel<T>* kernels;
  int kernel_count;
};

template <typename T>
struct PassArguments {
  int64_t points;
  int64_t classes;
  int64_t stride;
  T* unary;  // [padded points, stride], logits less their maximum
  T* kept;   // [padded points, stride] Q of the last iteration, or null
  T damping;
  cpu::Output output;
  void* result;  // [classes, points] or labels [points]
};

// Row `vertex` of point q in a group.
template <typename T>
HOST_DEVICE const T* source_row(const PassKernel<T>& kernel, const uint32_t* row, int vertex,
                                int64_t stride) {
  return kernel.from + row[vertex * kGroup] * stride;
}

// x <- softmax(x) over parts vectors; returns log(sum exp x) when kLog, else 0. The maximum is
// subtracted only where the plain sum leaves the safe range.
template <typename T, int kLanes, bool kLog>
HOST_DEVICE T softmax(Vec<T, kLanes>* x, int parts, Vec<T, kLanes>* saved) {
  using V = Vec<T, kLanes>;
  V sum{};
  for (int i = 0; i < parts; ++i) {
    saved[i] = x[i];
    x[i] = exp<T, kLanes>(x[i]);
    sum += x[i];
  }
  T total = sum_lanes<T, kLanes>(sum);
  T shift = 0;
  if (__builtin_expect(!(total > T(1e-30) && total < T(1e30)), 0)) {
    V highest = saved[0];
    for (int i = 1; i < parts; ++i) highest = max(highest, saved[i]);
    shift = max_lanes<T, kLanes>(highest);
    sum = V{};
    for (int i = 0; i < parts; ++i) {
      x[i] = exp<T, kLanes>(saved[i] - shift);
      sum += x[i];
    }
    total = sum_lanes<T, kLanes>(sum);
  }
  const T inverse = T(1) / total;
  for (int i = 0; i < parts; ++i) x[i] *= inverse;
  if constexpr (kLog) return shift + std::log(total);
  return T(0);
}

// Clears the rows that the block at `group` touches first: they are contiguous, and a moment later
// they are splatted into.
template <typename T>
HOST_DEVICE void clear_new_rows(const Segment<T>& segment, int64_t group, int64_t stride) {
  if (group % (kBlock / kGroup) != 0) return;
  const int64_t block = group / (kBlock / kGroup);
  for (int k = 0; k < segment.kernel_count; ++k) {
    const PassKernel<T>& kernel = segment.kernels[k];
    const int64_t begin = kernel.first_rows[block], end = kernel.first_rows[block + 1];
    __builtin_memset(kernel.to + begin * stride, 0,
                     static_cast<size_t>((end - begin) * stride) * sizeof(T));
  }
}

// Writes up to 16 points' values [16, stride] as the caller wants them.
template <typename T>
void write_result(const PassArguments<T>& pass, int64_t first, const T* values, T* columns) {
  const int64_t n = pass.points - first < kGroup ? pass.points - first : kGroup;
  if (n <= 0) return;
  transpose(values, pass.stride, kGroup, pass.stride, columns, kGroup);
  if (pass.output == cpu::Output::kLabels) {
    using V = Vec<T, kGroup>;
    using I = typename VectorLanes<T, kGroup>::I;
    V best = load<V>(columns);
    I label{};
    for (int64_t c = 1; c < pass.classes; ++c) {
      const V value = load<V>(columns + c * kGroup);
      const auto better = value > best;
      best = better ? value : best;
      label = better ? I{} + static_cast<typename ScalarTraits<T>::Int>(c) : label;
    }
    for (int64_t q = 0; q < n; ++q) static_cast<int64_t*>(pass.result)[first + q] = label[q];
    return;
  }
  for (int64_t c = 0; c < pass.classes; ++c) {
    __builtin_memcpy(static_cast<T*>(pass.result) + c * pass.points + first, columns + c * kGroup,
                     static_cast<size_t>(n) * sizeof(T));
  }
}

template <typename T, int kLanes, int kParts, int kVertices>
HOST_DEVICE void splat_point(const PassKernel<T>& kernel, const uint32_t* row, const T* weight,
                             int64_t stride, const Vec<T, kLanes>* x, int parts) {
  using V = Vec<T, kLanes>;
  const int vertices = kVertices > 0 ? kVertices : kernel.vertices;
#pragma GCC unroll 6
  for (int r = 0; r < vertices; ++r) {
    const T w = weight[r * kGroup];
    T* to = kernel.to + row[r * kGroup] * stride;
#pragma GCC unroll 8
    for (int i = 0; i < (kParts > 0 ? kParts : parts); ++i) {
      store(to + i * kLanes, load<V>(to + i * kLanes) + w * x[i]);
    }
  }
}

// The pass where every kernel attracts with a scalar weight that is folded into the point weights:
// logits <- unary + sum_k slice_k. kFirst and kSecond are the vertices per point of one or two
// kernels, or 0 where they are known at run time only. kStep points are in flight together.
template <typename T, int kLanes, int kParts, int kFirst, int kSecond, bool kSplat>
void folded_pass(const PassArguments<T>& pass, const Segment<T>& segment, T* scratch) {
  using V = Vec<T, kLanes>;
  constexpr int kStep = kParts > 0 && kParts * 2 <= 8 ? 2 : 1;
  const int parts = kParts > 0 ? kParts : static_cast<int>(pass.stride / kLanes);
  const int64_t stride = kParts > 0 ? kParts * kLanes : pass.stride;
  T* values = scratch;                      // [16, stride]
  T* columns = values + kGroup * stride;    // [stride, 16]
  V* spare = reinterpret_cast<V*>(columns + kGroup * stride);  // [2, parts] where kParts is 0
  const bool labels = pass.output == cpu::Output::kLabels;
  const bool logits = pass.output == cpu::Output::kLogits;

  for (int64_t g = 0; g < segment.groups; ++g) {
    if constexpr (kSplat) clear_new_rows(segment, g, stride);
    const int64_t first = segment.first_point + g * kGroup;
    for (int q = 0; q < kGroup; q += kStep) {
      V fixed[2][kStep][kParts > 0 ? kParts : 1];
      const T* unary = pass.unary + (first + q) * stride;
#pragma GCC unroll 2
      for (int s = 0; s < kStep; ++s) {
        V* x = kParts > 0 ? fixed[0][s] : spare;
        prefetch(unary + s * stride + 16 * stride);
        prefetch(unary + s * stride + 16 * stride + 64 / sizeof(T));
#pragma GCC unroll 8
        for (int i = 0; i < parts; ++i) x[i] = load<V>(unary + s * stride + i * kLanes);
      }
      const auto slice = [&]<int kVertices>(const PassKernel<T>& kernel) ALWAYS_INLINE {
        const int vertices = kVertices > 0 ? kVertices : kernel.vertices;
        const int64_t record = g * kGroup * vertices + q;
#pragma GCC unroll 6
        for (int r = 0; r < vertices; ++r) {
#pragma GCC unroll 2
          for (int s = 0; s < kStep; ++s) {
            V* x = kParts > 0 ? fixed[0][s] : spare;
            const T w = kernel.weight[record + r * kGroup + s];
            const T* from = kernel.from + kernel.row[record + r * kGroup + s] * stride;
#pragma GCC unroll 8
            for (int i = 0; i < parts; ++i) x[i] += w * load<V>(from + i * kLanes);
          }
        }
      };
      const auto splat = [&]<int kVertices>(const PassKernel<T>& kernel) ALWAYS_INLINE {
        const int vertices = kVertices > 0 ? kVertices : kernel.vertices;
        const int64_t record = g * kGroup * vertices + q;
#pragma GCC unroll 2
        for (int s = 0; s < kStep; ++s) {
          const V* x = kParts > 0 ? fixed[0][s] : spare;
          splat_point<T, kLanes, kParts, kVertices>(kernel, kernel.row + record + s,
                                                    kernel.weight + record + s, stride, x, parts);
        }
      };
      if constexpr (kFirst > 0) {
        slice.template operator()<kFirst>(segment.kernels[0]);
        if constexpr (kSecond > 0) slice.template operator()<kSecond>(segment.kernels[1]);
      } else {
        for (int k = 0; k < segment.kernel_count; ++k) {
          slice.template operator()<0>(segment.kernels[k]);
        }
      }
      if constexpr (kSplat) {
#pragma GCC unroll 2
        for (int s = 0; s < kStep; ++s) {
          V* x = kParts > 0 ? fixed[0][s] : spare;
          V* saved = kParts > 0 ? fixed[1][s] : spare + parts;
          softmax<T, kLanes, false>(x, parts, saved);
        }
        if constexpr (kFirst > 0) {
          splat.template operator()<kFirst>(segment.kernels[0]);
          if constexpr (kSecond > 0) splat.template operator()<kSecond>(segment.kernels[1]);
        } else {
          for (int k = 0; k < segment.kernel_count; ++k) {
            splat.template operator()<0>(segment.kernels[k]);
          }
        }
      } else {
#pragma GCC unroll 2
        for (int s = 0; s < kStep; ++s) {
          V* x = kParts > 0 ? fixed[0][s] : spare;
          V* saved = kParts > 0 ? fixed[1][s] : spare + parts;
          if (logits) {
            const T log_sum = softmax<T, kLanes, true>(x, parts, saved);
            for (int i = 0; i < parts; ++i) x[i] = saved[i] - log_sum;
          } else if (!labels) {
            softmax<T, kLanes, false>(x, parts, saved);
          }
          for (int i = 0; i < parts; ++i) store(values + (q + s) * stride + i * kLanes, x[i]);
        }
      }
    }
    if constexpr (!kSplat) write_result(pass, first, values, columns);
  }
}

// x <- x + C_k(message): the message of one kernel, scaled, through its label compatibility.
template <typename T, int kLanes>
HOST_DEVICE void add_message(const PassKernel<T>& kernel, const PassArguments<T>& pass,
                             int64_t point, Vec<T, kLanes>* message, Vec<T, kLanes>* x, int parts) {
  using V = Vec<T, kLanes>;
  const T scale = kernel.scale == nullptr ? T(1) : kernel.scale[point];
  switch (kernel.compatibility) {
    case cpu::Compatibility::kPotts:
      for (int i = 0; i < parts; ++i) x[i] += scale * message[i];
      break;
    case cpu::Compatibility::kPerClass:
      for (int i = 0; i < parts; ++i) {
        x[i] += (scale * message[i]) * load<V>(kernel.label_weight + i * kLanes);
      }
      break;
    case cpu::Compatibility::kMatrix:
      for (int64_t c = 0; c < pass.classes; ++c) {
        const T value = scale * message[c / kLanes][c % kLanes];
        const T* column = kernel.label_weight + c * pass.stride;
        for (int i = 0; i < parts; ++i) x[i] += value * load<V>(column + i * kLanes);
      }
      break;
  }
}

// The pass for everything else: any normalisation and compatibility, damping, and Q kept between
// iterations. Returns the largest change of a kept Q.
template <typename T, int kLanes, int kParts, bool kSplat>
T general_pass(const PassArguments<T>& pass, const Segment<T>& segment, T* scratch) {
  using V = Vec<T, kLanes>;
  const int parts = kParts > 0 ? kParts : static_cast<int>(pass.stride / kLanes);
  const int64_t stride = kParts > 0 ? kParts * kLanes : pass.stride;
  T* values = scratch;
  T* columns = values + kGroup * stride;
  V* x = reinterpret_cast<V*>(columns + kGroup * stride);  // [3, parts]
  V* message = x + parts;
  V* saved = message + parts;
  V change{};
  for (int64_t g = 0; g < segment.groups; ++g) {
    if constexpr (kSplat) clear_new_rows(segment, g, stride);
    const int64_t first = segment.first_point + g * kGroup;
    for (int q = 0; q < kGroup; ++q) {
      const T* unary = pass.unary + (first + q) * stride;
      for (int i = 0; i < parts; ++i) x[i] = load<V>(unary + i * kLanes);
      for (int k = 0; k < segment.kernel_count; ++k) {
        const PassKernel<T>& kernel = segment.kernels[k];
        const int64_t record = g * kGroup * kernel.vertices + q;
        for (int i = 0; i < parts; ++i) message[i] = V{};
        for (int r = 0; r < kernel.vertices; ++r) {
          const T w = kernel.weight[record + r * kGroup];
          const T* from = kernel.from + kernel.row[record + r * kGroup] * stride;
          for (int i = 0; i < parts; ++i) message[i] += w * load<V>(from + i * kLanes);
        }
        add_message<T, kLanes>(kernel, pass, g * kGroup + q, message, x, parts);
      }
      if (!kSplat && pass.kept == nullptr && pass.output != cpu::Output::kProbabilities) {
        if (pass.output == cpu::Output::kLogits) {
          const T log_sum = softmax<T, kLanes, true>(x, parts, saved);
          for (int i = 0; i < parts; ++i) x[i] = saved[i] - log_sum;
        }
      } else {
        softmax<T, kLanes, false>(x, parts, saved);
      }
      if (pass.kept != nullptr && first + q < pass.points) {
        T* kept = pass.kept + (first + q) * stride;
        for (int i = 0; i < parts; ++i) {
          const V old = load<V>(kept + i * kLanes);
          x[i] += pass.damping * (old - x[i]);
          change = max(change, max(x[i] - old, old - x[i]));
          store(kept + i * kLanes, x[i]);
        }
      }
      if constexpr (kSplat) {
        for (int k = 0; k < segment.kernel_count; ++k) {
          const PassKernel<T>& kernel = segment.kernels[k];
          const int64_t record = g * kGroup * kernel.vertices + q;
          splat_point<T, kLanes, kParts, 0>(kernel, kernel.row + record, kernel.weight + record,
                                            stride, x, parts);
        }
      } else {
        for (int i = 0; i < parts; ++i) store(values + q * stride + i * kLanes, x[i]);
      }
    }
    if (!kSplat && pass.kept == nullptr) write_result(pass, first, values, columns);
  }
  return max_lanes<T, kLanes>(change);
}

// Hands out a kept Q in the form asked for.
template <typename T, int kLanes>
void emit_kept(const PassArguments<T>& pass, int64_t first_point, int64_t groups, T* scratch) {
  using V = Vec<T, kLanes>;
  T* values = scratch;
  T* columns = values + kGroup * pass.stride;
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t first = first_point + g * kGroup;
    for (int64_t i = 0; i < kGroup * pass.stride; i += kLanes) {
      V q = load<V>(pass.kept + first * pass.stride + i);
      if (pass.output == cpu::Output::kLogits) {
        for (int lane = 0; lane < kLanes; ++lane) q[lane] = std::log(q[lane]);
      }
      store(values + i, q);
    }
    write_result(pass, first, values, columns);
  }
}

}  // namespace densecrf::inline DENSECRF_ISA
