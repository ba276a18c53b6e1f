// The filter on CUDA tensors.
#include <optional>

#include "cuda_lattices.h"

namespace densecrf {

namespace {

Tensor lattice_filter(const Tensor& points, const Tensor& vertices, const Tensor& values,
                      const std::string& normalization, bool adjoint,
                      const std::optional<Tensor>& /*features, for their gradient alone*/) {
  STD_TORCH_CHECK(values.dim() == 3, "values must be [B, N, C], got ", shape_of(values));
  const cuda::Scalar scalar = scalar_of(values, "values");
  const int64_t images = values.size(0), count = values.size(1), channels = values.size(2);
  const cuda::Lattice lattice = checked_lattice(points, vertices, images, count, values, "values");
  const cuda::Normalization mode = normalization_of(normalization);
  CudaCall call(values);
  const Tensor from = torch::stable::contiguous(values);
  Tensor result = call.empty({images, count, channels}, type_of(scalar));
  cuda::filter(
      scalar,
      {lattice, images, channels, from.const_data_ptr(), result.mutable_data_ptr(), mode, adjoint},
      call.context());
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(densecrf_gpu, CUDA, m) {
  m.impl("lattice_filter", TORCH_BOX(&lattice_filter));
}

}  // namespace densecrf
