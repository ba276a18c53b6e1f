// The factors of the four normalisations of a filter, for 16 points at a time.
#pragma once

#include <cmath>

#include "backend.h"
#include "sections.h"

namespace densecrf::inline DENSECRF_ISA {

// What splat multiplies the 16 values by, and slice, given n'.
template <typename T>
HOST_DEVICE void side_factors(Normalization normalization, T response, const T* total, T* splat,
                              T* slice) {
  for (int q = 0; q < kGroup; ++q) {
    splat[q] = T(1);
    slice[q] = response;
  }
  switch (normalization) {
    case Normalization::kNone:
      break;
    case Normalization::kBefore:
      for (int q = 0; q < kGroup; ++q) splat[q] = T(1) / total[q];
      break;
    case Normalization::kAfter:
      for (int q = 0; q < kGroup; ++q) slice[q] = response / total[q];
      break;
    case Normalization::kSymmetric:
      for (int q = 0; q < kGroup; ++q) splat[q] = T(1) / std::sqrt(total[q]);
      for (int q = 0; q < kGroup; ++q) slice[q] = response * splat[q];
      break;
  }
}

}  // namespace densecrf::inline DENSECRF_ISA
