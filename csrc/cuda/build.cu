// The build for both scalar types. Compiled without contraction of a*b+c.
#include "build.h"

namespace densecrf::cuda {

void build_lattice(const BuildArguments& arguments, const LatticeShape& shape, void* points,
                   void* vertices, const Context& context) {
  if (shape.scalar_size == 4) {
    build_lattice_of<float>(context, arguments, shape, points, vertices);
  } else {
    build_lattice_of<double>(context, arguments, shape, points, vertices);
  }
}

void copy_lattice(const LatticeShape& from_shape, const void* from_points,
                  const void* from_vertices, const LatticeShape& to_shape, void* to_points,
                  void* to_vertices, const Context& context) {
  if (from_shape.scalar_size == 4) {
    copy_lattice_of<float>(context, from_shape, from_points, from_vertices, to_shape, to_points,
                           to_vertices);
  } else {
    copy_lattice_of<double>(context, from_shape, from_points, from_vertices, to_shape, to_points,
                            to_vertices);
  }
}

// Runs as one block.
static __global__ void __launch_bounds__(kTile)
    write_sizes(int64_t batch, const int32_t* image_count, const int32_t* failure, int64_t* sizes) {
  for (int64_t b = threadIdx.x; b < batch; b += kTile) {
    const int64_t count = image_count[b];
    sizes[b] = *failure == kSound ? count : *failure == kOutOfRange ? -1 : -1 - count;
  }
}

void count_vertices(const LatticeShape& shape, const void* vertices, int64_t* sizes,
                    const Context& context) {
  const LatticeView<float> lattice = lattice_view<float>(shape, vertices, vertices);
  launch(context.stream, write_sizes, 1, kTile, lattice.batch, lattice.image_count, lattice.failure,
         sizes);
}

}  // namespace densecrf::cuda
