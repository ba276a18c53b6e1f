// What the operators on CPU and on CUDA tensors check alike: dtypes, shapes, and names, which
// become the backends' kinds.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <string>
#include <vector>

#include "../kinds.h"

namespace densecrf {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline std::string shape_of(const Tensor& t) {
  std::string text = "[";
  for (int64_t i = 0; i < t.dim(); ++i) text += (i > 0 ? ", " : "") + std::to_string(t.size(i));
  return text + "]";
}

inline Scalar scalar_of(const Tensor& t, const char* name) {
  const ScalarType type = t.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double, name,
                  " must be float32 or float64, got ", torch::headeronly::toString(type));
  return type == ScalarType::Float ? Scalar::kFloat32 : Scalar::kFloat64;
}

inline ScalarType type_of(Scalar scalar) {
  return scalar == Scalar::kFloat32 ? ScalarType::Float : ScalarType::Double;
}

inline size_t size_of(Scalar scalar) { return scalar == Scalar::kFloat32 ? 4 : 8; }

inline PixelType pixel_type_of(const Tensor& image) {
  switch (image.scalar_type()) {
    case ScalarType::Byte:
      return PixelType::kUint8;
    case ScalarType::Float:
      return PixelType::kFloat32;
    case ScalarType::Double:
      return PixelType::kFloat64;
    default:
      STD_TORCH_CHECK(false, "image must be uint8, float32 or float64, got ",
                      torch::headeronly::toString(image.scalar_type()));
  }
}

// The lattice's scalar type over an image.
inline Scalar scalar_of(PixelType type) {
  return type == PixelType::kFloat64 ? Scalar::kFloat64 : Scalar::kFloat32;
}

inline Normalization normalization_of(const std::string& name) {
  if (name == "none") return Normalization::kNone;
  if (name == "before") return Normalization::kBefore;
  if (name == "after") return Normalization::kAfter;
  STD_TORCH_CHECK(name == "symmetric",
                  "normalization must be none, before, after or symmetric, got ", name);
  return Normalization::kSymmetric;
}

inline Output output_of(const std::string& name) {
  if (name == "probabilities") return Output::kProbabilities;
  if (name == "logits") return Output::kLogits;
  STD_TORCH_CHECK(name == "labels", "output must be probabilities, logits or labels, got ", name);
  return Output::kLabels;
}

inline Output differentiable_output_of(const std::string& name) {
  STD_TORCH_CHECK(name == "probabilities" || name == "logits",
                  "output must be probabilities or logits, got ", name);
  return output_of(name);
}

inline void check_iterations(int64_t iterations, double damping) {
  STD_TORCH_CHECK(iterations >= 0, "iterations must not be negative, got ", iterations);
  STD_TORCH_CHECK(damping >= 0.0 && damping < 1.0, "damping must be in [0, 1), got ", damping);
}

// What backward is given has the shape and dtype of the logits.
inline void check_like_logits(const Tensor& given, const Tensor& logits) {
  STD_TORCH_CHECK(shape_of(given) == shape_of(logits) &&
                      scalar_of(given, "grad") == scalar_of(logits, "logits"),
                  "grad and result must have the shape and dtype of logits, ", shape_of(logits),
                  ", got ", shape_of(given));
}

// The raster of an image [B, channels, *size], and bandwidths for all that a feature is made of;
// size is slowest first, spatial_sigmas x first.
inline void check_raster(const Tensor& image, const std::vector<int64_t>& size,
                         const std::vector<double>& spatial_sigmas,
                         const std::vector<double>& channel_sigmas) {
  const auto sides = static_cast<int64_t>(size.size());
  STD_TORCH_CHECK(sides >= 1 && sides <= 3, "size must have 1 to 3 entries, got ", sides);
  STD_TORCH_CHECK(spatial_sigmas.size() == size.size(), "spatial_sigmas must have ", sides,
                  " entries, got ", spatial_sigmas.size());
  STD_TORCH_CHECK(image.dim() == sides + 2 && image.size(0) > 0,
                  "image must be a non-empty [B, channels, *size], got ", shape_of(image));
  STD_TORCH_CHECK(static_cast<int64_t>(channel_sigmas.size()) == image.size(1),
                  "channel_sigmas must have ", image.size(1), " entries, got ",
                  channel_sigmas.size());
  for (int64_t m = 0; m < sides; ++m) {
    STD_TORCH_CHECK(image.size(m + 2) == size[m], "image must have the size given, got ",
                    shape_of(image));
  }
  for (const double sigma : spatial_sigmas) {
    STD_TORCH_CHECK(sigma > 0, "spatial_sigmas must be positive, got ", sigma);
  }
  for (const double sigma : channel_sigmas) {
    STD_TORCH_CHECK(sigma > 0, "channel_sigmas must be positive, got ", sigma);
  }
}

