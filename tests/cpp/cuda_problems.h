// Inputs for the CUDA backend, and what the CPU backend makes of them.
#pragma once

#include <numeric>

#include "cuda_lattice.h"
#include "problems.h"

namespace densecrf::testing {

constexpr Normalization kNormalizations[] = {Normalization::kNone, Normalization::kBefore,
                                             Normalization::kAfter, Normalization::kSymmetric};

// A batch of rasters with features at every point.
template <typename T>
struct Scene {
  std::vector<int64_t> grid;
  int d;
  int64_t batch;
  std::vector<T> features;  // [batch, points, d]

  [[nodiscard]] int64_t points() const {
    return std::accumulate(grid.begin(), grid.end(), int64_t{1}, std::multiplies<>());
  }
  [[nodiscard]] std::vector<T> of_image(const std::vector<T>& values, int64_t b) const {
    const auto each = static_cast<int64_t>(values.size()) / batch;
    return {values.begin() + b * each, values.begin() + (b + 1) * each};
  }
};

// Coordinates over `spatial`, and d - sides channels of an image of patches and some noise.
template <typename T>
Scene<T> picture(std::vector<int64_t> grid, int d, double spatial, uint64_t seed,
                 int64_t batch = 1) {
  Scene<T> scene{std::move(grid), d, batch, {}};
  Random random(seed);
  const auto sides = static_cast<int>(scene.grid.size());
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t p = 0; p < scene.points(); ++p) {
      int64_t rest = p, patch = 0;
      for (int m = 0; m < d; ++m) {
        double value = 0.0;
        if (m < sides) {
          const int64_t at = rest % scene.grid[sides - 1 - m];
          rest /= scene.grid[sides - 1 - m];
          patch += at / 9;
          value = static_cast<double>(at) / spatial;
        } else {
          value = 0.4 * static_cast<double>((patch + m + b) % 5) + 0.2 * random.real();
        }
        scene.features.push_back(static_cast<T>(value));
      }
    }
  }
  return scene;
}

template <typename T>
Scene<T> constant(std::vector<int64_t> grid, int d, int64_t batch = 1) {
  Scene<T> scene{std::move(grid), d, batch, {}};
  scene.features.assign(static_cast<size_t>(batch * scene.points() * d), static_cast<T>(0.3));
  return scene;
}

// Every point on vertices of its own.
template <typename T>
Scene<T> far_flung(std::vector<int64_t> grid, int d, int64_t batch = 1) {
  Scene<T> scene{std::move(grid), d, batch, {}};
  scene.features = noise<T>(batch * scene.points() * d, -300.0, 300.0, 11);
  return scene;
}

template <typename T>
CudaLattice<T> cuda_lattice(const Scene<T>& scene, int64_t spare = 0) {
  return CudaLattice<T>(scene.features, scene.d, scene.batch, scene.grid, spare);
}

// The CPU backend's lattices of the images.
template <typename T>
std::vector<Lattice<T>> cpu_lattices(const Scene<T>& scene) {
  std::vector<Lattice<T>> lattices;
  for (int64_t b = 0; b < scene.batch; ++b) {
    lattices.push_back(build<T>(cpu::backend(), scene.of_image(scene.features, b), scene.d));
  }
  return lattices;
}

}  // namespace densecrf::testing
