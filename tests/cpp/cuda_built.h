// Lattices that the CUDA backend builds, for tests that run it in the emulator.
#pragma once

#include "cuda/lattice_build.h"
#include "cuda_problems.h"

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
    std::memset(points.data(), 0xff, static_cast<size_t>(points.bytes()));
    std::memset(vertices.data(), 0xff, static_cast<size_t>(vertices.bytes()));
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

}  // namespace densecrf::testing
