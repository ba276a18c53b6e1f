// Lattices that the CUDA backend builds, for tests that run it in the emulator.
#pragma once

#include <algorithm>

#include "cuda/lattice_build.h"
#include "cuda_problems.h"
#include "cuda_schedules.h"

namespace densecrf::testing {

// A lattice that the device builds, in memory that ends where its data end.
template <typename T>
class Built {
 public:
  Built(const cuda::BuildArguments& arguments)
      : Built(arguments,
              cuda::plan_shape(arguments.from.batch, arguments.from.tiles,
                               arguments.from.dimensions, sizeof(T), arguments.max_vertices)) {
    Memory scratch;
    cuda::build_lattice(arguments, shape, points.data(), vertices.data(), scratch.context());
  }
  Built(const Built& full, const cuda::LatticeShape& smaller) : Built(smaller) {
    Memory scratch;
    cuda::copy_lattice(full.shape, full.points.data(), full.vertices.data(), shape, points.data(),
                       vertices.data(), scratch.context());
  }

  [[nodiscard]] cuda::Lattice given() const { return {shape, points.data(), vertices.data()}; }
  [[nodiscard]] cuda::LatticeView<T> view() const {
    return cuda::lattice_view<T>(shape, points.data(), vertices.data());
  }

  cuda::LatticeShape shape;
  Bytes points, vertices;

 private:
  Built(const cuda::BuildArguments&, const cuda::LatticeShape& planned) : Built(planned) {}
  explicit Built(const cuda::LatticeShape& planned)
      : shape(planned),
        points(cuda::lattice_offsets(planned).points_bytes),
        vertices(cuda::lattice_offsets(planned).vertices_bytes) {
    std::memset(points.data(), emulator::garbage(), static_cast<size_t>(points.bytes()));
    std::memset(vertices.data(), emulator::garbage(), static_cast<size_t>(vertices.bytes()));
  }
};

template <typename T>
cuda::BuildArguments from_matrix(const Scene<T>& scene) {
  cuda::BuildArguments a{};
  a.from.batch = scene.batch;
  a.from.dimensions = scene.d;
  a.from.tiles = cuda::tile_map(scene.grid.data(), static_cast<int>(scene.grid.size()));
  a.from.matrix = scene.features.data();
  a.from.point_stride = scene.d;
  a.from.dimension_stride = 1;
  a.from.batch_stride = scene.points() * scene.d;
  a.max_vertices = scene.points() * (scene.d + 1);
  return a;
}

template <typename P>
void require_equal(const std::string& what, const P* got, const P* expected, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    require(got[i] == expected[i], what, "[", i, "] is ", got[i], ", expected ", expected[i]);
  }
}

// Heads may stand in any order; number(v) is what `got` calls vertex v of `expected`.
template <typename T, typename Number>
void require_same_chains(const cuda::LatticeView<T>& got, const cuda::LatticeView<T>& expected,
                         const Number& number) {
  const int axes = expected.vertices_per_point;
  require_equal("chain_count", got.chain_count, expected.chain_count, axes);
  require_equal("longest_chain", got.longest_chain, expected.longest_chain, axes);
  for (int axis = 0; axis < axes; ++axis) {
    const int32_t count = expected.chain_count[axis];
    const int32_t *found = got.heads_along(axis), *wanted = expected.heads_along(axis);
    std::vector<int32_t> heads(found, found + count), numbered(count);
    std::transform(wanted, wanted + count, numbered.begin(), number);
    std::sort(heads.begin(), heads.end());
    std::sort(numbered.begin(), numbered.end());
    require_equal("chain_head", heads.data(), numbered.data(), count);
  }
}

// A lattice that must not be used stays within its memory and has no vertices.
template <typename T>
void fails_as(const cuda::BuildArguments& arguments, cuda::Failure failure, int64_t size) {
  under_all_schedules([&] {
    const Built<T> built(arguments);
    const cuda::LatticeView<T> view = built.view();
    require(*view.failure == failure, "failure is ", *view.failure);
    const int64_t tiles = view.batch * view.tiles.tiles;
    for (int64_t b = 0; b <= view.batch; ++b)
      require(view.image_first[b] == 0, "vertices are left");
    for (int64_t t = 0; t <= tiles; ++t) require(view.tile_first[t] == 0, "tile rows are left");
    for (int64_t i = 0; i < tiles * view.vertices_per_point * cuda::kTile; ++i) {
      require(view.row[i] == 0, "row ", i, " is ", view.row[i]);
    }
    require(view.vertex_first[0] == 0, "vertex_first is ", view.vertex_first[0]);
    for (int axis = 0; axis < view.vertices_per_point; ++axis) {
      require(view.chain_count[axis] == 0, "chains are left");
    }
    std::vector<int64_t> sizes(view.batch, 7);
    Memory scratch;
    cuda::count_vertices(built.shape, built.vertices.data(), sizes.data(), scratch.context());
    require(sizes[0] == size, "the size is ", sizes[0], ", expected ", size);
  });
}

}  // namespace densecrf::testing