inline Compatibility compatibility_of(const Tensor& weights, const Tensor& logits) {
  const int64_t classes = logits.size(1);
  STD_TORCH_CHECK(scalar_of(weights, "compatibilities") == scalar_of(logits, "logits"),
                  "compatibilities must have the dtype of logits");
  STD_TORCH_CHECK(!logits.is_cuda() || (weights.is_cuda() &&
                                        weights.get_device_index() == logits.get_device_index()),
                  "compatibilities must be on the device of logits");
  if (weights.dim() == 1 && weights.size(0) == 1) return Compatibility::kPotts;
  if (weights.dim() == 1 && weights.size(0) == classes) return Compatibility::kPerClass;
  STD_TORCH_CHECK(weights.dim() == 2 && weights.size(0) == classes && weights.size(1) == classes,
                  "compatibilities must be [1], [", classes, "] or [", classes, ", ", classes,
                  "], got ", shape_of(weights));
  return Compatibility::kMatrix;
}

// The compatibilities of a mean field, one for each kernel or for each iteration and kernel,
// checked, and what stands beside them counted.
class Compatibilities {
 public:
  Compatibilities(const Tensor& logits, const std::vector<Tensor>& points,
                  const std::vector<Tensor>& vertices, const std::vector<Tensor>& given,
                  const std::vector<std::string>& normalizations, int64_t iterations) {
    STD_TORCH_CHECK(logits.dim() == 3 && logits.numel() > 0,
                    "logits must be a non-empty [B, C, N], got ", shape_of(logits));
    const size_t kernels = points.size(), entries = given.size();
    varying_ = entries != kernels && iterations > 0 &&
               static_cast<int64_t>(entries) == iterations * static_cast<int64_t>(kernels);
    STD_TORCH_CHECK((entries == kernels || varying_) && vertices.size() == kernels &&
                        normalizations.size() == kernels,
                    "points, vertices, compatibilities and normalizations must have one entry per "
                    "kernel, compatibilities perhaps one per iteration and kernel; got ",
                    kernels, ", ", vertices.size(), ", ", entries, " and ", normalizations.size());
    for (size_t i = 0; i < entries; ++i) {
      weights_.push_back(torch::stable::contiguous(given[i]));
      kinds_.push_back(compatibility_of(weights_.back(), logits));
      pointers_.push_back(weights_.back().const_data_ptr());
      STD_TORCH_CHECK(kinds_[i] == kinds_[i % kernels],
                      "compatibilities of one kernel must have one shape, got ",
                      shape_of(weights_[i % kernels]), " and ", shape_of(weights_[i]));
    }
  }

  // Of kernel k, in the first iteration where they vary.
  [[nodiscard]] Compatibility kind(size_t k) const { return kinds_[k]; }
  [[nodiscard]] const void* of_kernel(size_t k) const { return pointers_[k]; }
  [[nodiscard]] const std::vector<Tensor>& list() const { return weights_; }
  // Per iteration and kernel, or null where iterations share them.
  [[nodiscard]] const void* const* by_iteration() const {
    return varying_ ? pointers_.data() : nullptr;
  }

 private:
  bool varying_ = false;
  std::vector<Tensor> weights_;
  std::vector<Compatibility> kinds_;
  std::vector<const void*> pointers_;
};

}  // namespace densecrf
