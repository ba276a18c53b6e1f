// The gradients of mean field and filter on every instruction set of this machine: against finite
// differences of the forward pass in float64, and float32 against float64.
#include <algorithm>
#include <cmath>
#include <string>

#include "mean_field_problems.h"
#include "tiers.h"

namespace densecrf::testing {

namespace {

// The weights of every iteration; empty where iterations share those of the kernels.
template <typename T>
using IterationWeights = std::vector<std::vector<T>>;

template <typename T>
struct Gradients {
  std::vector<T> logits;                     // [classes, points]
  std::vector<std::vector<double>> weights;  // of each kernel, or iteration and kernel
  bool operator==(const Gradients&) const = default;
};

// A mean field that leaves its states, and what its gradient needs.
template <typename T>
class Training {
 public:
  Training(const Backend& backend, const Problem<T>& problem, Output output, int threads,
           const IterationWeights<T>& varying = {})
      : backend_(backend),
        problem_(problem),
        output_(output),
        threads_(threads),
        varying_(varying),
        lattices_(lattices_of(backend, problem)),
        points_(static_cast<int64_t>(problem.logits.size()) / problem.classes) {
    for (size_t k = 0; k < lattices_.size(); ++k) {
      const KernelSpec<T>& spec = problem_.kernels[k];
      kernels_.push_back(
          {lattices_[k].sections(), spec.normalization, spec.compatibility, spec.weights.data()});
    }
    for (const std::vector<T>& weights : varying_) iteration_weights_.push_back(weights.data());
    states_.resize(static_cast<size_t>(problem.iterations * padded_points(points_) *
                                       label_stride(sizeof(T), problem.classes)));
    result_.resize(problem.logits.size());
    with_team(threads_, [&](const cpu::Executor& executor) {
      backend_.mean_field(kScalar<T>,
                          {points_, problem_.classes, problem_.logits.data(), kernels_.data(),
                           static_cast<int>(kernels_.size()), problem_.iterations, problem_.damping,
                           0.0, output_, result_.data(), states_.data(), iteration_weights()},
                          executor);
    });
  }

  [[nodiscard]] const std::vector<T>& result() const { return result_; }

  [[nodiscard]] Gradients<T> gradients(const std::vector<T>& upstream) const {
    Gradients<T> found;
    found.logits.resize(result_.size());
    if (varying_.empty()) {
      for (const KernelSpec<T>& k : problem_.kernels) found.weights.emplace_back(k.weights.size());
    } else {
      for (const std::vector<T>& weights : varying_) found.weights.emplace_back(weights.size());
    }
    std::vector<double*> sums;
    for (std::vector<double>& weights : found.weights) sums.push_back(weights.data());
    with_team(threads_, [&](const cpu::Executor& executor) {
      backend_.mean_field_gradient(
          kScalar<T>,
          {points_, problem_.classes, upstream.data(), result_.data(), states_.data(),
           kernels_.data(), static_cast<int>(kernels_.size()), problem_.iterations,
           problem_.damping, output_, iteration_weights(), found.logits.data(), sums.data()},
          executor);
    });
    return found;
  }

 private:
  const void* const* iteration_weights() const {
    return varying_.empty() ? nullptr : iteration_weights_.data();
  }

