// The operators on CPU tensors: checks, memory and threads of torch for the backend in csrc/cpu.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <exception>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "../cpu/backend.h"
#include "../cpu/memory.h"
#include "../cpu/sections.h"
#include "../cpu/team.h"

namespace densecrf {

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Calls lead(executor) with a team of torch's intra-op threads behind it. Task 0 leads; should
// torch run the tasks one after another, it has finished before a helper looks.
template <typename Lead>
void on_torch_threads(const Lead& lead) {
  const auto threads = static_cast<int>(torch::stable::get_num_threads());
  cpu::Team team(threads);
  std::exception_ptr failure;
  torch::stable::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      if (task > 0) {
        team.help();
        continue;
      }
      try {
        lead(team.executor());
      } catch (...) {
        failure = std::current_exception();
      }
      team.dismiss();
    }
  });
  if (failure) std::rethrow_exception(failure);
}

cpu::Scalar scalar_of(const Tensor& t, const char* name) {
  const ScalarType type = t.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double, name,
                  " must be float32 or float64, got ", torch::headeronly::toString(type));
  return type == ScalarType::Float ? cpu::Scalar::kFloat32 : cpu::Scalar::kFloat64;
}

ScalarType type_of(cpu::Scalar scalar) {
  return scalar == cpu::Scalar::kFloat32 ? ScalarType::Float : ScalarType::Double;
}

size_t size_of(cpu::Scalar scalar) { return scalar == cpu::Scalar::kFloat32 ? 4 : 8; }

std::string shape_of(const Tensor& t) {
  std::string text = "[";
  for (int64_t i = 0; i < t.dim(); ++i) text += (i > 0 ? ", " : "") + std::to_string(t.size(i));
  return text + "]";
}

cpu::Normalization normalization_of(const std::string& name) {
  if (name == "none") return cpu::Normalization::kNone;
  if (name == "before") return cpu::Normalization::kBefore;
  if (name == "after") return cpu::Normalization::kAfter;
  STD_TORCH_CHECK(name == "symmetric",
                  "normalization must be none, before, after or symmetric, got ", name);
  return cpu::Normalization::kSymmetric;
}

cpu::Output output_of(const std::string& name) {
  if (name == "probabilities") return cpu::Output::kProbabilities;
  if (name == "logits") return cpu::Output::kLogits;
  STD_TORCH_CHECK(name == "labels", "output must be probabilities, logits or labels, got ", name);
  return cpu::Output::kLabels;
}

// An uninitialised tensor on the CPU, on huge pages where it is large.
Tensor make_tensor(const std::vector<int64_t>& shape, ScalarType type) {
  Tensor t = torch::stable::empty(shape, type, std::nullopt,
                                  torch::stable::Device(torch::headeronly::DeviceType::CPU));
  const size_t bytes = static_cast<size_t>(t.numel()) * t.element_size();
  if (bytes > 0) cpu::advise_huge_pages(t.mutable_data_ptr(), bytes);
  return t;
}

const VertexHeader& header_at(const Tensor& vertices, int64_t offset) {
  const auto bytes = static_cast<int64_t>(vertices.numel());
  const char* data = static_cast<const char*>(vertices.const_data_ptr());
  STD_TORCH_CHECK(offset + static_cast<int64_t>(sizeof(VertexHeader)) <= bytes,
                  "vertices ends before its image");
  const auto& header = *reinterpret_cast<const VertexHeader*>(data + offset);
  STD_TORCH_CHECK(header.magic == kVertexMagic && offset + header.bytes <= bytes,
                  "vertices is not what build_lattice returned");
  return header;
}

// A batch of lattices as the build operators return them: points [B, bytes], vertices one section
// after another.
class Lattices {
 public:
  Lattices(const Tensor& points, const Tensor& vertices) : points_(points), vertices_(vertices) {
    STD_TORCH_CHECK(
        points.scalar_type() == ScalarType::Byte && points.dim() == 2 && points.is_contiguous(),
        "points must be a contiguous uint8 [B, bytes], got ", shape_of(points));
    STD_TORCH_CHECK(vertices.scalar_type() == ScalarType::Byte && vertices.dim() == 1 &&
                        vertices.is_contiguous(),
                    "vertices must be a contiguous uint8 [bytes], got ", shape_of(vertices));
    for (int64_t offset = 0; offset < vertices.numel();) {
      offsets_.push_back(offset);
      offset += header_at(vertices, offset).bytes;
    }
    STD_TORCH_CHECK(size() == points.size(0), "points holds ", points.size(0), " images, vertices ",
                    size());
    for (int64_t b = 0; b < size(); ++b) {
      const VertexHeader& h = header(b);
      const auto scalar = static_cast<cpu::Scalar>(h.scalar);
      const size_t bytes = point_section_bytes(h.points, h.dimensions, size_of(scalar));
      STD_TORCH_CHECK(static_cast<size_t>(points.size(1)) == bytes, "points has ", points.size(1),
                      " bytes an image, vertices speaks of ", bytes);
    }
  }

