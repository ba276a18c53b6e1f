// What the operators that use lattices on CUDA share: lattices, checked.
#pragma once

#include <torch/csrc/stable/library.h>

#include "../cuda/backend.h"
#include "cuda_call.h"

namespace densecrf {

// The lattice of the two tensors, which fits `images` images of `points` points whose values,
// called `values`, have the dtype and device of `like`.
inline cuda::Lattice checked_lattice(const Tensor& points, const Tensor& vertices, int64_t images,
                                     int64_t count, const Tensor& like, const char* values) {
  const cuda::LatticeShape shape = shape_of_lattice(points, vertices);
  STD_TORCH_CHECK(points.get_device_index() == like.get_device_index(), values,
                  " must be on the lattice's device");
  STD_TORCH_CHECK(shape.batch == images || shape.batch == 1, values, " holds ", images,
                  " images, the lattice ", shape.batch);
  STD_TORCH_CHECK(shape.tiles.points == count, values, " has ", count, " points, the lattice ",
                  shape.tiles.points);
  STD_TORCH_CHECK(shape.scalar_size == static_cast<int>(size_of(scalar_of(like, values))), values,
                  " must have the lattice's dtype");
  return {shape, points.const_data_ptr(), vertices.const_data_ptr()};
}

}  // namespace densecrf
