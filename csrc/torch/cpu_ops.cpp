// The operators on CPU tensors but those of mean field: checks, memory and threads of torch for the
// backend in csrc/cpu.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>

#include "cpu_tensors.h"

namespace densecrf {

namespace {

// Builds one lattice for each source. A single vertex section is written where it stays.
std::tuple<Tensor, Tensor> build(Scalar scalar, const std::vector<cpu::FeatureSource>& sources) {
  const auto batch = static_cast<int64_t>(sources.size());
  const cpu::FeatureSource& first = sources.front();
  const auto point_bytes =
      static_cast<int64_t>(point_section_bytes(first.points, first.dimensions, size_of(scalar)));
  std::vector<KeyLayout> layouts;
  for (const cpu::FeatureSource& source : sources) {
    layouts.push_back(cpu::plan_keys(scalar, source));
  }
  Tensor points = make_tensor({batch, point_bytes}, ScalarType::Byte);
  std::vector<Tensor> sections;
  const cpu::Allocator allocator{
      [](void* context, size_t bytes) -> void* {
        auto& list = *static_cast<std::vector<Tensor>*>(context);
        list.push_back(make_tensor({static_cast<int64_t>(bytes)}, ScalarType::Byte));
        return list.back().mutable_data_ptr();
      },
      &sections};
  char* point_data = static_cast<char*>(points.mutable_data_ptr());
  on_torch_threads([&](const cpu::Executor& executor) {
    for (int64_t b = 0; b < batch; ++b) {
      cpu::backend().build_lattice(scalar, sources[b], layouts[b].view(), executor,
                                   point_data + b * point_bytes, allocator);
    }
  });
  if (batch == 1) return {points, sections.front()};
  int64_t bytes = 0;
  for (const Tensor& section : sections) bytes += section.numel();
  Tensor vertices = make_tensor({bytes}, ScalarType::Byte);
  char* to = static_cast<char*>(vertices.mutable_data_ptr());
  for (const Tensor& section : sections) {
    std::copy_n(static_cast<const char*>(section.const_data_ptr()), section.numel(), to);
    to += section.numel();
  }
  return {points, vertices};
}

// Image b of features [B, N, d].
cpu::FeatureSource source_of(const Tensor& features, int64_t b) {
  cpu::FeatureSource source{};
  source.points = features.size(1);
  source.dimensions = static_cast<int>(features.size(2));
  source.matrix = static_cast<const char*>(features.const_data_ptr()) +
                  b * features.stride(0) * static_cast<int64_t>(features.element_size());
  source.point_stride = features.stride(1);
  source.dimension_stride = features.stride(2);
  return source;
}

std::tuple<Tensor, Tensor> build_lattice(const Tensor& features, const std::vector<int64_t>&,
                                         std::optional<int64_t>) {
  STD_TORCH_CHECK(features.dim() == 3 && features.numel() > 0,
                  "features must be a non-empty [B, N, d], got ", shape_of(features));
  const Scalar scalar = scalar_of(features, "features");
  std::vector<cpu::FeatureSource> sources;
  for (int64_t b = 0; b < features.size(0); ++b) sources.push_back(source_of(features, b));
  return build(scalar, sources);
}

std::tuple<Tensor, Tensor> build_image_lattice(const std::optional<Tensor>& given,
                                               const std::vector<int64_t>& size,
                                               const std::vector<double>& spatial_sigmas,
                                               const std::vector<double>& channel_sigmas,
                                               std::optional<int64_t>) {
  const auto grid = static_cast<int>(size.size());
  for (const int64_t extent : size) {
    STD_TORCH_CHECK(extent > 0, "size must be positive, got ", extent);
  }
  std::vector<int64_t> no_channels{1, 0};
  no_channels.insert(no_channels.end(), size.begin(), size.end());
  const Tensor image = given.has_value() ? *given : make_tensor(no_channels, ScalarType::Byte);
  STD_TORCH_CHECK(image.is_cpu(), "image must be on the CPU");
  check_raster(image, size, spatial_sigmas, channel_sigmas);
  const int64_t channels = image.size(1);
  cpu::FeatureSource source{};
  source.points = 1;
  source.grid_dimensions = grid;
  for (int m = 0; m < grid; ++m) {
    const int64_t axis = grid + 1 - m;  // x is the last
    source.points *= image.size(axis);
    source.grid_size[m] = image.size(axis);
    source.grid_stride[m] = image.stride(axis);
    source.grid_sigma[m] = spatial_sigmas[m];
  }
  source.dimensions = grid + static_cast<int>(channels);
  source.pixel_type = pixel_type_of(image);
  source.channels = static_cast<int>(channels);
  source.channel_stride = image.stride(1);
  source.channel_sigma = channel_sigmas.data();
  const char* data = channels > 0 ? static_cast<const char*>(image.const_data_ptr()) : nullptr;
  const int64_t step = image.stride(0) * static_cast<int64_t>(image.element_size());
  std::vector<cpu::FeatureSource> sources;
  for (int64_t b = 0; b < image.size(0); ++b) {
    source.image = channels > 0 ? data + b * step : nullptr;
    sources.push_back(source);
  }
  return build(scalar_of(source.pixel_type), sources);
}

Tensor lattice_sizes(const Tensor& vertices) {
  std::vector<int64_t> sizes;
  for (int64_t offset = 0; offset < vertices.numel();) {
    const VertexHeader& header = header_at(vertices, offset);
    sizes.push_back(header.vertices);
    offset += header.bytes;
  }
  Tensor result = make_tensor({static_cast<int64_t>(sizes.size())}, ScalarType::Long);
  std::copy(sizes.begin(), sizes.end(), result.mutable_data_ptr<int64_t>());
  return result;
}

Tensor lattice_filter(const Tensor& points, const Tensor& vertices, const Tensor& values,
                      const std::string& normalization, bool adjoint,
                      const std::optional<Tensor>& /*features*/) {
  STD_TORCH_CHECK(values.dim() == 3, "values must be [B, N, C], got ", shape_of(values));
  const Scalar scalar = scalar_of(values, "values");
  const int64_t batch = values.size(0), count = values.size(1), channels = values.size(2);
  const Lattices lattices(points, vertices);
  lattices.check(batch, count, scalar, "values");
  const Normalization mode = normalization_of(normalization);
  const Tensor from = torch::stable::contiguous(values);
  Tensor result = make_tensor({batch, count, channels}, type_of(scalar));
  const int64_t image_bytes = count * channels * static_cast<int64_t>(size_of(scalar));
  if (image_bytes == 0) return result;
  const char* data = static_cast<const char*>(from.const_data_ptr());
  char* to = static_cast<char*>(result.mutable_data_ptr());
  on_torch_threads([&](const cpu::Executor& executor) {
    for (int64_t b = 0; b < batch; ++b) {
      cpu::backend().filter(scalar,
                            {lattices.sections(b), data + b * image_bytes, to + b * image_bytes,
                             channels, mode, adjoint},
                            executor);
    }
  });
  return result;
}

Tensor lattice_filter_grad_features(const Tensor& points, const Tensor& vertices,
                                    const Tensor& features, const Tensor& values,
                                    const Tensor& grad, const std::string& normalization,
                                    bool adjoint) {
  STD_TORCH_CHECK(values.dim() == 3, "values must be [B, N, C], got ", shape_of(values));
  STD_TORCH_CHECK(shape_of(grad) == shape_of(values), "grad must have the shape of values, ",
                  shape_of(values), ", got ", shape_of(grad));
  const Scalar scalar = scalar_of(values, "values");
  STD_TORCH_CHECK(scalar_of(grad, "grad") == scalar, "grad must have the dtype of values");
  STD_TORCH_CHECK(scalar_of(features, "features") == scalar,
                  "features must have the dtype of values");
  const int64_t batch = values.size(0), count = values.size(1), channels = values.size(2);
  const Lattices lattices(points, vertices);
  lattices.check(batch, count, scalar, "values");
  const int64_t dimensions = lattices.header(0).dimensions;
  STD_TORCH_CHECK(features.dim() == 3 && features.size(0) == lattices.size() &&
                      features.size(1) == count && features.size(2) == dimensions,
                  "features must be [", lattices.size(), ", ", count, ", ", dimensions,
                  "] as the lattice was built from, got ", shape_of(features));
  const Normalization mode = normalization_of(normalization);
  const Tensor from = torch::stable::contiguous(values), upstream = torch::stable::contiguous(grad);
  Tensor result = make_tensor({lattices.size(), count, dimensions}, type_of(scalar));
  const auto scalar_size = static_cast<int64_t>(size_of(scalar));
  const int64_t image_bytes = count * channels * scalar_size;
  const int64_t result_bytes = count * dimensions * scalar_size;
  const char* data = static_cast<const char*>(from.const_data_ptr());
  const char* upstream_data = static_cast<const char*>(upstream.const_data_ptr());
  char* to = static_cast<char*>(result.mutable_data_ptr());
  if (batch == 0) std::fill_n(to, result.numel() * scalar_size, '\0');
  bool same = true;
  on_torch_threads([&](const cpu::Executor& executor) {
    for (int64_t b = 0; b < batch; ++b) {
      const int64_t at = lattices.size() == 1 ? 0 : b;
      same = cpu::backend().feature_gradient(
                 scalar,
                 {lattices.sections(b), source_of(features, at), data + b * image_bytes,
                  upstream_data + b * image_bytes, to + at * result_bytes, channels, mode, adjoint,
                  at != b},
                 executor) &&
             same;
    }
  });
  STD_TORCH_CHECK(same, "features are not those the lattice was built from");
  return result;
}

std::string cpu_isa() { return cpu::backend().name; }

int64_t workspace_bytes() { return static_cast<int64_t>(cpu::workspace_bytes()); }

void clear_workspaces() { cpu::clear_workspaces(); }

void set_workspace_limit(int64_t bytes) {
  STD_TORCH_CHECK(bytes >= 0, "bytes must not be negative, got ", bytes);
  cpu::set_workspace_limit(static_cast<size_t>(bytes));
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(densecrf_gpu, CPU, m) {
  m.impl("build_lattice", TORCH_BOX(&build_lattice));
  m.impl("lattice_sizes", TORCH_BOX(&lattice_sizes));
  m.impl("lattice_filter", TORCH_BOX(&lattice_filter));
  m.impl("lattice_filter_grad_features", TORCH_BOX(&lattice_filter_grad_features));
}

// Calls without a tensor, which would tell the device, are answered for every device.
STABLE_TORCH_LIBRARY_IMPL(densecrf_gpu, CompositeExplicitAutograd, m) {
  m.impl("build_image_lattice", TORCH_BOX(&build_image_lattice));
  m.impl("cpu_isa", TORCH_BOX(&cpu_isa));
  m.impl("workspace_bytes", TORCH_BOX(&workspace_bytes));
  m.impl("clear_workspaces", TORCH_BOX(&clear_workspaces));
  m.impl("set_workspace_limit", TORCH_BOX(&set_workspace_limit));
}

}  // namespace densecrf
