// Mean field on CPU tensors: inference, training, and the gradients.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>
#include <tuple>

#include "cpu_tensors.h"

namespace densecrf {

namespace {

// The kernels of a mean field, checked, and their weights as the backend takes them.
class Kernels {
 public:
  Kernels(const Tensor& logits, const std::vector<Tensor>& points,
          const std::vector<Tensor>& vertices, const std::vector<Tensor>& compatibilities,
          const std::vector<std::string>& normalizations, int64_t iterations)
      : count_(points.size()),
        weights_(logits, points, vertices, compatibilities, normalizations, iterations) {
    const Scalar scalar = scalar_of(logits, "logits");
    for (size_t k = 0; k < count_; ++k) {
      lattices_.emplace_back(points[k], vertices[k]);
      lattices_.back().check(logits.size(0), logits.size(2), scalar, "logits");
      list_.push_back(
          {{}, normalization_of(normalizations[k]), weights_.kind(k), weights_.of_kernel(k)});
    }
  }

  // The kernels of image b.
  const cpu::Kernel* of_image(int64_t b) {
    for (size_t k = 0; k < count_; ++k) list_[k].lattice = lattices_[k].sections(b);
    return list_.data();
  }
  [[nodiscard]] int count() const { return static_cast<int>(count_); }
  [[nodiscard]] const Compatibilities& weights() const { return weights_; }

 private:
  size_t count_;
  Compatibilities weights_;
  std::vector<Lattices> lattices_;
  std::vector<cpu::Kernel> list_;
};

// Infers all images; states [B, iterations, padded points, label stride] or null.
Tensor infer(const Tensor& logits, Kernels& kernels, int64_t iterations, double damping,
             double tolerance, Output form, Tensor* states) {
  const Scalar scalar = scalar_of(logits, "logits");
  const int64_t batch = logits.size(0), classes = logits.size(1), count = logits.size(2);
  const bool labels = form == Output::kLabels;
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
           state == nullptr ? nullptr : state + b * state_bytes, kernels.weights().by_iteration()},
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

std::tuple<Tensor, Tensor> mean_field_train(const Tensor& logits, const std::vector<Tensor>& points,
                                            const std::vector<Tensor>& vertices,
                                            const std::vector<Tensor>& compatibilities,
                                            const std::vector<std::string>& normalizations,
                                            int64_t iterations, double damping,
                                            const std::string& output) {
  check_iterations(iterations, damping);
  const Output form = differentiable_output_of(output);
  Kernels kernels(logits, points, vertices, compatibilities, normalizations, iterations);
  const Scalar scalar = scalar_of(logits, "logits");
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
  const Output form = differentiable_output_of(output);
  STD_TORCH_CHECK(states.dim() == 4 && states.is_contiguous(),
                  "states must be what mean_field_train returned, got ", shape_of(states));
  const int64_t iterations = states.size(1);
  check_iterations(iterations, damping);
  Kernels kernels(logits, points, vertices, compatibilities, normalizations, iterations);
  const Scalar scalar = scalar_of(logits, "logits");
  const int64_t batch = logits.size(0), classes = logits.size(1), count = logits.size(2);
  STD_TORCH_CHECK(states.size(0) == batch && states.size(2) == padded_points(count) &&
                      states.size(3) == label_stride(size_of(scalar), classes) &&
                      scalar_of(states, "states") == scalar,
                  "states must be what mean_field_train returned for logits ", shape_of(logits),
                  ", got ", shape_of(states));
  check_like_logits(grad, logits);
  check_like_logits(result, logits);
  const Tensor upstream = torch::stable::contiguous(grad), q = torch::stable::contiguous(result);
  Tensor grad_logits = make_tensor({batch, classes, count}, type_of(scalar));
  std::vector<std::vector<double>> sums;
  std::vector<double*> sum_data;
  for (const Tensor& weight : kernels.weights().list()) {
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
           form, kernels.weights().by_iteration(), to + b * image_bytes, sum_data.data()},
          executor);
    }
  });
  std::vector<Tensor> grad_compatibilities;
  for (size_t i = 0; i < sums.size(); ++i) {
    const Tensor& weight = kernels.weights().list()[i];
    std::vector<int64_t> shape;
    for (int64_t axis = 0; axis < weight.dim(); ++axis) shape.push_back(weight.size(axis));
    Tensor grads = make_tensor(shape, type_of(scalar));
    if (scalar == Scalar::kFloat32) {
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