  const Backend& backend_;
  Problem<T> problem_;
  Output output_;
  int threads_;
  IterationWeights<T> varying_;
  std::vector<Lattice<T>> lattices_;
  int64_t points_;
  std::vector<cpu::Kernel> kernels_;
  std::vector<const void*> iteration_weights_;
  std::vector<T> states_, result_;
};

template <typename T>
double dot(const std::vector<T>& a, const std::vector<T>& b) {
  double sum = 0.0;
  for (size_t i = 0; i < a.size(); ++i) {
    sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  }
  return sum;
}

std::vector<double> moved(std::vector<double> values, const std::vector<double>& direction,
                          double step) {
  for (size_t i = 0; i < values.size(); ++i) values[i] += step * direction[i];
  return values;
}

constexpr double kStep = 1e-5;

void require_slope(double found, double up, double down, double scale, const std::string& what) {
  const double slope = (up - down) / (2 * kStep);
  require(std::abs(found - slope) <= 1e-6 * (std::abs(slope) + scale), what, ": slope ", found,
          ", by finite differences ", slope);
}

std::vector<float> narrow(const std::vector<double>& values) {
  return {values.begin(), values.end()};
}

Problem<float> narrow(const Problem<double>& problem) {
  Problem<float> result{problem.classes,    narrow(problem.logits), {},
                        problem.iterations, problem.damping,        problem.tolerance};
  for (const KernelSpec<double>& k : problem.kernels) {
    result.kernels.push_back(
        {k.d, narrow(k.features), k.threads, k.normalization, k.compatibility, narrow(k.weights)});
  }
  return result;
}

// Logits and every kernel's weights, each along a random direction; then float32.
void compare_with_differences(const Backend& backend, const Problem<double>& problem, Output output,
                              int threads, const std::string& what) {
  const auto size = static_cast<int64_t>(problem.logits.size());
  const std::vector<double> upstream = noise<double>(size, -1.0, 1.0, 21);
  const Gradients<double> found =
      Training<double>(backend, problem, output, threads).gradients(upstream);
  const auto loss = [&](const Problem<double>& changed) {
    return dot(upstream, Training<double>(backend, changed, output, threads).result());
  };
  const std::vector<double> direction = noise<double>(size, -1.0, 1.0, 22);
  Problem<double> up = problem, down = problem;
  up.logits = moved(problem.logits, direction, kStep);
  down.logits = moved(problem.logits, direction, -kStep);
  const double scale = std::sqrt(static_cast<double>(size));
  require_slope(dot(found.logits, direction), loss(up), loss(down), scale, what + ", logits");
  for (size_t k = 0; k < problem.kernels.size(); ++k) {
    const std::vector<double>& weights = problem.kernels[k].weights;
    const auto along = noise<double>(static_cast<int64_t>(weights.size()), -1.0, 1.0, 23 + k);
    up = down = problem;
    up.kernels[k].weights = moved(weights, along, kStep);
    down.kernels[k].weights = moved(weights, along, -kStep);
    require_slope(dot(found.weights[k], along), loss(up), loss(down), scale,
                  text(what, ", weights of kernel ", k));
  }
  const Gradients<float> single =
      Training<float>(backend, narrow(problem), output, threads).gradients(narrow(upstream));
  require_near(single.logits, found.logits, 2e-3, what + ", logits, float32");
  for (size_t k = 0; k < problem.kernels.size(); ++k) {
    for (size_t i = 0; i < found.weights[k].size(); ++i) {
      require(std::abs(single.weights[k][i] - found.weights[k][i]) <= 2e-4 * scale, what,
              ", float32: weight ", i, " of kernel ", k, " has ", single.weights[k][i],
              ", expected ", found.weights[k][i]);
    }
  }
}

void every_number_of_classes(const Backend& backend) {
  for (const int64_t classes : {1, 2, 5, 9, 21, 32, 33}) {
    Problem<double> problem = image_crf<double>(130, classes, Normalization::kSymmetric);
    const auto what = text(classes, " classes");
    compare_with_differences(backend, problem, Output::kProbabilities, 1, what);
    problem.kernels.pop_back();
    compare_with_differences(backend, problem, Output::kLogits, 1, what + ", one kernel");
  }
}

void every_compatibility(const Backend& backend) {
  for (const int64_t classes : {3, 21}) {
    for (const Normalization mode : {Normalization::kNone, Normalization::kBefore,
                                     Normalization::kAfter, Normalization::kSymmetric}) {
      Problem<double> problem = image_crf<double>(97, classes, mode);
      const double scale = mode == Normalization::kNone ? 0.05 : 1.0;
      for (auto& k : problem.kernels) k.weights[0] *= scale;
      const auto what = text(classes, " classes, normalisation ", static_cast<int>(mode));
      compare_with_differences(backend, problem, Output::kProbabilities, 1, what + ", Potts");
      problem.kernels[0].weights[0] *= -0.5;
      problem.kernels[1].compatibility = Compatibility::kPerClass;
      problem.kernels[1].weights = noise<double>(classes, 0.2 * scale, 2.0 * scale, 4);
      compare_with_differences(backend, problem, Output::kLogits, 1, what + ", per class");
      problem.kernels[0].compatibility = Compatibility::kMatrix;
      problem.kernels[0].weights = noise<double>(classes * classes, -scale, scale, 5);
      compare_with_differences(backend, problem, Output::kProbabilities, 1, what + ", matrix");
    }
  }
}

void every_schedule(const Backend& backend) {
  for (const int64_t iterations : {0, 1, 3}) {
    for (const double damping : {0.0, 0.3}) {
      for (const Output output : {Output::kProbabilities, Output::kLogits}) {
        Problem<double> problem = image_crf<double>(70, 4, Normalization::kAfter);
        problem.iterations = iterations;
        problem.damping = damping;
        compare_with_differences(backend, problem, output, 1,
                                 text(iterations, " iterations, damping ", damping));
      }
    }
  }
}

void every_number_of_points(const Backend& backend) {
  for (const int64_t points : {1, 15, 16, 17, 64, 65, 4097}) {
    Problem<double> problem = image_crf<double>(points, 3, Normalization::kSymmetric);
    problem.damping = points % 2 == 0 ? 0.25 : 0.0;
    compare_with_differences(backend, problem, Output::kProbabilities, 2, text(points, " points"));
  }
}

void no_kernel(const Backend& backend) {
  Problem<double> problem = image_crf<double>(40, 3, Normalization::kSymmetric);
  problem.kernels.clear();
  compare_with_differences(backend, problem, Output::kProbabilities, 1, "no kernel");
}

// Equal weights in every iteration: the gradients of the iterations add up to the shared one.
template <typename T>
void weights_of_their_own(const Backend& backend) {
  for (const double damping : {0.0, 0.2}) {
    Problem<T> problem = image_crf<T>(130, 5, Normalization::kSymmetric);
    problem.iterations = 3;
    problem.damping = damping;
    problem.kernels[1].compatibility = Compatibility::kMatrix;
    problem.kernels[1].weights = noise<T>(25, -1.0, 1.0, 5);
    const auto upstream = noise<T>(130 * 5, -1.0, 1.0, 21);
    const Training<T> shared(backend, problem, Output::kProbabilities, 1);
    IterationWeights<T> varying;
    for (int64_t i = 0; i < problem.iterations; ++i) {
      for (const KernelSpec<T>& k : problem.kernels) varying.push_back(k.weights);
    }
    const Training<T> own(backend, problem, Output::kProbabilities, 1, varying);
    const double limit = sizeof(T) == 4 ? 1e-4 : 1e-11;
    require_near(own.result(), shared.result(), limit, "result");
    const Gradients<T> expected = shared.gradients(upstream), found = own.gradients(upstream);
    require_near(found.logits, expected.logits, limit, "logits");
    for (size_t k = 0; k < problem.kernels.size(); ++k) {
      std::vector<double> sum(expected.weights[k].size());
      for (size_t i = k; i < found.weights.size(); i += problem.kernels.size()) {
        for (size_t j = 0; j < sum.size(); ++j) sum[j] += found.weights[i][j];
      }
      require_near(sum, expected.weights[k], limit, text("weights of kernel ", k));
    }
  }
}

template <typename T>
void extreme_logits(const Backend& backend) {
  for (const Output output : {Output::kProbabilities, Output::kLogits}) {
    for (const double damping : {0.0, 0.5}) {
      Problem<T> problem = image_crf<T>(90, 6, Normalization::kSymmetric);
      problem.damping = damping;
      for (T& logit : problem.logits) logit *= static_cast<T>(1000);
      const Gradients<T> found =
          Training<T>(backend, problem, output, 1).gradients(noise<T>(90 * 6, -1.0, 1.0, 21));
      for (const T value : found.logits) require(std::isfinite(value), "gradient ", value);
      for (const auto& weights : found.weights) {
        for (const double value : weights) require(std::isfinite(value), "weight ", value);
      }
    }
  }
}

// Bands of their own for every thread: whoever works, the gradients are the same.
void thread_counts(const Backend& backend) {
  for (const int64_t classes : {3, 21}) {
    Problem<float> problem = image_crf<float>(2 * 4096 + 1, classes, Normalization::kSymmetric, 2);
    const auto upstream = noise<float>(static_cast<int64_t>(problem.logits.size()), -1.0, 1.0, 21);
    for (const int other : {2, 1}) {
      problem.kernels[0].threads = other;
      const auto with = [&](int threads) {
        return Training<float>(backend, problem, Output::kProbabilities, threads)
            .gradients(upstream);
      };
      const Gradients<float> found = with(2);
      for (const int threads : {1, 5}) {
        require(with(threads) == found, "other gradients with ", threads, " threads");
      }
    }
  }
}

template <typename T>
std::vector<T> feature_gradient(const Backend& backend, const Lattice<T>& lattice,
                                const std::vector<T>& features, int d, const std::vector<T>& values,
                                const std::vector<T>& upstream, int64_t channels,
                                Normalization mode, bool adjoint, int threads) {
  std::vector<T> result(features.size());
  with_team(threads, [&](const cpu::Executor& executor) {
    require(
        backend.feature_gradient(kScalar<T>,
                                 {lattice.sections(), source_of(features, d), values.data(),
                                  upstream.data(), result.data(), channels, mode, adjoint, false},
                                 executor),
        "the lattice's own features were not taken for such");
  });
  return result;
}

void features(const Backend& backend) {
  for (const int d : {1, 2, 3, 5, 9}) {
    for (const int64_t channels : {1, 5, 20, 40}) {
      const auto mode = static_cast<Normalization>((d + channels) % 4);
      const bool adjoint = channels % 2 == 1;
      const auto given = smooth_features<double>(130, d, 31);
      const auto values = noise<double>(130 * channels, -1.0, 1.0, 32);
      const auto upstream = noise<double>(130 * channels, -1.0, 1.0, 33);
      const auto direction = noise<double>(130 * d, -1e-3, 1e-3, 34);
      const auto at = [&](double step) {
        const auto changed = moved(given, direction, step);
        return dot(upstream,
                   filter(backend, build(backend, changed, d), values, channels, mode, adjoint));
      };
      const auto what = text(d, " dimensions, ", channels, " channels");
      const auto found = feature_gradient(backend, build(backend, given, d), given, d, values,
                                          upstream, channels, mode, adjoint, 1);
      require_slope(dot(found, direction), at(kStep), at(-kStep), 1.0, what);
      const auto single = narrow(given);
      require_near(feature_gradient(backend, build(backend, single, d), single, d, narrow(values),
                                    narrow(upstream), channels, mode, adjoint, 1),
                   found, 2e-3, what + ", float32");
    }
  }
}

void features_of_several_bands(const Backend& backend) {
  const int64_t points = 2 * 4096 + 1;
  const auto given = smooth_features<float>(points, 3, 31);
  const auto values = noise<float>(points * 5, -1.0, 1.0, 32);
  const auto upstream = noise<float>(points * 5, -1.0, 1.0, 33);
  const auto with = [&](int bands, int threads) {
    return feature_gradient(backend, build(backend, given, 3, bands), given, 3, values, upstream, 5,
                            Normalization::kSymmetric, false, threads);
  };
  const auto found = with(2, 2);
  require(with(2, 1) == found, "another gradient with one thread");
  require_near(found, with(1, 1), 1e-3, "one band");
}

void other_features_are_told_apart(const Backend& backend) {
  const auto given = smooth_features<float>(200, 3, 31);
  const Lattice<float> lattice = build(backend, given, 3);
  std::vector<float> other = given, result(given.size());
  other[301] += 0.01f;
  const std::vector<float> values(200, 1.0f);
  with_team(1, [&](const cpu::Executor& executor) {
    require(!backend.feature_gradient(
                Scalar::kFloat32,
                {lattice.sections(), source_of(other, 3), values.data(), values.data(),
                 result.data(), 1, Normalization::kAfter, false, false},
                executor),
            "changed features were taken for those of the lattice");
  });
}

const std::vector<TierTest> kTests{
    {"gradients, any number of classes", every_number_of_classes},
    {"gradients, any normalisation and compatibility", every_compatibility},
    {"gradients, any iterations and damping", every_schedule},
    {"gradients, any number of points", every_number_of_points},
    {"gradients without a kernel", no_kernel},
    {"weights of every iteration, float32", weights_of_their_own<float>},
    {"weights of every iteration, float64", weights_of_their_own<double>},
    {"gradients of extreme logits are finite, float32", extreme_logits<float>},
    {"gradients of extreme logits are finite, float64", extreme_logits<double>},
    {"gradients of any thread count are the same", thread_counts},
    {"gradients of features", features},
    {"gradients of features in several bands", features_of_several_bands},
    {"features of another lattice are told apart", other_features_are_told_apart},
};

}  // namespace

}  // namespace densecrf::testing

int main() { return densecrf::testing::run_for_every_tier(densecrf::testing::kTests); }
