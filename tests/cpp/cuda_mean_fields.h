// Mean fields for the CUDA backend and the CPU backend alike.
#pragma once

#include "cuda_problems.h"

namespace densecrf::testing {

template <typename T>
struct PairwiseKernel {
  Scene<T> scene;
  Normalization normalization;
  Compatibility compatibility;
  std::vector<T> weights;
};

template <typename T>
struct Problem {
  int64_t classes = 3;
  int64_t images = 1;
  std::vector<int64_t> grid;
  std::vector<T> logits;  // [images, classes, points]
  std::vector<PairwiseKernel<T>> kernels;
  int64_t iterations = 1;
  double damping = 0.0;
  double tolerance = 0.0;
  bool fails = false;

  [[nodiscard]] int64_t points() const {
    return static_cast<int64_t>(logits.size()) / (images * classes);
  }
};

template <typename T>
std::vector<CudaLattice<T>> cuda_lattices(const Problem<T>& problem) {
  std::vector<CudaLattice<T>> lattices;
  for (const auto& kernel : problem.kernels) {
    lattices.push_back(cuda_lattice(kernel.scene, 64));
    if (problem.fails) lattices.back().fail();
  }
  return lattices;
}

template <typename T>
std::vector<cuda::Kernel> cuda_kernels(const Problem<T>& problem,
                                       const std::vector<CudaLattice<T>>& lattices) {
  std::vector<cuda::Kernel> kernels;
  for (size_t k = 0; k < lattices.size(); ++k) {
    const auto& kernel = problem.kernels[k];
    kernels.push_back(
        {lattices[k].given(), kernel.normalization, kernel.compatibility, kernel.weights.data()});
  }
  return kernels;
}

// The kernels of image b for the CPU backend.
template <typename T>
struct CpuKernels {
  std::vector<Lattice<T>> lattices;
  std::vector<cpu::Kernel> list;

  CpuKernels(const Problem<T>& problem, int64_t b) {
    for (const auto& kernel : problem.kernels) {
      const Scene<T>& scene = kernel.scene;
      const int64_t image = scene.batch == 1 ? 0 : b;
      lattices.push_back(build<T>(cpu::backend(), scene.of_image(scene.features, image), scene.d));
    }
    for (size_t k = 0; k < lattices.size(); ++k) {
      const auto& kernel = problem.kernels[k];
      list.push_back({lattices[k].sections(), kernel.normalization, kernel.compatibility,
                      kernel.weights.data()});
    }
  }
};

template <typename Result, typename T>
std::vector<Result> infer(const Problem<T>& problem, const std::vector<CudaLattice<T>>& lattices,
                          Output output, cuda::Loop loop = cuda::Loop::kAutomatic,
                          cuda::BlurWay blur = cuda::BlurWay::kAutomatic) {
  const std::vector<cuda::Kernel> kernels = cuda_kernels(problem, lattices);
  const int64_t classes = output == Output::kLabels ? 1 : problem.classes;
  std::vector<Result> result(problem.images * problem.points() * classes, Result(7));
  const auto tiles = cuda::tile_map(problem.grid.data(), static_cast<int>(problem.grid.size()));
  Memory memory;
  cuda::Context context = memory.context();
  context.blur = blur;
  cuda::mean_field(kCudaScalar<T>,
                   {problem.images, problem.classes, problem.logits.data(), tiles, kernels.data(),
                    static_cast<int>(kernels.size()), problem.iterations, problem.damping,
                    problem.tolerance, output, result.data(), nullptr, nullptr, loop},
                   context);
  return result;
}

// A Gaussian and a bilateral kernel over images of patches.
template <typename T>
Problem<T> image_crf(std::vector<int64_t> grid, int64_t classes, Normalization mode,
                     int64_t images = 1) {
  Problem<T> problem;
  problem.classes = classes;
  problem.images = images;
  problem.grid = grid;
  const auto sides = static_cast<int>(grid.size());
  const Scene<T> positions = picture<T>(grid, sides, 3.0, 1);
  problem.logits = noise<T>(images * classes * positions.points(), -3.0, 3.0, 2);
  problem.kernels.push_back({positions, mode, Compatibility::kPotts, {static_cast<T>(1.5)}});
  problem.kernels.push_back({picture<T>(grid, sides + 3, 20.0, 3, images),
                             mode,
                             Compatibility::kPotts,
                             {static_cast<T>(2.5)}});
  return problem;
}

}  // namespace densecrf::testing
