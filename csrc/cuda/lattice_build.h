// The surface of the CUDA backend's build: device memory in, device memory out. Nothing waits for
// the device; every size follows from shapes.
#pragma once

#include "context.h"
#include "features.h"
#include "lattice_view.h"

namespace densecrf::cuda {

// How equal vertices are found. The numbers of vertices depend on it, results do not.
enum class VertexTable : int {
  kAutomatic,  // a bitmap where it is no larger than the hash table would be
  kHash,
  kBitmap,  // also a larger one; throws std::invalid_argument where it cannot be
};

struct BuildArguments {
  FeatureSource from;
  Sigmas sigmas;
  int64_t max_vertices;  // of one image
  VertexTable table;
};

// `shape` is that of the two tensors (set_capacities). Throws std::invalid_argument where features
// of known range span too many bandwidths; what only the device can see goes to
// LatticeView::failure.
void build_lattice(const BuildArguments& arguments, const LatticeShape& shape, void* points,
                   void* vertices, const Context& context);

// Copies a lattice into tensors that have less room to spare.
void copy_lattice(const LatticeShape& from_shape, const void* from_points,
                  const void* from_vertices, const LatticeShape& to_shape, void* to_points,
                  void* to_vertices, const Context& context);

// sizes[b], int64: the vertices of image b; -1 if the lattice's features are out of range, and
// -1 - count if it has more vertices than it was to have.
void count_vertices(const LatticeShape& shape, const void* vertices, int64_t* sizes,
                    const Context& context);

}  // namespace densecrf::cuda
