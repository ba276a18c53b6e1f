// Mean-field inference on every instruction set of this machine, against the reference and against
// what holds for any inference.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>

#include "mean_field_problems.h"
#include "reference.h"
#include "tiers.h"

namespace densecrf::testing {

namespace {

template <typename T>
constexpr double kTolerance = sizeof(T) == 4 ? 1e-4 : 1e-11;

template <typename T, typename Result = T>
std::vector<Result> infer(const Backend& backend, const Problem<T>& problem,
                          const std::vector<Lattice<T>>& lattices, int threads,
                          Output output = Output::kProbabilities) {
  std::vector<cpu::Kernel> kernels;
  for (size_t k = 0; k < lattices.size(); ++k) {
    const KernelSpec<T>& spec = problem.kernels[k];
    kernels.push_back(
        {lattices[k].sections(), spec.normalization, spec.compatibility, spec.weights.data()});
  }
  const int64_t points = static_cast<int64_t>(problem.logits.size()) / problem.classes;
  std::vector<Result> result(
      static_cast<size_t>(output == Output::kLabels ? points : points * problem.classes));
  with_team(threads, [&](const cpu::Executor& executor) {
    backend.mean_field(kScalar<T>,
                       {points, problem.classes, problem.logits.data(), kernels.data(),
                        static_cast<int>(kernels.size()), problem.iterations, problem.damping,
                        problem.tolerance, output, result.data(), nullptr, nullptr},
                       executor);
  });
  return result;
}

// Planes [classes, points] of the reference's Q.
template <typename T>
std::vector<double> expected_q(const Problem<T>& problem) {
  std::vector<ReferenceLattice<T>> lattices;
  for (const KernelSpec<T>& k : problem.kernels) lattices.emplace_back(k.features, k.d);
  std::vector<ReferenceKernel<T>> kernels;
  for (size_t k = 0; k < lattices.size(); ++k) {
    const KernelSpec<T>& spec = problem.kernels[k];
    kernels.push_back({&lattices[k], spec.normalization, spec.compatibility, spec.weights});
  }
  const std::vector<double> q =
      reference_mean_field(problem.logits, problem.classes, kernels, problem.iterations,
                           problem.damping, problem.tolerance);
  std::vector<double> planes(q.size());
  const size_t classes = static_cast<size_t>(problem.classes), points = q.size() / classes;
  for (size_t i = 0; i < q.size(); ++i) planes[i % classes * points + i / classes] = q[i];
  return planes;
}

// All three outputs against the reference.
template <typename T>
void compare_with_reference(const Backend& backend, const Problem<T>& problem, int threads,
                            const std::string& what) {
  const std::vector<Lattice<T>> lattices = lattices_of(backend, problem);
  const std::vector<double> expected = expected_q(problem);
  const std::vector<T> found = infer(backend, problem, lattices, threads);
  require_near(found, expected, kTolerance<T>, what);
  const std::vector<T> logits = infer(backend, problem, lattices, threads, Output::kLogits);
  for (size_t i = 0; i < logits.size(); ++i) {
    require(std::abs(std::exp(static_cast<double>(logits[i])) - expected[i]) <= kTolerance<T>, what,
            ": logit ", i, " is ", logits[i], ", expected the logarithm of ", expected[i]);
  }
  const auto labels = infer<T, int64_t>(backend, problem, lattices, threads, Output::kLabels);
  const size_t points = labels.size();
  for (size_t p = 0; p < points; ++p) {
    require(labels[p] >= 0 && labels[p] < problem.classes, what, ": label ", labels[p]);
    double highest = 0.0;
    for (int64_t c = 0; c < problem.classes; ++c) {
      highest = std::max(highest, expected[static_cast<size_t>(c) * points + p]);
    }
    require(expected[static_cast<size_t>(labels[p]) * points + p] >= highest - 2 * kTolerance<T>,
            what, ": point ", p, " has label ", labels[p], ", which is not the likeliest");
  }
}

constexpr int64_t kClasses[] = {1, 2, 3, 4, 5, 8, 9, 16, 21, 24, 25, 32, 33, 60};

template <typename T>
void every_number_of_classes(const Backend& backend) {
  for (const int64_t classes : kClasses) {
    Problem<T> problem = image_crf<T>(130, classes, Normalization::kSymmetric);
    compare_with_reference(backend, problem, 1, text(classes, " classes"));
    problem.kernels.pop_back();
    compare_with_reference(backend, problem, 1, text(classes, " classes, one kernel"));
  }
}

template <typename T>
void every_compatibility(const Backend& backend) {
  for (const int64_t classes : {1, 3, 8, 21, 33}) {
    for (const Normalization mode : {Normalization::kNone, Normalization::kBefore,
                                     Normalization::kAfter, Normalization::kSymmetric}) {
      Problem<T> problem = image_crf<T>(97, classes, mode);
      // Without normalisation sums over the points are large: small weights keep Q from saturating.
      const double scale = mode == Normalization::kNone ? 0.05 : 1.0;
      for (auto& k : problem.kernels) k.weights[0] *= static_cast<T>(scale);
      const auto what = text(classes, " classes, normalisation ", static_cast<int>(mode));
      compare_with_reference(backend, problem, 1, what + ", Potts");
      problem.kernels[0].weights[0] *= T(-0.5);
      compare_with_reference(backend, problem, 1, what + ", repulsion");
      problem.kernels[0].compatibility = Compatibility::kPerClass;
      problem.kernels[0].weights = noise<T>(classes, 0.2 * scale, 2.0 * scale, 4);
      compare_with_reference(backend, problem, 1, what + ", per class");
      problem.kernels[1].compatibility = Compatibility::kMatrix;
      problem.kernels[1].weights = noise<T>(classes * classes, -scale, scale, 5);
      compare_with_reference(backend, problem, 1, what + ", matrix");
    }
  }
}

template <typename T>
void every_schedule(const Backend& backend) {
  for (const int64_t iterations : {0, 1, 3}) {
    for (const double damping : {0.0, 0.3}) {
      for (const double tolerance : {0.0, 0.05, 10.0}) {
        for (const int64_t classes : {3, 40}) {
          Problem<T> problem = image_crf<T>(70, classes, Normalization::kSymmetric);
          problem.iterations = iterations;
          problem.damping = damping;
          problem.tolerance = tolerance;
          compare_with_reference(backend, problem, 1,
                                 text(iterations, " iterations, damping ", damping, ", tolerance ",
                                      tolerance, ", ", classes, " classes"));
        }
      }
    }
  }
}

template <typename T>
void every_number_of_points(const Backend& backend) {
  for (const int64_t points : {1, 15, 16, 17, 63, 64, 65, 4097}) {
    Problem<T> problem = image_crf<T>(points, 3, Normalization::kSymmetric);
    compare_with_reference(backend, problem, 2, text(points, " points"));
    problem.damping = 0.2;
    problem.kernels[0].normalization = Normalization::kAfter;
    compare_with_reference(backend, problem, 2, text(points, " points, general"));
  }
}

void any_number_of_kernels(const Backend& backend) {
  for (const int kernels : {0, 1, 3, 24}) {
    Problem<float> problem;
    problem.classes = 4;
    problem.logits = noise<float>(4 * 200, -2.0, 2.0, 6);
    for (int k = 0; k < kernels; ++k) {
      const int d = 1 + k % 4;
      problem.kernels.push_back({d,
                                 smooth_features<float>(200, d, static_cast<uint64_t>(k)),
                                 1,
                                 Normalization::kSymmetric,
                                 Compatibility::kPotts,
                                 {0.3f}});
    }
    compare_with_reference(backend, problem, 1, text(kernels, " kernels"));
  }
}

void hard_features(const Backend& backend) {
  const auto with_features = [](std::vector<float> features, int d) {
    Problem<float> problem;
    problem.classes = 5;
    problem.logits = noise<float>(static_cast<int64_t>(features.size()) / d * 5, -2.0, 2.0, 7);
    problem.kernels.push_back(
        {d, std::move(features), 1, Normalization::kSymmetric, Compatibility::kPotts, {2.0f}});
    return problem;
  };
  compare_with_reference(backend, with_features(std::vector<float>(300 * 5, 1.0f), 5), 1,
                         "identical features");
  compare_with_reference(backend, with_features(noise<float>(300 * 5, -200.0, 200.0, 8), 5), 1,
                         "noise");
  compare_with_reference(backend, with_features(noise<float>(200 * 9, -300.0, 300.0, 9), 9), 1,
                         "wide keys");
  compare_with_reference(backend, with_features(smooth_features<float>(130, 12, 10), 12), 1,
                         "12 dimensions");
}

// Logits and weights so large that every exponential under- or overflows.
template <typename T>
void extreme_logits(const Backend& backend) {
  for (const double size : {100.0, 1000.0}) {
    Problem<T> problem = image_crf<T>(90, 6, Normalization::kSymmetric);
    for (T& logit : problem.logits) logit *= static_cast<T>(size / 3.0);
    for (T& logit : problem.logits) logit += static_cast<T>(17.0);
    const std::vector<Lattice<T>> lattices = lattices_of(backend, problem);
    const std::vector<T> q = infer(backend, problem, lattices, 1);
    require_near(q, expected_q(problem), 2e-3, text("logits of ", size));
    for (auto& k : problem.kernels) k.weights[0] = static_cast<T>(size);
    for (const T value : infer(backend, problem, lattices, 1)) {
      require(value >= T(0) && value <= T(1.00001), "Q is ", value);
    }
  }
}

template <typename T>
void require_distributions(const std::vector<T>& q, int64_t classes, const std::string& what) {
  const size_t points = q.size() / static_cast<size_t>(classes);
  for (size_t p = 0; p < points; ++p) {
    double sum = 0.0;
    for (int64_t c = 0; c < classes; ++c) {
      const double value = static_cast<double>(q[static_cast<size_t>(c) * points + p]);
      require(value >= 0.0, what, ": Q is ", value);
      sum += value;
    }
    require(std::abs(sum - 1.0) < 1e-5, what, ": Q of point ", p, " sums to ", sum);
  }
}

// Bands of their own for every thread: whoever works, Q is the same; one band differs by rounding.
template <typename T>
void thread_counts(const Backend& backend) {
  for (const bool folded : {true, false}) {
    for (const int64_t classes : {3, 21}) {
      const auto mode = folded ? Normalization::kSymmetric : Normalization::kAfter;
      Problem<T> problem = image_crf<T>(2 * 4096 + 1, classes, mode, 1);
      problem.damping = folded ? 0.0 : 0.25;
      const std::vector<T> expected = infer(backend, problem, lattices_of(backend, problem), 1);
      require_distributions(expected, classes, "one thread");
      for (auto& k : problem.kernels) k.threads = 2;
      const std::vector<Lattice<T>> lattices = lattices_of(backend, problem);
      const std::vector<T> found = infer(backend, problem, lattices, 2);
      require_near(found, expected, kTolerance<T>, "two threads");
      for (const int threads : {1, 2, 5}) {
        require(infer(backend, problem, lattices, threads) == found,
                "lattices of two threads infer otherwise with ", threads);
      }
    }
  }
}

void lattices_of_different_thread_counts(const Backend& backend) {
  const int64_t points = 3 * 4096 + 5;
  for (const double damping : {0.0, 0.2}) {
    Problem<float> problem = image_crf<float>(points, 3, Normalization::kSymmetric);
    problem.damping = damping;
    const std::vector<float> expected = infer(backend, problem, lattices_of(backend, problem), 1);
    problem.kernels[0].threads = 3;
    problem.kernels[1].threads = 2;
    const std::vector<Lattice<float>> lattices = lattices_of(backend, problem);
    require(lattices[0].view().bands == 3 && lattices[1].view().bands == 2, "bands as asked for");
    const std::vector<float> found = infer(backend, problem, lattices, 3);
    require_near(found, expected, kTolerance<float>, "bands of 3 and 2 threads");
    require(infer(backend, problem, lattices, 1) == found, "another result with one thread");
  }
}

// One lattice serves many calls; none shows traces of another.
void repeated_calls(const Backend& backend) {
  const Problem<float> small = image_crf<float>(70, 21, Normalization::kSymmetric);
  Problem<float> large = image_crf<float>(5000, 40, Normalization::kAfter);
  large.iterations = 1;
  const auto small_lattices = lattices_of(backend, small),
             large_lattices = lattices_of(backend, large);
  const auto small_q = infer(backend, small, small_lattices, 1);
  const auto large_q = infer(backend, large, large_lattices, 2);
  const auto copies = small_lattices;
  for (int round = 0; round < 3; ++round) {
    require(infer(backend, small, small_lattices, 2) == small_q, "a later call differs");
    require(infer(backend, large, large_lattices, 2) == large_q, "a later large call differs");
  }
  require(copies == small_lattices, "a call changed its lattices");
}

const std::vector<TierTest> kTests{
    {"any number of classes, float32", every_number_of_classes<float>},
    {"any number of classes, float64", every_number_of_classes<double>},
    {"any normalisation and compatibility, float32", every_compatibility<float>},
    {"any normalisation and compatibility, float64", every_compatibility<double>},
    {"any iterations, damping and tolerance, float32", every_schedule<float>},
    {"any iterations, damping and tolerance, float64", every_schedule<double>},
    {"any number of points, float32", every_number_of_points<float>},
    {"any number of points, float64", every_number_of_points<double>},
    {"any number of kernels", any_number_of_kernels},
    {"identical, noisy and far-flung features", hard_features},
    {"extreme logits and weights, float32", extreme_logits<float>},
    {"extreme logits and weights, float64", extreme_logits<double>},
    {"thread counts agree, float32", thread_counts<float>},
    {"thread counts agree, float64", thread_counts<double>},
    {"lattices built by different thread counts", lattices_of_different_thread_counts},
    {"repeated calls do not know of each other", repeated_calls},
};

}  // namespace

}  // namespace densecrf::testing

int main() { return densecrf::testing::run_for_every_tier(densecrf::testing::kTests); }
