// The filter on CUDA tensors.
#include <optional>

#include "cuda_lattices.h"

namespace densecrf {

namespace {

Tensor lattice_filter(const Tensor& points, const Tensor& vertices, const Tensor& values,
                      const std::string& normalization, bool adjoint,
                      const std::optional<Tensor>& /*features, for their gradient alone*/) {
  STD_TORCH_CHECK(values.dim() == 3, "values must be [B, N, C], got ", shape_of(values));
  const Scalar scalar = scalar_of(values, "values");
  const int64_t images = values.size(0), count = values.size(1), channels = values.size(2);
  const cuda::Lattice lattice = checked_lattice(points, vertices, images, count, values, "values");
  const Normalization mode = normalization_of(normalization);
  CudaCall call(values);
  const Tensor from = torch::stable::contiguous(values);
  Tensor result = call.empty({images, count, channels}, type_of(scalar));
  cuda::filter(
      scalar,
      {lattice, images, channels, from.const_data_ptr(), result.mutable_data_ptr(), mode, adjoint},
      call.context());
  return result;
}

// Points whose features are not those the lattice was built from get NaN: finding out that there is
// one, and raising, would make the host wait.
Tensor lattice_filter_grad_features(const Tensor& points, const Tensor& vertices,
                                    const Tensor& features, const Tensor& values,
                                    const Tensor& grad, const std::string& normalization,
                                    bool adjoint) {
  STD_TORCH_CHECK(values.dim() == 3, "values must be [B, N, C], got ", shape_of(values));
  STD_TORCH_CHECK(shape_of(grad) == shape_of(values), "grad must have the shape of values, ",
                  shape_of(values), ", got ", shape_of(grad));
  const Scalar scalar = scalar_of(values, "values");
  const int64_t images = values.size(0), count = values.size(1), channels = values.size(2);
  const cuda::Lattice lattice = checked_lattice(points, vertices, images, count, values, "values");
  const int64_t batch = lattice.shape.batch, dimensions = lattice.shape.vertices_per_point - 1;
  for (const Tensor* given : {&features, &grad}) {
    STD_TORCH_CHECK(scalar_of(*given, "features and grad") == scalar && is_on_device(*given) &&
                        given->get_device_index() == values.get_device_index(),
                    "features and grad must have the dtype and device of values");
  }
  STD_TORCH_CHECK(features.dim() == 3 && features.size(0) == batch && features.size(1) == count &&
                      features.size(2) == dimensions,
                  "features must be [", batch, ", ", count, ", ", dimensions,
                  "] as the lattice was built from, got ", shape_of(features));
  CudaCall call(values);
  const Tensor from = torch::stable::contiguous(values), upstream = torch::stable::contiguous(grad);
  const Tensor places = torch::stable::contiguous(features);
  Tensor result = call.empty({batch, count, dimensions}, type_of(scalar));
  cuda::feature_gradient(scalar,
                         {lattice, images, channels, places.const_data_ptr(), from.const_data_ptr(),
                          upstream.const_data_ptr(), result.mutable_data_ptr(),
                          normalization_of(normalization), adjoint},
                         call.context());
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(densecrf_gpu, CUDA, m) {
  m.impl("lattice_filter", TORCH_BOX(&lattice_filter));
  m.impl("lattice_filter_grad_features", TORCH_BOX(&lattice_filter_grad_features));
}

}  // namespace densecrf
