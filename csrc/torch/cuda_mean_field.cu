// Mean field on CUDA tensors: inference, training, and the gradients.
#include <cmath>
#include <tuple>

#include "cuda_lattices.h"

namespace densecrf {

namespace {

// The kernels of a mean field, checked, as the backend takes them.
class Kernels {
 public:
  Kernels(const Tensor& logits, const std::vector<Tensor>& points,
          const std::vector<Tensor>& vertices, const std::vector<Tensor>& compatibilities,
          const std::vector<std::string>& normalizations, int64_t iterations)
      : weights_(logits, points, vertices, compatibilities, normalizations, iterations) {
    const int64_t loose[] = {logits.size(2)};
    tiles_ = cuda::tile_map(loose, 1);
    for (size_t k = 0; k < points.size(); ++k) {
      const cuda::Lattice lattice =
          checked_lattice(points[k], vertices[k], logits.size(0), logits.size(2), logits, "logits");
      if (k == 0) tiles_ = lattice.shape.tiles;
      for (int side = 0; side < 3; ++side) {
        STD_TORCH_CHECK(tiles_.size[side] == lattice.shape.tiles.size[side],
                        "the lattices of a mean field must be built with the same grid");
      }
      list_.push_back(
          {lattice, normalization_of(normalizations[k]), weights_.kind(k), weights_.of_kernel(k)});
    }
  }

  [[nodiscard]] const cuda::Kernel* data() const { return list_.data(); }
  [[nodiscard]] int count() const { return static_cast<int>(list_.size()); }
  [[nodiscard]] const cuda::TileMap& tiles() const { return tiles_; }
  [[nodiscard]] const Compatibilities& weights() const { return weights_; }

 private:
  Compatibilities weights_;
  cuda::TileMap tiles_{};
  std::vector<cuda::Kernel> list_;
};

// states: what backward needs goes there, or null.
Tensor infer(CudaCall& call, const Tensor& logits, const Kernels& kernels, int64_t iterations,
             double damping, double tolerance, Output form, Tensor* states) {
  const Scalar scalar = scalar_of(logits, "logits");
  const int64_t images = logits.size(0), classes = logits.size(1), count = logits.size(2);
  const Tensor from = torch::stable::contiguous(logits);
  Tensor result = form == Output::kLabels ? call.empty({images, count}, ScalarType::Long)
                                          : call.empty({images, classes, count}, type_of(scalar));
  cuda::mean_field(
      scalar,
      {images, classes, from.const_data_ptr(), kernels.tiles(), kernels.data(), kernels.count(),
       iterations, damping, tolerance, form, result.mutable_data_ptr(),
       states == nullptr ? nullptr : states->mutable_data_ptr(), kernels.weights().by_iteration()},
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
  const Output form = differentiable_output_of(output);
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
  const Output form = differentiable_output_of(output);
  STD_TORCH_CHECK(states.dim() == 5 && states.is_contiguous(),
                  "states must be what mean_field_train returned, got ", shape_of(states));
  const int64_t iterations = states.size(0);
  check_iterations(iterations, damping);
  const Kernels kernels(logits, points, vertices, compatibilities, normalizations, iterations);
  const Scalar scalar = scalar_of(logits, "logits");
  const std::vector<int64_t> expected = states_shape(logits, kernels.tiles(), iterations);
  bool fits = scalar_of(states, "states") == scalar;
  for (int64_t i = 0; i < 5; ++i) fits = fits && states.size(i) == expected[i];
  STD_TORCH_CHECK(fits, "states must be what mean_field_train returned for logits ",
                  shape_of(logits), ", got ", shape_of(states));
  check_like_logits(grad, logits);
  check_like_logits(result, logits);
  CudaCall call(logits);
  const Tensor upstream = torch::stable::contiguous(grad), q = torch::stable::contiguous(result);
  Tensor grad_logits =
      call.empty({logits.size(0), logits.size(1), logits.size(2)}, type_of(scalar));
  std::vector<Tensor> grad_compatibilities;
  std::vector<void*> sums;
  for (const Tensor& weight : kernels.weights().list()) {
    std::vector<int64_t> shape;
    for (int64_t axis = 0; axis < weight.dim(); ++axis) shape.push_back(weight.size(axis));
    grad_compatibilities.push_back(call.empty(shape, type_of(scalar)));
    sums.push_back(grad_compatibilities.back().mutable_data_ptr());
  }
  cuda::mean_field_gradient(
      scalar,
      {logits.size(0), logits.size(1), upstream.const_data_ptr(), q.const_data_ptr(),
       states.const_data_ptr(), kernels.tiles(), kernels.data(), kernels.count(), iterations,
       damping, form, kernels.weights().by_iteration(), grad_logits.mutable_data_ptr(),
       sums.data()},
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
