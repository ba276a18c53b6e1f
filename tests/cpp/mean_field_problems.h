// Mean fields to be solved: their kernels, and the image CRF that most tests vary.
#pragma once

#include <vector>

#include "problems.h"

namespace densecrf::testing {

using cpu::Backend;

// One kernel: features [points, d], how many threads build its lattice, and what it is used for.
template <typename T>
struct KernelSpec {
  int d;
  std::vector<T> features;
  int threads;
  Normalization normalization;
  Compatibility compatibility;
  std::vector<T> weights;
};

template <typename T>
struct Problem {
  int64_t classes;
  std::vector<T> logits;  // [classes, points]
  std::vector<KernelSpec<T>> kernels;
  int64_t iterations = 2;
  double damping = 0.0;
  double tolerance = 0.0;
};

template <typename T>
std::vector<Lattice<T>> lattices_of(const Backend& backend, const Problem<T>& problem) {
  std::vector<Lattice<T>> lattices;
  for (const KernelSpec<T>& k : problem.kernels) {
    lattices.push_back(build(backend, k.features, k.d, k.threads));
  }
  return lattices;
}

// The image CRF: a kernel of positions, one of positions and colours.
template <typename T>
Problem<T> image_crf(int64_t points, int64_t classes, Normalization mode, int threads = 1) {
  Problem<T> problem;
  problem.classes = classes;
  problem.logits = noise<T>(classes * points, -3.0, 3.0, 1);
  problem.kernels.push_back({2,
                             smooth_features<T>(points, 2, 2),
                             threads,
                             mode,
                             Compatibility::kPotts,
                             {static_cast<T>(1.5)}});
  problem.kernels.push_back({5,
                             smooth_features<T>(points, 5, 3),
                             threads,
                             mode,
                             Compatibility::kPotts,
                             {static_cast<T>(2.5)}});
  return problem;
}

}  // namespace densecrf::testing