  [[nodiscard]] int64_t size() const { return static_cast<int64_t>(offsets_.size()); }

  // Image b; a single lattice serves every image.
  [[nodiscard]] const VertexHeader& header(int64_t b) const {
    return header_at(vertices_, offsets_[size() == 1 ? 0 : b]);
  }

  [[nodiscard]] cpu::LatticeSections sections(int64_t b) const {
    const int64_t at = size() == 1 ? 0 : b;
    return {static_cast<const char*>(points_.const_data_ptr()) + at * points_.size(1),
            static_cast<const char*>(vertices_.const_data_ptr()) + offsets_[at]};
  }

  // The lattices fit `batch` images of `points` points whose values are `scalar`.
  void check(int64_t batch, int64_t points, cpu::Scalar scalar, const char* values) const {
    STD_TORCH_CHECK(size() == batch || size() == 1, values, " holds ", batch,
                    " images, the lattice ", size());
    for (int64_t b = 0; b < size(); ++b) {
      STD_TORCH_CHECK(header(b).points == points, values, " has ", points, " points, the lattice ",
                      header(b).points);
      STD_TORCH_CHECK(header(b).scalar == static_cast<int32_t>(scalar), values,
                      " must have the lattice's dtype");
    }
  }

 private:
  Tensor points_, vertices_;
  std::vector<int64_t> offsets_;
};

