// Mean field on CPU tensors: inference, training, and the gradients.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>
#include <tuple>

#include "cpu_tensors.h"

namespace densecrf {

namespace {

cpu::Output output_of(const std::string& name) {
  if (name == "probabilities") return cpu::Output::kProbabilities;
  if (name == "logits") return cpu::Output::kLogits;
  STD_TORCH_CHECK(name == "labels", "output must be probabilities, logits or labels, got ", name);
  return cpu::Output::kLabels;
}

cpu::Compatibility compatibility_of(const Tensor& weights, int64_t classes, cpu::Scalar scalar) {
  STD_TORCH_CHECK(scalar_of(weights, "compatibilities") == scalar,
                  "compatibilities must have the dtype of logits");
  if (weights.dim() == 1 && weights.size(0) == 1) return cpu::Compatibility::kPotts;
  if (weights.dim() == 1 && weights.size(0) == classes) return cpu::Compatibility::kPerClass;
  STD_TORCH_CHECK(weights.dim() == 2 && weights.size(0) == classes && weights.size(1) == classes,
                  "compatibilities must be [1], [", classes, "] or [", classes, ", ", classes,
                  "], got ", shape_of(weights));
  return cpu::Compatibility::kMatrix;
}

// The kernels of a mean field, checked, and their weights as the backend takes them.
class Kernels {
 public:
  Kernels(const Tensor& logits, const std::vector<Tensor>& points,
          const std::vector<Tensor>& vertices, const std::vector<Tensor>& compatibilities,
          const std::vector<std::string>& normalizations, int64_t iterations)
      : count_(points.size()) {
    STD_TORCH_CHECK(logits.dim() == 3 && logits.numel() > 0,
                    "logits must be a non-empty [B, C, N], got ", shape_of(logits));
    const cpu::Scalar scalar = scalar_of(logits, "logits");
    const auto entries = static_cast<int64_t>(compatibilities.size());
    const auto kernels = static_cast<int64_t>(count_);
    varying_ = entries != kernels && iterations > 0 && entries == iterations * kernels;
    STD_TORCH_CHECK((entries == kernels || varying_) && vertices.size() == count_ &&
                        normalizations.size() == count_,
                    "points, vertices, compatibilities and normalizations must have one entry per "
                    "kernel, compatibilities perhaps one per iteration and kernel; got ",
                    kernels, ", ", vertices.size(), ", ", entries, " and ", normalizations.size());
    for (const Tensor& given : compatibilities) {
      weights_.push_back(torch::stable::contiguous(given));
      kinds_.push_back(compatibility_of(weights_.back(), logits.size(1), scalar));
      pointers_.push_back(weights_.back().const_data_ptr());
    }
    for (size_t i = count_; i < kinds_.size(); ++i) {
      STD_TORCH_CHECK(kinds_[i] == kinds_[i % count_],
                      "compatibilities of one kernel must have one shape, got ",
                      shape_of(weights_[i % count_]), " and ", shape_of(weights_[i]));
    }
    for (size_t k = 0; k < count_; ++k) {
      lattices_.emplace_back(points[k], vertices[k]);
      lattices_.back().check(logits.size(0), logits.size(2), scalar, "logits");
      list_.push_back({{}, normalization_of(normalizations[k]), kinds_[k], pointers_[k]});
    }
  }

  // The kernels of image b.
  const cpu::Kernel* of_image(int64_t b) {
    for (size_t k = 0; k < count_; ++k) list_[k].lattice = lattices_[k].sections(b);
    return list_.data();
  }
  [[nodiscard]] int count() const { return static_cast<int>(count_); }
  [[nodiscard]] const std::vector<Tensor>& weights() const { return weights_; }
  // Per iteration and kernel, or null where iterations share them.
  [[nodiscard]] const void* const* iteration_weights() const {
    return varying_ ? pointers_.data() : nullptr;
  }

