// The CUDA backend's mean field for training, run by the emulator, against the CPU backend's.
#include "cuda_mean_fields.h"
#include "cuda_schedules.h"

namespace densecrf::testing {

namespace {

template <typename T>
constexpr double kTolerance = sizeof(T) == 4 ? 5e-5 : 1e-10;

// Weights of every iteration and kernel in place of the problem's; or none.
template <typename T>
using Varying = std::vector<std::vector<T>>;

template <typename T>
std::vector<const void*> pointers(const Varying<T>& varying) {
  std::vector<const void*> list;
  for (const auto& weights : varying) list.push_back(weights.data());
  return list;
}

template <typename T>
struct Training {
  std::vector<T> result;
  std::vector<T> logits;                // gradients of logits
  std::vector<std::vector<T>> weights;  // and of weights
};

template <typename T>
Training<T> train(const Problem<T>& problem, const std::vector<CudaLattice<T>>& lattices,
                  const Varying<T>& varying, const std::vector<T>& upstream, Output output) {
  const auto kernels = cuda_kernels(problem, lattices);
  const auto tiles = cuda::tile_map(problem.grid.data(), static_cast<int>(problem.grid.size()));
  const auto list = pointers(varying);
  const void* const* weights = list.empty() ? nullptr : list.data();
  const int64_t stride = cuda::state_stride(kCudaScalar<T>, problem.classes);
  Bytes states(problem.iterations * problem.images * tiles.tiles * cuda::kTile * stride *
               static_cast<int64_t>(sizeof(T)));
  Training<T> training;
  training.result.assign(problem.logits.size(), T(7));
  training.logits.assign(problem.logits.size(), T(7));
  Memory memory;
  cuda::mean_field(kCudaScalar<T>,
                   {problem.images, problem.classes, problem.logits.data(), tiles, kernels.data(),
                    static_cast<int>(kernels.size()), problem.iterations, problem.damping, 0.0,
                    output, training.result.data(), states.data(), weights},
                   memory.context());
  std::vector<void*> sums;
  const size_t entries = varying.empty() ? kernels.size() : varying.size();
  for (size_t i = 0; i < entries; ++i) {
    training.weights.emplace_back(problem.kernels[i % kernels.size()].weights.size(), T(7));
  }
  for (auto& gradient : training.weights) sums.push_back(gradient.data());
  Memory other;
  cuda::mean_field_gradient(
      kCudaScalar<T>,
      {problem.images, problem.classes, upstream.data(), training.result.data(), states.data(),
       tiles, kernels.data(), static_cast<int>(kernels.size()), problem.iterations, problem.damping,
       output, weights, training.logits.data(), sums.data()},
      other.context());
  return training;
}

template <typename T>
Training<T> expected(const Problem<T>& problem, const Varying<T>& varying,
                     const std::vector<T>& upstream, Output output) {
  const auto list = pointers(varying);
  const void* const* weights = list.empty() ? nullptr : list.data();
  const int64_t points = problem.points(), each = points * problem.classes;
  Training<T> training;
  training.result.resize(problem.logits.size());
  training.logits.resize(problem.logits.size());
  const size_t count = problem.kernels.size();
  std::vector<std::vector<double>> sums;
  std::vector<double*> sum_data;
  for (size_t i = 0; i < (varying.empty() ? count : varying.size()); ++i) {
    sums.emplace_back(problem.kernels[i % count].weights.size(), 0.0);
  }
  for (auto& sum : sums) sum_data.push_back(sum.data());
  for (int64_t b = 0; b < problem.images; ++b) {
    const CpuKernels<T> kernels(problem, b);
    std::vector<T> states(problem.iterations * padded_points(points) *
                          label_stride(sizeof(T), problem.classes));
    T* result = training.result.data() + b * each;
    with_team(1, [&](const cpu::Executor& executor) {
      cpu::backend().mean_field(kScalar<T>,
                                {points, problem.classes, problem.logits.data() + b * each,
                                 kernels.list.data(), static_cast<int>(count), problem.iterations,
                                 problem.damping, 0.0, output, result, states.data(), weights},
                                executor);
      cpu::backend().mean_field_gradient(
          kScalar<T>,
          {points, problem.classes, upstream.data() + b * each, result, states.data(),
           kernels.list.data(), static_cast<int>(count), problem.iterations, problem.damping,
           output, weights, training.logits.data() + b * each, sum_data.data()},
          executor);
    });
  }
  for (const auto& sum : sums) training.weights.emplace_back(sum.begin(), sum.end());
  return training;
}

template <typename T>
void compare(const Problem<T>& problem, const std::string& what,
             Output output = Output::kProbabilities, const Varying<T>& varying = {}) {
  const auto lattices = cuda_lattices(problem);
  const auto upstream = noise<T>(static_cast<int64_t>(problem.logits.size()), -1.0, 1.0, 8);
  const Training<T> right = expected(problem, varying, upstream, output);
  Training<T> first;
  under_all_schedules([&] {
    const Training<T> found = train(problem, lattices, varying, upstream, output);
    require_near(found.result, right.result, kTolerance<T>, what + ", result");
    require_near(found.logits, right.logits, kTolerance<T>, what + ", gradient of logits");
    for (size_t i = 0; i < right.weights.size(); ++i) {
      // Sums over all points, in which much cancels.
      require_near(found.weights[i], right.weights[i], 10 * kTolerance<T>,
                   text(what, ", gradient of weights ", i));
    }
    if (first.result.empty()) first = found;
    require(found.result == first.result && found.logits == first.logits &&
                found.weights == first.weights,
            what, ": another schedule, another result");
  });
}

template <typename T>
void every_number_of_classes() {
  for (const int64_t classes : {1, 2, 3, 21, 33, 150}) {
    Problem<T> problem = image_crf<T>({13, 17}, classes, Normalization::kSymmetric);
    problem.iterations = 2;
    compare(problem, text(classes, " classes"));
  }
}

template <typename T>
void every_compatibility() {
  for (const Normalization mode : kNormalizations) {
    Problem<T> problem = image_crf<T>({13, 18}, 5, mode, 2);
    problem.iterations = 2;
    const double scale = mode == Normalization::kNone ? 0.05 : 1.0;
    for (auto& k : problem.kernels) k.weights[0] *= static_cast<T>(scale);
    const auto what = text("normalisation ", static_cast<int>(mode));
    compare(problem, what + ", Potts");
    problem.kernels[0].compatibility = Compatibility::kPerClass;
    problem.kernels[0].weights = noise<T>(5, 0.2 * scale, 2.0 * scale, 4);
    problem.kernels[1].compatibility = Compatibility::kMatrix;
    problem.kernels[1].weights = noise<T>(25, -scale, scale, 5);
    compare(problem, what + ", per class and matrix");
    Varying<T> varying;
    for (int i = 0; i < 2; ++i) {
      varying.push_back(noise<T>(5, 0.2 * scale, 2.0 * scale, 20 + i));
      varying.push_back(noise<T>(25, -scale, scale, 30 + i));
    }
    compare(problem, what + ", weights of every iteration", Output::kLogits, varying);
  }
}

template <typename T>
void every_schedule() {
  for (const int64_t iterations : {0, 1, 3}) {
    for (const double damping : {0.0, 0.3}) {
      for (const Output output : {Output::kProbabilities, Output::kLogits}) {
        Problem<T> problem = image_crf<T>({9, 20}, 3, Normalization::kSymmetric, 2);
        problem.iterations = iterations;
        problem.damping = damping;
        compare(problem,
                text(iterations, " iterations, damping ", damping, ", output ",
                     static_cast<int>(output)),
                output);
      }
    }
  }
}

template <typename T>
void any_number_of_kernels() {
  for (const int kernels : {0, 1, 6}) {
    Problem<T> problem;
    problem.grid = {300};
    problem.classes = 4;
    problem.iterations = 2;
    problem.logits = noise<T>(4 * 300, -2.0, 2.0, 6);
    for (int k = 0; k < kernels; ++k) {
      problem.kernels.push_back({picture<T>({300}, 1 + k % 4, 30.0, k),
                                 Normalization::kSymmetric,
                                 Compatibility::kPotts,
                                 {T(0.3)}});
    }
    compare(problem, text(kernels, " kernels"));
  }
}

int run_all() {
  int failures = 0;
  const auto test = [&](const char* sentence, void (*body)()) {
    failures += run_test(sentence, body);
  };
  test("any number of classes, float32", every_number_of_classes<float>);
  test("any number of classes, float64", every_number_of_classes<double>);
  test("any normalisation and compatibility, float32", every_compatibility<float>);
  test("any normalisation and compatibility, float64", every_compatibility<double>);
  test("any iterations, damping and output, float32", every_schedule<float>);
  test("any iterations, damping and output, float64", every_schedule<double>);
  test("any number of kernels, float32", any_number_of_kernels<float>);
  test("any number of kernels, float64", any_number_of_kernels<double>);
  return failures;
}

}  // namespace

}  // namespace densecrf::testing

int main() { return densecrf::testing::run_all() == 0 ? 0 : 1; }