// Builds one lattice for each source. A single vertex section is written where it stays.
std::tuple<Tensor, Tensor> build(cpu::Scalar scalar,
                                 const std::vector<cpu::FeatureSource>& sources) {
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

std::tuple<Tensor, Tensor> build_lattice(const Tensor& features) {
  STD_TORCH_CHECK(features.dim() == 3 && features.numel() > 0,
                  "features must be a non-empty [B, N, d], got ", shape_of(features));
  const cpu::Scalar scalar = scalar_of(features, "features");
  std::vector<cpu::FeatureSource> sources;
  for (int64_t b = 0; b < features.size(0); ++b) sources.push_back(source_of(features, b));
  return build(scalar, sources);
}

cpu::PixelType pixel_type_of(const Tensor& image) {
  switch (image.scalar_type()) {
    case ScalarType::Byte:
      return cpu::PixelType::kUint8;
    case ScalarType::Float:
      return cpu::PixelType::kFloat32;
    case ScalarType::Double:
      return cpu::PixelType::kFloat64;
    default:
      STD_TORCH_CHECK(false, "image must be uint8, float32 or float64, got ",
                      torch::headeronly::toString(image.scalar_type()));
  }
}

std::tuple<Tensor, Tensor> build_image_lattice(const std::optional<Tensor>& given,
                                               const std::vector<int64_t>& size,
                                               const std::vector<double>& spatial_sigmas,
                                               const std::vector<double>& channel_sigmas) {
  const auto grid = static_cast<int>(size.size());
  STD_TORCH_CHECK(grid >= 1 && grid <= 3, "size must have 1 to 3 entries, got ", grid);
  STD_TORCH_CHECK(spatial_sigmas.size() == size.size(), "spatial_sigmas must have ", grid,
                  " entries, got ", spatial_sigmas.size());
  for (const int64_t extent : size) {
    STD_TORCH_CHECK(extent > 0, "size must be positive, got ", extent);
  }
  std::vector<int64_t> no_channels{1, 0};
  no_channels.insert(no_channels.end(), size.begin(), size.end());
  const Tensor image = given.has_value() ? *given : make_tensor(no_channels, ScalarType::Byte);
  STD_TORCH_CHECK(image.is_cpu(), "image must be on the CPU");
  STD_TORCH_CHECK(image.dim() == grid + 2 && image.size(0) > 0,
                  "image must be a non-empty [B, channels, *size], got ", shape_of(image));
  const int64_t channels = image.size(1);
  STD_TORCH_CHECK(static_cast<int64_t>(channel_sigmas.size()) == channels,
                  "channel_sigmas must have ", channels, " entries, got ", channel_sigmas.size());
  cpu::FeatureSource source{};
  source.points = 1;
  source.grid_dimensions = grid;
  for (int m = 0; m < grid; ++m) {
    const int64_t axis = grid + 1 - m;  // x is the last
    STD_TORCH_CHECK(image.size(axis) == size[grid - 1 - m], "image must have the size given, got ",
                    shape_of(image));
    STD_TORCH_CHECK(spatial_sigmas[m] > 0, "spatial_sigmas must be positive, got ",
                    spatial_sigmas[m]);
    source.points *= image.size(axis);
    source.grid_size[m] = image.size(axis);
    source.grid_stride[m] = image.stride(axis);
    source.grid_sigma[m] = spatial_sigmas[m];
  }
  source.dimensions = grid + static_cast<int>(channels);
  for (const double sigma : channel_sigmas) {
    STD_TORCH_CHECK(sigma > 0, "channel_sigmas must be positive, got ", sigma);
  }
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
  const bool wide = source.pixel_type == cpu::PixelType::kFloat64;
  return build(wide ? cpu::Scalar::kFloat64 : cpu::Scalar::kFloat32, sources);
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
  const cpu::Scalar scalar = scalar_of(values, "values");
  const int64_t batch = values.size(0), count = values.size(1), channels = values.size(2);
  const Lattices lattices(points, vertices);
  lattices.check(batch, count, scalar, "values");
  const cpu::Normalization mode = normalization_of(normalization);
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
  const cpu::Scalar scalar = scalar_of(values, "values");
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
  const cpu::Normalization mode = normalization_of(normalization);
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

Tensor mean_field(const Tensor& logits, const std::vector<Tensor>& points,
                  const std::vector<Tensor>& vertices, const std::vector<Tensor>& compatibilities,
                  const std::vector<std::string>& normalizations, int64_t iterations,
                  double damping, double tolerance, const std::string& output) {
  STD_TORCH_CHECK(logits.dim() == 3 && logits.numel() > 0,
                  "logits must be a non-empty [B, C, N], got ", shape_of(logits));
  const cpu::Scalar scalar = scalar_of(logits, "logits");
  const size_t kernels = points.size();
  STD_TORCH_CHECK(vertices.size() == kernels && compatibilities.size() == kernels &&
                      normalizations.size() == kernels,
                  "points, vertices, compatibilities and normalizations must have one entry per "
                  "kernel, got ",
                  kernels, ", ", vertices.size(), ", ", compatibilities.size(), " and ",
                  normalizations.size());
  STD_TORCH_CHECK(iterations >= 0, "iterations must not be negative, got ", iterations);
  STD_TORCH_CHECK(damping >= 0.0 && damping < 1.0, "damping must be in [0, 1), got ", damping);
  STD_TORCH_CHECK(!std::isnan(tolerance), "tolerance must be a number, got ", tolerance);
  const int64_t batch = logits.size(0), classes = logits.size(1), count = logits.size(2);
  std::vector<Lattices> lattices;
  std::vector<Tensor> weights;
  std::vector<cpu::Kernel> list;
  for (size_t k = 0; k < kernels; ++k) {
    lattices.emplace_back(points[k], vertices[k]);
    lattices.back().check(batch, count, scalar, "logits");
    weights.push_back(torch::stable::contiguous(compatibilities[k]));
    list.push_back({{},
                    normalization_of(normalizations[k]),
                    compatibility_of(weights.back(), classes, scalar),
                    weights.back().const_data_ptr()});
  }
  const cpu::Output form = output_of(output);
  const bool labels = form == cpu::Output::kLabels;
  const Tensor from = torch::stable::contiguous(logits);
  Tensor result = labels ? make_tensor({batch, count}, ScalarType::Long)
                         : make_tensor({batch, classes, count}, type_of(scalar));
  const auto scalar_size = static_cast<int64_t>(size_of(scalar));
  const int64_t result_bytes = labels ? count * 8 : classes * count * scalar_size;
  const char* data = static_cast<const char*>(from.const_data_ptr());
  char* to = static_cast<char*>(result.mutable_data_ptr());
  on_torch_threads([&](const cpu::Executor& executor) {
    for (int64_t b = 0; b < batch; ++b) {
      for (size_t k = 0; k < kernels; ++k) list[k].lattice = lattices[k].sections(b);
      cpu::backend().mean_field(
          scalar,
          {count, classes, data + b * classes * count * scalar_size, list.data(),
           static_cast<int>(kernels), iterations, damping, tolerance, form, to + b * result_bytes},
          executor);
    }
  });
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
  m.impl("mean_field", TORCH_BOX(&mean_field));
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
