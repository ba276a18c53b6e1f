// Mean field on CUDA tensors: inference, training, and the gradients.
#include <cmath>
#include <tuple>

#include "cuda_lattices.h"

namespace densecrf {

namespace {

cuda::Output output_of(const std::string& name) {
  if (name == "probabilities") return cuda::Output::kProbabilities;
  if (name == "logits") return cuda::Output::kLogits;
  STD_TORCH_CHECK(name == "labels", "output must be probabilities, logits or labels, got ", name);
  return cuda::Output::kLabels;
}

cuda::Output differentiable_output_of(const std::string& name) {
  STD_TORCH_CHECK(name == "probabilities" || name == "logits",
                  "output must be probabilities or logits, got ", name);
  return output_of(name);
}

cuda::Compatibility compatibility_of(const Tensor& weights, const Tensor& logits) {
  const int64_t classes = logits.size(1);
  STD_TORCH_CHECK(scalar_of(weights, "compatibilities") == scalar_of(logits, "logits"),
                  "compatibilities must have the dtype of logits");
  STD_TORCH_CHECK(weights.is_cuda() && weights.get_device_index() == logits.get_device_index(),
                  "compatibilities must be on the device of logits");
  if (weights.dim() == 1 && weights.size(0) == 1) return cuda::Compatibility::kPotts;
  if (weights.dim() == 1 && weights.size(0) == classes) return cuda::Compatibility::kPerClass;
  STD_TORCH_CHECK(weights.dim() == 2 && weights.size(0) == classes && weights.size(1) == classes,
                  "compatibilities must be [1], [", classes, "] or [", classes, ", ", classes,
                  "], got ", shape_of(weights));
  return cuda::Compatibility::kMatrix;
}

void check_iterations(int64_t iterations, double damping) {
  STD_TORCH_CHECK(iterations >= 0, "iterations must not be negative, got ", iterations);
  STD_TORCH_CHECK(damping >= 0.0 && damping < 1.0, "damping must be in [0, 1), got ", damping);
}

// The kernels of a mean field, checked, as the backend takes them.
class Kernels {
 public:
  Kernels(const Tensor& logits, const std::vector<Tensor>& points,
          const std::vector<Tensor>& vertices, const std::vector<Tensor>& compatibilities,
          const std::vector<std::string>& normalizations, int64_t iterations) {
    STD_TORCH_CHECK(logits.dim() == 3 && logits.numel() > 0,
                    "logits must be a non-empty [B, C, N], got ", shape_of(logits));
    const size_t kernels = points.size(), entries = compatibilities.size();
    varying_ = entries != kernels && iterations > 0 &&
               static_cast<int64_t>(entries) == iterations * static_cast<int64_t>(kernels);
    STD_TORCH_CHECK((entries == kernels || varying_) && vertices.size() == kernels &&
                        normalizations.size() == kernels,
                    "points, vertices, compatibilities and normalizations must have one entry per "
                    "kernel, compatibilities perhaps one per iteration and kernel; got ",
                    kernels, ", ", vertices.size(), ", ", entries, " and ", normalizations.size());
    for (size_t i = 0; i < entries; ++i) {
      weights_.push_back(torch::stable::contiguous(compatibilities[i]));
      kinds_.push_back(compatibility_of(weights_.back(), logits));
      pointers_.push_back(weights_.back().const_data_ptr());
      STD_TORCH_CHECK(kinds_[i] == kinds_[i % kernels],
                      "compatibilities of one kernel must have one shape, got ",
                      shape_of(weights_[i % kernels]), " and ", shape_of(weights_[i]));
    }
    const int64_t loose[] = {logits.size(2)};
    tiles_ = cuda::tile_map(loose, 1);
    for (size_t k = 0; k < kernels; ++k) {
      const cuda::Lattice lattice =
          checked_lattice(points[k], vertices[k], logits.size(0), logits.size(2), logits, "logits");
      if (k == 0) tiles_ = lattice.shape.tiles;
      for (int side = 0; side < 3; ++side) {
        STD_TORCH_CHECK(tiles_.size[side] == lattice.shape.tiles.size[side],
                        "the lattices of a mean field must be built with the same grid");
      }
      list_.push_back({lattice, normalization_of(normalizations[k]), kinds_[k], pointers_[k]});
    }
  }

  [[nodiscard]] const cuda::Kernel* data() const { return list_.data(); }
  [[nodiscard]] int count() const { return static_cast<int>(list_.size()); }
  [[nodiscard]] const cuda::TileMap& tiles() const { return tiles_; }
  [[nodiscard]] const std::vector<Tensor>& weights() const { return weights_; }
  // Per iteration and kernel, or null where iterations share them.
  [[nodiscard]] const void* const* iteration_weights() const {
    return varying_ ? pointers_.data() : nullptr;
  }

