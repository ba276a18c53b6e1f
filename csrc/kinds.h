// The choices a caller has, as both backends take them.
#pragma once

#include "portable.h"

namespace densecrf {

enum class Scalar : int { kFloat32, kFloat64 };
enum class PixelType : int { kUint8, kFloat32, kFloat64 };
enum class Normalization : int { kNone, kBefore, kAfter, kSymmetric };
enum class Compatibility : int { kPotts, kPerClass, kMatrix };
enum class Output : int { kProbabilities, kLogits, kLabels };

// The transpose of a filter normalised before is one normalised after, and the other way round.
HOST_DEVICE constexpr Normalization transposed(Normalization normalization) {
  if (normalization == Normalization::kBefore) return Normalization::kAfter;
  if (normalization == Normalization::kAfter) return Normalization::kBefore;
  return normalization;
}

}  // namespace densecrf