 private:
  size_t count_;
  bool varying_ = false;
  std::vector<Tensor> weights_;
  std::vector<cpu::Compatibility> kinds_;
  std::vector<const void*> pointers_;
  std::vector<Lattices> lattices_;
  std::vector<cpu::Kernel> list_;
};

void check_iterations(int64_t iterations, double damping) {
  STD_TORCH_CHECK(iterations >= 0, "iterations must not be negative, got ", iterations);
  STD_TORCH_CHECK(damping >= 0.0 && damping < 1.0, "damping must be in [0, 1), got ", damping);
}

// Infers all images; states [B, iterations, padded points, label stride] or null.
Tensor infer(const Tensor& logits, Kernels& kernels, int64_t iterations, double damping,
             double tolerance, cpu::Output form, Tensor* states) {
  const cpu::Scalar scalar = scalar_of(logits, "logits");
  const int64_t batch = logits.size(0), classes = logits.size(1), count = logits.size(2);
  const bool labels = form == cpu::Output::kLabels;
  const Tensor from = torch::stable::contiguous(logits);
  Tensor result = labels ? make_tensor({batch, count}, ScalarType::Long)
                         : make_tensor({batch, classes, count}, type_of(scalar));
  const auto scalar_size = static_cast<int64_t>(size_of(scalar));
  const int64_t image_bytes = classes * count * scalar_size;
  const int64_t result_bytes = labels ? count * 8 : image_bytes;
  const char* data = static_cast<const char*>(from.const_data_ptr());
  char* to = static_cast<char*>(result.mutable_data_ptr());
  char* state = states == nullptr ? nullptr : static_cast<char*>(states->mutable_data_ptr());
  const int64_t state_bytes = states == nullptr ? 0 : states->numel() / batch * scalar_size;
  on_torch_threads([&](const cpu::Executor& executor) {
    for (int64_t b = 0; b < batch; ++b) {
      cpu::backend().mean_field(
          scalar,
          {count, classes, data + b * image_bytes, kernels.of_image(b), kernels.count(), iterations,
           damping, tolerance, form, to + b * result_bytes,
           state == nullptr ? nullptr : state + b * state_bytes, kernels.iteration_weights()},
          executor);
    }
  });
  return result;
}

Tensor mean_field(const Tensor& logits, const std::vector<Tensor>& points,
                  const std::vector<Tensor>& vertices, const std::vector<Tensor>& compatibilities,
                  const std::vector<std::string>& normalizations, int64_t iterations,
                  double damping, double tolerance, const std::string& output) {
  check_iterations(iterations, damping);
  STD_TORCH_CHECK(!std::isnan(tolerance), "tolerance must be a number, got ", tolerance);
  Kernels kernels(logits, points, vertices, compatibilities, normalizations, iterations);
  return infer(logits, kernels, iterations, damping, tolerance, output_of(output), nullptr);
}

cpu::Output differentiable_output_of(const std::string& name) {
  STD_TORCH_CHECK(name == "probabilities" || name == "logits",
                  "output must be probabilities or logits, got ", name);
  return output_of(name);
}

std::tuple<Tensor, Tensor> mean_field_train(const Tensor& logits, const std::vector<Tensor>& points,
                                            const std::vector<Tensor>& vertices,
                                            const std::vector<Tensor>& compatibilities,
                                            const std::vector<std::string>& normalizations,
                                            int64_t iterations, double damping,
                                            const std::string& output) {
  check_iterations(iterations, damping);
  const cpu::Output form = differentiable_output_of(output);
  Kernels kernels(logits, points, vertices, compatibilities, normalizations, iterations);
  const cpu::Scalar scalar = scalar_of(logits, "logits");
  Tensor states = make_tensor({logits.size(0), iterations, padded_points(logits.size(2)),
                               label_stride(size_of(scalar), logits.size(1))},
                              type_of(scalar));
  return {infer(logits, kernels, iterations, damping, 0.0, form, &states), states};
}

std::tuple<Tensor, std::vector<Tensor>> mean_field_backward(
    const Tensor& grad, const Tensor& logits, const Tensor& result, const Tensor& states,
    const std::vector<Tensor>& points, const std::vector<Tensor>& vertices,
    const std::vector<Tensor>& compatibilities, const std::vector<std::string>& normalizations,
    double damping, const std::string& output) {
  const cpu::Output form = differentiable_output_of(output);
  STD_TORCH_CHECK(states.dim() == 4 && states.is_contiguous(),
                  "states must be what mean_field_train returned, got ", shape_of(states));
  const int64_t iterations = states.size(1);
  check_iterations(iterations, damping);
  Kernels kernels(logits, points, vertices, compatibilities, normalizations, iterations);
  const cpu::Scalar scalar = scalar_of(logits, "logits");
  const int64_t batch = logits.size(0), classes = logits.size(1), count = logits.size(2);
  STD_TORCH_CHECK(states.size(0) == batch && states.size(2) == padded_points(count) &&
                      states.size(3) == label_stride(size_of(scalar), classes) &&
                      scalar_of(states, "states") == scalar,
                  "states must be what mean_field_train returned for logits ", shape_of(logits),
                  ", got ", shape_of(states));
  for (const Tensor* given : {&grad, &result}) {
    STD_TORCH_CHECK(shape_of(*given) == shape_of(logits) && scalar_of(*given, "grad") == scalar,
                    "grad and result must have the shape and dtype of logits, ", shape_of(logits),
                    ", got ", shape_of(*given));
  }
  const Tensor upstream = torch::stable::contiguous(grad), q = torch::stable::contiguous(result);
  Tensor grad_logits = make_tensor({batch, classes, count}, type_of(scalar));
  std::vector<std::vector<double>> sums;
  std::vector<double*> sum_data;
  for (const Tensor& weight : kernels.weights()) {
    sums.emplace_back(static_cast<size_t>(weight.numel()), 0.0);
    sum_data.push_back(sums.back().data());
  }
  const auto scalar_size = static_cast<int64_t>(size_of(scalar));
  const int64_t image_bytes = classes * count * scalar_size;
  const int64_t state_bytes = states.numel() / batch * scalar_size;
  const char* upstream_data = static_cast<const char*>(upstream.const_data_ptr());
  const char* q_data = static_cast<const char*>(q.const_data_ptr());
  const char* state_data = static_cast<const char*>(states.const_data_ptr());
  char* to = static_cast<char*>(grad_logits.mutable_data_ptr());
  on_torch_threads([&](const cpu::Executor& executor) {
    for (int64_t b = 0; b < batch; ++b) {
      cpu::backend().mean_field_gradient(
          scalar,
          {count, classes, upstream_data + b * image_bytes, q_data + b * image_bytes,
           state_data + b * state_bytes, kernels.of_image(b), kernels.count(), iterations, damping,
           form, kernels.iteration_weights(), to + b * image_bytes, sum_data.data()},
          executor);
    }
  });
  std::vector<Tensor> grad_compatibilities;
  for (size_t i = 0; i < sums.size(); ++i) {
    const Tensor& weight = kernels.weights()[i];
    std::vector<int64_t> shape;
    for (int64_t axis = 0; axis < weight.dim(); ++axis) shape.push_back(weight.size(axis));
    Tensor grads = make_tensor(shape, type_of(scalar));
    if (scalar == cpu::Scalar::kFloat32) {
      std::copy(sums[i].begin(), sums[i].end(), grads.mutable_data_ptr<float>());
    } else {
      std::copy(sums[i].begin(), sums[i].end(), grads.mutable_data_ptr<double>());
    }
    grad_compatibilities.push_back(grads);
  }
  return {grad_logits, grad_compatibilities};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(densecrf_gpu, CPU, m) {
  m.impl("mean_field", TORCH_BOX(&mean_field));
  m.impl("mean_field_train", TORCH_BOX(&mean_field_train));
  m.impl("mean_field_backward", TORCH_BOX(&mean_field_backward));
}

}  // namespace densecrf
