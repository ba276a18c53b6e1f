// From the rows of 16 points to what the caller asked for.
#pragma once

#include "pass.h"

namespace densecrf::inline DENSECRF_ISA {

// labels[first + q] = the first label of the largest value, for q < n.
template <typename T>
HOST_DEVICE void write_labels(const PassArguments<T>& pass, int64_t first, int64_t n,
                              const T* columns) {
  using Int = typename ScalarTraits<T>::Int;
  constexpr int kLanes = kNativeLanes<T> < kGroup ? kNativeLanes<T> : kGroup;
  using Lanes = VectorLanes<T, kLanes>;
  for (int part = 0; part < kGroup; part += kLanes) {
    auto best = load<typename Lanes::V>(columns + part);
    typename Lanes::I label{};
    for (int64_t c = 1; c < pass.classes; ++c) {
      const auto value = load<typename Lanes::V>(columns + c * kGroup + part);
      const auto better = value > best;
      best = better ? value : best;
      label = better ? typename Lanes::I{} + static_cast<Int>(c) : label;
    }
    for (int q = 0; q < kLanes && part + q < n; ++q) {
      static_cast<int64_t*>(pass.result)[first + part + q] = label[q];
    }
  }
}

// Writes the values [16, stride] of the points from `first` on; `columns` is scratch of that size.
template <typename T>
HOST_DEVICE void write_result(const PassArguments<T>& pass, int64_t first, const T* values,
                              T* columns) {
  const int64_t n = pass.points - first < kGroup ? pass.points - first : kGroup;
  if (n <= 0) return;
  transpose(values, pass.stride, kGroup, pass.stride, columns, kGroup);
  if (pass.output == Output::kLabels) return write_labels(pass, first, n, columns);
  for (int64_t c = 0; c < pass.classes; ++c) {
    T* to = static_cast<T*>(pass.result) + c * pass.points + first;
    if (n == kGroup) {
      __builtin_memcpy(to, columns + c * kGroup, kGroup * sizeof(T));
    } else {
      __builtin_memcpy(to, columns + c * kGroup, static_cast<size_t>(n) * sizeof(T));
    }
  }
}

// Hands out a kept Q.
template <typename T>
void write_kept(const PassArguments<T>& pass, int64_t first_point, int64_t groups, T* columns) {
  const T* kept = pass.kept_log != nullptr ? pass.kept_log : pass.kept;
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t first = first_point + g * kGroup;
    write_result(pass, first, kept + first * pass.stride, columns);
  }
}

}  // namespace densecrf::inline DENSECRF_ISA
