// The CUDA backend's surface: plain structs of device memory in, device memory out. It knows no
// torch; its caller names the stream and lends the memory. Nothing waits for the device.
#pragma once

#include <cstdint>

#include "../kinds.h"
#include "context.h"
#include "lattice_view.h"

namespace densecrf::cuda {

// How the iterations of few labels are run: launch by launch, or all in one cooperative launch,
// which gives the same bits. Where the choice is automatic, one launch takes problems of at most
// kLoopTiles tiles for each block that is resident at once.
enum class Loop : int { kAutomatic, kLaunches, kCooperative };
// An iteration is 2 + (d + 1) steps, each of which ends in a barrier (every block adds to one
// counter and waits for the last) in place of a launch (the device drains, and the next kernel
// fills it). That saves the same few microseconds at any size. What it costs grows with the size:
// two blocks a processor have fewer loads on their way than each kernel alone has, the blur half.
constexpr int64_t kLoopTiles = 3;

struct Lattice {
  LatticeShape shape;
  const void* points;
  const void* vertices;
};

struct FilterArguments {
  Lattice lattice;
  int64_t images;
  int64_t channels;
  const void* values;  // [images, N, channels]
  void* result;        // [images, N, channels]
  Normalization normalization;
  bool adjoint;
};

struct FeatureGradientArguments {
  Lattice lattice;
  int64_t images;
  int64_t channels;
  const void* features;  // [batch of the lattice, N, d], what the lattice was built from
  const void* values;    // [images, N, channels], as they were filtered
  const void* gradient;  // [images, N, channels], of the filter's result
  // [batch of the lattice, N, d], summed over the images that one lattice serves; NaN for points
  // that lie elsewhere in the lattice than their features do
  void* result;
  Normalization normalization;
  bool adjoint;
};

// A pairwise kernel of the mean field.
struct Kernel {
  Lattice lattice;
  Normalization normalization;
  Compatibility compatibility;
  const void* weights;  // [1], [classes] attraction, or [classes, classes] penalty
};

struct MeanFieldArguments {
  int64_t images;
  int64_t classes;
  const void* logits;  // [images, classes, N]
  TileMap tiles;       // of every kernel's lattice, or of N loose points where there is no kernel
  const Kernel* kernels;
  int kernel_count;
  int64_t iterations;
  double damping;
  double tolerance;
  Output output;
  void* result;  // [images, classes, N], or int64 [images, N] for labels
  // Where the Q before every iteration stays for backward, or null: [iterations, images, tiles,
  // 256, state_stride]. Not with a tolerance.
  void* states;
  // The weights of every iteration in place of the kernels', or null: [iterations, kernels].
  const void* const* iteration_weights;
  Loop loop = Loop::kAutomatic;
};

// Values that the labels of a point take up in the states.
constexpr int64_t state_stride(Scalar scalar, int64_t classes) {
  const int64_t chunk = scalar == Scalar::kFloat32 ? 4 : 2;
  return (classes + chunk - 1) / chunk * chunk;
}

// The gradients of <gradient, result> of a mean field that left its states.
struct MeanFieldGradientArguments {
  int64_t images;
  int64_t classes;
  const void* gradient;  // [images, classes, N]
  const void* result;    // [images, classes, N], as inferred
  const void* states;
  TileMap tiles;
  const Kernel* kernels;
  int kernel_count;
  int64_t iterations;
  double damping;
  Output output;  // kProbabilities or kLogits, of the result
  const void* const* iteration_weights;
  void* logit_gradient;  // [images, classes, N]
  // [1], [classes] or [classes, classes], one for each kernel, or with iteration_weights
  // [iterations, kernels].
  void* const* weight_gradients;
};

void filter(Scalar scalar, const FilterArguments& arguments, const Context& context);
void feature_gradient(Scalar scalar, const FeatureGradientArguments& arguments,
                      const Context& context);
void mean_field(Scalar scalar, const MeanFieldArguments& arguments, const Context& context);
void mean_field_gradient(Scalar scalar, const MeanFieldGradientArguments& arguments,
                         const Context& context);

}  // namespace densecrf::cuda
