// The CPU backend's surface: plain structs in, plain memory out. It knows no torch; its caller
// lends it threads and memory. The whole backend is compiled once per instruction set (cpu/isa/)
// and backend() picks one at run time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "../key_layout.h"
#include "../kinds.h"

namespace densecrf::cpu {

// run: body(context, 0) ... body(context, tasks - 1), in any order and on any threads; returns when
// all are done.
struct Executor {
  int threads;
  void (*run)(void* self, int tasks, void (*body)(void*, int), void* context);
  void* self;
};

// The feature vectors of the points, divided by their bandwidths: a matrix, or computed on the fly
// from a grid's coordinates and an image's channels.
struct FeatureSource {
  int64_t points;
  int dimensions;

  const void* matrix;  // [points, dimensions] of the lattice's scalar type, or null
  int64_t point_stride;
  int64_t dimension_stride;

  int grid_dimensions;  // 1 .. 3: x, y, z with x fastest
  int64_t grid_size[3];
  double grid_sigma[3];
  const void* image;  // or null
  PixelType pixel_type;
  int channels;
  int64_t grid_stride[3];
  int64_t channel_stride;
  const double* channel_sigma;  // [channels]
};

// Where build_lattice gets the memory of the vertex section from, once its size is known.
struct Allocator {
  void* (*allocate)(void* context, size_t bytes);
  void* context;
};

// A vertex that several bands number (see sections.h).
struct Copy {
  uint32_t primary;
  uint32_t copy;
};

struct LatticeSections {
  const void* points;
  const void* vertices;
};

struct FilterArguments {
  LatticeSections lattice;
  const void* values;  // [points, channels]
  void* result;        // [points, channels]
  int64_t channels;
  Normalization normalization;
  bool adjoint;
};

struct FeatureGradientArguments {
  LatticeSections lattice;
  FeatureSource features;  // what the lattice was built from
  const void* values;      // [points, channels], as they were filtered
  const void* gradient;    // [points, channels], of the filter's result
  void* result;            // [points, dimensions]
  int64_t channels;
  Normalization normalization;
  bool adjoint;
  bool accumulate;  // adds to the result
};

struct Kernel {
  LatticeSections lattice;
  Normalization normalization;
  Compatibility compatibility;
  const void* weights;  // [1], [classes] attraction, or [classes, classes] penalty
};

struct MeanFieldArguments {
  int64_t points;
  int64_t classes;
  const void* logits;  // [classes, points]
  const Kernel* kernels;
  int kernel_count;
  int64_t iterations;
  double damping;
  double tolerance;
  Output output;
  void* result;  // [classes, points], or int64 [points] for labels
  // Where the Q before every iteration stays for backward, or null: [iterations, padded points,
  // label stride], see sections.h. Not with a tolerance.
  void* states;
  // The weights of every iteration in place of the kernels', or null: [iterations, kernels].
  const void* const* iteration_weights;
};

// The gradients of <gradient, result> of a mean field that left its states.
struct MeanFieldGradientArguments {
  int64_t points;
  int64_t classes;
  const void* gradient;  // [classes, points]
  const void* result;    // [classes, points], as inferred
  const void* states;
  const Kernel* kernels;
  int kernel_count;
  int64_t iterations;
  double damping;
  Output output;  // kProbabilities or kLogits, of the result
  const void* const* iteration_weights;
  void* logit_gradient;  // [classes, points]
  // Added to: [1], [classes] or [classes, classes], one for each kernel, or with
  // iteration_weights [iterations, kernels].
  double* const* weight_gradients;
};

struct Backend {
  const char* name;
  // points_section: point_section_bytes(...) bytes.
  void (*build_lattice)(Scalar, const FeatureSource&, const KeyView&, const Executor&,
                        void* points_section, const Allocator& vertices_section);
  void (*filter)(Scalar, const FilterArguments&, const Executor&);
  // False, and no result, if the features are not those of the lattice.
  bool (*feature_gradient)(Scalar, const FeatureGradientArguments&, const Executor&);
  void (*mean_field)(Scalar, const MeanFieldArguments&, const Executor&);
  void (*mean_field_gradient)(Scalar, const MeanFieldGradientArguments&, const Executor&);
};

// The backend for this machine, or the one named by the environment variable DENSECRF_ISA
// (avx512, avx2, baseline). Throws std::invalid_argument if that one cannot run here.
const Backend& backend();

// The instruction-set tiers that run on this machine, the best one first.
std::vector<const Backend*> tiers();

// Range of every scaled feature [dimensions]; throws std::invalid_argument on a NaN or infinity.
KeyLayout plan_keys(Scalar, const FeatureSource&);

// Out of line, so that the instruction-set tiers share no template of the standard library.
void sort_by_primary(Copy* copies, int64_t count);
[[noreturn]] void fail_too_many_vertices(int64_t rows);

}  // namespace densecrf::cpu