 private:
  bool varying_ = false;
  cuda::TileMap tiles_{};
  std::vector<Tensor> weights_;
  std::vector<cuda::Compatibility> kinds_;
  std::vector<const void*> pointers_;
  std::vector<cuda::Kernel> list_;
};

// states: what backward needs goes there, or null.
Tensor infer(CudaCall& call, const Tensor& logits, const Kernels& kernels, int64_t iterations,
             double damping, double tolerance, cuda::Output form, Tensor* states) {
  const cuda::Scalar scalar = scalar_of(logits, "logits");
  const int64_t images = logits.size(0), classes = logits.size(1), count = logits.size(2);
  const Tensor from = torch::stable::contiguous(logits);
  Tensor result = form == cuda::Output::kLabels
                      ? call.empty({images, count}, ScalarType::Long)
                      : call.empty({images, classes, count}, type_of(scalar));
  cuda::mean_field(
      scalar,
      {images, classes, from.const_data_ptr(), kernels.tiles(), kernels.data(), kernels.count(),
       iterations, damping, tolerance, form, result.mutable_data_ptr(),
       states == nullptr ? nullptr : states->mutable_data_ptr(), kernels.iteration_weights()},
      call.context());
  return result;
}

Tensor mean_field(const Tensor& logits, const std::vector<Tensor>& points,
                  const std::vector<Tensor>& vertices, const std::vector<Tensor>& compatibilities,
                  const std::vector<std::string>& normalizations, int64_t iterations,
                  double damping, double tolerance, const std::string& output) {
  check_iterations(iterations, damping);
  STD_TORCH_CHECK(!std::isnan(tolerance), "tolerance must be a number, got ", tolerance);
  const Kernels kernels(logits, points, vertices, compatibilities, normalizations, iterations);
  CudaCall call(logits);
  return infer(call, logits, kernels, iterations, damping, tolerance, output_of(output), nullptr);
}

// [iterations, B, tiles, 256, stride]
std::vector<int64_t> states_shape(const Tensor& logits, const cuda::TileMap& tiles,
                                  int64_t iterations) {
  return {iterations, logits.size(0), tiles.tiles, cuda::kTile,
          cuda::state_stride(scalar_of(logits, "logits"), logits.size(1))};
}

std::tuple<Tensor, Tensor> mean_field_train(const Tensor& logits, const std::vector<Tensor>& points,
                                            const std::vector<Tensor>& vertices,
                                            const std::vector<Tensor>& compatibilities,
                                            const std::vector<std::string>& normalizations,
                                            int64_t iterations, double damping,
                                            const std::string& output) {
  check_iterations(iterations, damping);
  const cuda::Output form = differentiable_output_of(output);
  const Kernels kernels(logits, points, vertices, compatibilities, normalizations, iterations);
  CudaCall call(logits);
  Tensor states = call.empty(states_shape(logits, kernels.tiles(), iterations),
                             type_of(scalar_of(logits, "logits")));
  return {infer(call, logits, kernels, iterations, damping, 0.0, form, &states), states};
}

std::tuple<Tensor, std::vector<Tensor>> mean_field_backward(
    const Tensor& grad, const Tensor& logits, const Tensor& result, const Tensor& states,
    const std::vector<Tensor>& points, const std::vector<Tensor>& vertices,
    const std::vector<Tensor>& compatibilities, const std::vector<std::string>& normalizations,
    double damping, const std::string& output) {
  const cuda::Output form = differentiable_output_of(output);
  STD_TORCH_CHECK(states.dim() == 5 && states.is_contiguous(),
                  "states must be what mean_field_train returned, got ", shape_of(states));
  const int64_t iterations = states.size(0);
  check_iterations(iterations, damping);
  const Kernels kernels(logits, points, vertices, compatibilities, normalizations, iterations);
  const cuda::Scalar scalar = scalar_of(logits, "logits");
  const std::vector<int64_t> expected = states_shape(logits, kernels.tiles(), iterations);
  bool fits = scalar_of(states, "states") == scalar;
  for (int64_t i = 0; i < 5; ++i) fits = fits && states.size(i) == expected[i];
  STD_TORCH_CHECK(fits, "states must be what mean_field_train returned for logits ",
                  shape_of(logits), ", got ", shape_of(states));
  for (const Tensor* given : {&grad, &result}) {
    STD_TORCH_CHECK(shape_of(*given) == shape_of(logits) && scalar_of(*given, "grad") == scalar,
                    "grad and result must have the shape and dtype of logits, ", shape_of(logits),
                    ", got ", shape_of(*given));
  }
  CudaCall call(logits);
  const Tensor upstream = torch::stable::contiguous(grad), q = torch::stable::contiguous(result);
  Tensor grad_logits =
      call.empty({logits.size(0), logits.size(1), logits.size(2)}, type_of(scalar));
  std::vector<Tensor> grad_compatibilities;
  std::vector<void*> sums;
  for (const Tensor& weight : kernels.weights()) {
    std::vector<int64_t> shape;
    for (int64_t axis = 0; axis < weight.dim(); ++axis) shape.push_back(weight.size(axis));
    grad_compatibilities.push_back(call.empty(shape, type_of(scalar)));
    sums.push_back(grad_compatibilities.back().mutable_data_ptr());
  }
  cuda::mean_field_gradient(
      scalar,
      {logits.size(0), logits.size(1), upstream.const_data_ptr(), q.const_data_ptr(),
       states.const_data_ptr(), kernels.tiles(), kernels.data(), kernels.count(), iterations,
       damping, form, kernels.iteration_weights(), grad_logits.mutable_data_ptr(), sums.data()},
      call.context());
  return {grad_logits, grad_compatibilities};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(densecrf_gpu, CUDA, m) {
  m.impl("mean_field", TORCH_BOX(&mean_field));
  m.impl("mean_field_train", TORCH_BOX(&mean_field_train));
  m.impl("mean_field_backward", TORCH_BOX(&mean_field_backward));
}

}  // namespace densecrf
