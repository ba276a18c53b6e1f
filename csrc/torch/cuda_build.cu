// The operators that build lattices, on CUDA tensors; and the module they are loaded by.
#include <Python.h>
#include <torch/csrc/stable/library.h>

#include <optional>
#include <tuple>

#include "../cuda/lattice_build.h"
#include "cuda_call.h"

// Importing the module runs the static initialisers of the library; it has no contents.
PyMODINIT_FUNC PyInit__CUDA() {
  static PyModuleDef definition = {
      PyModuleDef_HEAD_INIT, "_CUDA", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&definition);
}

namespace densecrf {

namespace {

constexpr int64_t kExact = -1;  // as max_vertices: what there are, read back from the device

struct LatticeTensors {
  Tensor points, vertices;
  cuda::LatticeShape shape;
};

// Tensors with at least the room that `shape` asks for.
LatticeTensors make_tensors(const CudaCall& call, const cuda::LatticeShape& shape, int sides) {
  std::vector<int64_t> points{shape.batch};
  for (int a = sides - 1; a >= 0; --a) points.push_back(shape.tiles.size[a]);
  points.push_back(cuda::points_extent(shape));
  LatticeTensors made{call.empty(points, ScalarType::Byte),
                      call.empty({shape.batch, shape.scalar_size, shape.vertices_per_point,
                                  cuda::vertices_extent(shape)},
                                 ScalarType::Byte),
                      shape};
  made.shape = shape_of_lattice(made.points, made.vertices);
  return made;
}

// A lattice with the room it needs; the host waits for the device. One that has failed is kept.
LatticeTensors shrink(CudaCall& call, const LatticeTensors& full, int sides) {
  const auto view = cuda::lattice_view<float>(full.shape, full.points.const_data_ptr(),
                                              full.vertices.const_data_ptr());
  const int64_t tiles = full.shape.batch * full.shape.tiles.tiles;
  int32_t vertices = 0, rows = 0;
  cuda::read_bytes(call.stream(), &vertices, view.image_first + full.shape.batch, sizeof vertices);
  cuda::read_bytes(call.stream(), &rows, view.tile_first + tiles, sizeof rows);
  cuda::wait(call.stream());
  if (vertices == 0) return full;
  cuda::LatticeShape needed = full.shape;
  needed.capacity = cuda::round_capacity(vertices);
  needed.tile_row_capacity = cuda::round_capacity(rows);
  LatticeTensors small = make_tensors(call, needed, sides);
  if (small.shape.capacity > full.shape.capacity ||
      small.shape.tile_row_capacity > full.shape.tile_row_capacity) {
    return full;
  }
  cuda::copy_lattice(full.shape, full.points.const_data_ptr(), full.vertices.const_data_ptr(),
                     small.shape, small.points.mutable_data_ptr(),
                     small.vertices.mutable_data_ptr(), call.context());
  return small;
}

std::tuple<Tensor, Tensor> build(CudaCall& call, cuda::BuildArguments& arguments, Scalar scalar,
                                 int sides, std::optional<int64_t> max_vertices) {
  STD_TORCH_CHECK(!max_vertices || *max_vertices >= 1 || *max_vertices == kExact,
                  "max_vertices must be positive, or -1 for as many as there are, got ",
                  *max_vertices);
  const cuda::FeatureSource& from = arguments.from;
  const bool exact = max_vertices == kExact;
  const int64_t can_be = from.tiles.points * (from.dimensions + 1);
  arguments.max_vertices =
      max_vertices && !exact && *max_vertices < can_be ? *max_vertices : can_be;
  LatticeTensors made =
      make_tensors(call,
                   cuda::plan_shape(from.batch, from.tiles, from.dimensions,
                                    static_cast<int>(size_of(scalar)), arguments.max_vertices),
                   sides);
  cuda::build_lattice(arguments, made.shape, made.points.mutable_data_ptr(),
                      made.vertices.mutable_data_ptr(), call.context());
  if (exact) made = shrink(call, made, sides);
  return {made.points, made.vertices};
}

std::tuple<Tensor, Tensor> build_lattice(const Tensor& features, const std::vector<int64_t>& grid,
                                         std::optional<int64_t> max_vertices) {
  STD_TORCH_CHECK(features.dim() == 3 && features.numel() > 0,
                  "features must be a non-empty [B, N, d], got ", shape_of(features));
  const Scalar scalar = scalar_of(features, "features");
  const std::vector<int64_t> loose{features.size(1)};
  const std::vector<int64_t>& raster = grid.empty() ? loose : grid;
  int64_t points = 1;
  for (const int64_t extent : raster) points *= extent;
  STD_TORCH_CHECK(raster.size() <= 3 && points == features.size(1),
                  "grid must have 1 to 3 sides and ", features.size(1), " points, got ",
                  raster.size(), " sides and ", points, " points");
  CudaCall call(features);
  cuda::BuildArguments arguments{};
  cuda::FeatureSource& from = arguments.from;
  from.batch = features.size(0);
  from.dimensions = static_cast<int>(features.size(2));
  from.tiles = cuda::tile_map(raster.data(), static_cast<int>(raster.size()));
  from.matrix = features.const_data_ptr();
  from.batch_stride = features.stride(0);
  from.point_stride = features.stride(1);
  from.dimension_stride = features.stride(2);
  return build(call, arguments, scalar, static_cast<int>(raster.size()), max_vertices);
}

// Positions alone have no image that would tell the device: see build_lattice.
std::tuple<Tensor, Tensor> build_image_lattice(const std::optional<Tensor>& given,
                                               const std::vector<int64_t>& size,
                                               const std::vector<double>& spatial_sigmas,
                                               const std::vector<double>& channel_sigmas,
                                               std::optional<int64_t> max_vertices) {
  STD_TORCH_CHECK(given.has_value(), "image must be given on CUDA");
  const Tensor& image = *given;
  check_raster(image, size, spatial_sigmas, channel_sigmas);
  STD_TORCH_CHECK(image.numel() > 0, "image must be a non-empty [B, channels, *size], got ",
                  shape_of(image));
  const auto sides = static_cast<int>(size.size());
  const int64_t channels = image.size(1), dimensions = sides + channels;
  STD_TORCH_CHECK(dimensions <= cuda::kMaxDimensions, "image and positions have ", dimensions,
                  " dimensions, on CUDA at most ", cuda::kMaxDimensions);
  CudaCall call(image);
  cuda::BuildArguments arguments{};
  cuda::FeatureSource& from = arguments.from;
  from.batch = image.size(0);
  from.dimensions = static_cast<int>(dimensions);
  from.tiles = cuda::tile_map(size.data(), sides);
  from.sides = sides;
  from.image = image.const_data_ptr();
  from.pixel_type = pixel_type_of(image);
  from.batch_stride = image.stride(0);
  from.channel_stride = image.stride(1);
  for (int m = 0; m < sides; ++m) {
    from.pixel_stride[m] = image.stride(sides + 1 - m);  // x is the last
    arguments.sigmas.value[m] = spatial_sigmas[m];
  }
  for (int64_t k = 0; k < channels; ++k) arguments.sigmas.value[sides + k] = channel_sigmas[k];
  return build(call, arguments, scalar_of(from.pixel_type), sides, max_vertices);
}

Tensor lattice_sizes(const Tensor& vertices) {
  const cuda::LatticeShape shape = shape_of_vertices(vertices);
  CudaCall call(vertices);
  Tensor sizes = call.empty({shape.batch}, ScalarType::Long);
  cuda::count_vertices(shape, vertices.const_data_ptr(), sizes.mutable_data_ptr<int64_t>(),
                       call.context());
  return sizes;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(densecrf_gpu, CUDA, m) {
  m.impl("build_lattice", TORCH_BOX(&build_lattice));
  m.impl("build_image_lattice", TORCH_BOX(&build_image_lattice));
  m.impl("lattice_sizes", TORCH_BOX(&lattice_sizes));
}

}  // namespace densecrf
