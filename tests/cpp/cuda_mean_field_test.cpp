// The CUDA backend's mean field, run by the emulator, against the CPU backend's.
#include "cuda_mean_fields.h"
#include "cuda_schedules.h"

namespace densecrf::testing {

namespace {

template <typename T>
constexpr double kTolerance = sizeof(T) == 4 ? 1e-5 : 1e-11;

// What the CPU backend makes of image b.
template <typename Result, typename T>
std::vector<Result> expected_of(const Problem<T>& problem, int64_t b, Output output) {
  const CpuKernels<T> kernels(problem, b);
  const int64_t points = problem.points();
  const int64_t classes = output == Output::kLabels ? 1 : problem.classes;
  std::vector<Result> result(points * classes);
  with_team(1, [&](const cpu::Executor& executor) {
    cpu::backend().mean_field(
        kScalar<T>,
        {points, problem.classes, problem.logits.data() + b * problem.classes * points,
         kernels.list.data(), static_cast<int>(kernels.list.size()), problem.iterations,
         problem.damping, problem.tolerance, output, result.data(), nullptr, nullptr},
        executor);
  });
  return result;
}

template <typename Result, typename T>
std::vector<Result> expected_of(const Problem<T>& problem, Output output) {
  std::vector<Result> all;
  for (int64_t b = 0; b < problem.images; ++b) {
    const auto one = expected_of<Result>(problem, b, output);
    all.insert(all.end(), one.begin(), one.end());
  }
  return all;
}

// Under every schedule the same bits, near the CPU backend's.
template <typename T>
void compare(const Problem<T>& problem, const std::string& what,
             Output output = Output::kProbabilities) {
  const auto lattices = cuda_lattices(problem);
  const auto expected = expected_of<T>(problem, output);
  std::vector<T> first;
  under_all_schedules([&] {
    const auto found = infer<T>(problem, lattices, output);
    require_near(found, expected, kTolerance<T>, what);
    if (first.empty()) first = found;
    require(found == first, what, ": another schedule, another result");
  });
}

template <typename T>
void every_number_of_classes() {
  for (const int64_t classes : {1, 2, 3, 5, 9, 17, 21, 32, 33, 150}) {
    Problem<T> problem = image_crf<T>({18, 17}, classes, Normalization::kSymmetric);
    compare(problem, text(classes, " classes"));
    problem.iterations = 3;
    compare(problem, text(classes, " classes, three iterations"), Output::kLogits);
  }
}

template <typename T>
void every_compatibility() {
  for (const int64_t classes : {3, 21}) {
    for (const Normalization mode : kNormalizations) {
      Problem<T> problem = image_crf<T>({13, 21}, classes, mode);
      // Without normalisation sums over the points are large: small weights keep Q from saturating.
      const double scale = mode == Normalization::kNone ? 0.05 : 1.0;
      for (auto& k : problem.kernels) k.weights[0] *= static_cast<T>(scale);
      const auto what = text(classes, " classes, normalisation ", static_cast<int>(mode));
      compare(problem, what + ", Potts");
      problem.kernels[0].weights[0] *= T(-0.5);
      compare(problem, what + ", repulsion");
      problem.kernels[0].compatibility = Compatibility::kPerClass;
      problem.kernels[0].weights = noise<T>(classes, 0.2 * scale, 2.0 * scale, 4);
      compare(problem, what + ", per class");
      problem.kernels[1].compatibility = Compatibility::kMatrix;
      problem.kernels[1].weights = noise<T>(classes * classes, -scale, scale, 5);
      compare(problem, what + ", matrix");
    }
  }
}

template <typename T>
void every_schedule() {
  for (const int64_t iterations : {0, 1, 3}) {
    for (const double damping : {0.0, 0.3}) {
      for (const double tolerance : {0.0, 0.05, 10.0}) {
        for (const Output output : {Output::kProbabilities, Output::kLogits}) {
          Problem<T> problem = image_crf<T>({9, 20}, 3, Normalization::kSymmetric, 2);
          problem.iterations = iterations;
          problem.damping = damping;
          problem.tolerance = tolerance;
          compare(problem,
                  text(iterations, " iterations, damping ", damping, ", tolerance ", tolerance,
                       ", output ", static_cast<int>(output)),
                  output);
        }
      }
    }
  }
}

void any_number_of_kernels() {
  for (const int kernels : {0, 1, 3, 6}) {
    Problem<float> problem;
    problem.grid = {300};
    problem.classes = 4;
    problem.iterations = 2;
    problem.logits = noise<float>(4 * 300, -2.0, 2.0, 6);
    for (int k = 0; k < kernels; ++k) {
      problem.kernels.push_back({picture<float>({300}, 1 + k % 4, 30.0, k),
                                 Normalization::kSymmetric,
                                 Compatibility::kPotts,
                                 {0.3f}});
    }
    compare(problem, text(kernels, " kernels"));
  }
}

template <typename T>
void hard_inputs() {
  const auto both = [](const Scene<T>& scene, const std::string& what) {
    for (const int64_t classes : {2, 40}) {
      Problem<T> problem;
      problem.classes = classes;
      problem.images = scene.batch;
      problem.grid = scene.grid;
      problem.logits = noise<T>(scene.batch * scene.points() * classes, -2.0, 2.0, 7);
      problem.kernels.push_back({scene, Normalization::kSymmetric, Compatibility::kPotts, {T(2)}});
      compare(problem, text(what, ", ", classes, " classes"));
    }
  };
  both(constant<T>({1}, 2), "one point");
  both(picture<T>({16, 16}, 5, 9.0, 3), "one tile");
  both(picture<T>({17, 33}, 5, 9.0, 3), "tiles at the border");
  both(picture<T>({5, 9, 11}, 4, 9.0, 3), "a volume");
  both(constant<T>({33, 30}, 5), "a constant image");
  both(picture<T>({1, 600}, 1, 1.0, 3), "chains as long as the image");
  both(far_flung<T>({18, 18}, 5), "noise");
  both(picture<T>({19, 20}, 5, 9.0, 3, 3), "a batch of unequal images");
}

void labels_are_the_largest() {
  for (const int64_t classes : {1, 3, 21, 40}) {
    for (const double damping : {0.0, 0.2}) {
      Problem<float> problem = image_crf<float>({20, 19}, classes, Normalization::kSymmetric, 2);
      problem.iterations = 5;
      problem.damping = damping;
      const auto lattices = cuda_lattices(problem);
      const auto expected = expected_of<int64_t>(problem, Output::kLabels);
      under_all_schedules([&] {
        const auto found = infer<int64_t>(problem, lattices, Output::kLabels);
        int64_t different = 0;
        for (size_t p = 0; p < found.size(); ++p) different += found[p] != expected[p];
        require(different == 0, different, " labels of ", found.size(), " differ");
      });
    }
  }
}

template <typename T>
void ten_iterations() {
  Problem<T> problem = image_crf<T>({24, 31}, 21, Normalization::kSymmetric);
  problem.iterations = 10;
  const auto lattices = cuda_lattices(problem);
  const auto found = infer<int64_t>(problem, lattices, Output::kLabels);
  const auto expected = expected_of<int64_t>(problem, Output::kLabels);
  require(found == expected, "labels differ after ten iterations");
}

// Images of a batch have the bits they have alone.
template <typename T>
void batches() {
  for (const double damping : {0.0, 0.2}) {
    Problem<T> together = image_crf<T>({19, 23}, 5, Normalization::kSymmetric, 3);
    together.iterations = 3;
    together.damping = damping;
    together.tolerance = damping > 0.0 ? 0.05 : 0.0;
    const auto q = infer<T>(together, cuda_lattices(together), Output::kProbabilities);
    const int64_t each = together.points() * together.classes;
    for (int64_t b = 0; b < 3; ++b) {
      Problem<T> alone = together;
      alone.images = 1;
      alone.logits.assign(together.logits.begin() + b * each,
                          together.logits.begin() + (b + 1) * each);
      Scene<T>& scene = alone.kernels[1].scene;
      scene.features = scene.of_image(scene.features, b);
      scene.batch = 1;
      const auto found = infer<T>(alone, cuda_lattices(alone), Output::kProbabilities);
      const std::vector<T> part(q.begin() + b * each, q.begin() + (b + 1) * each);
      require(found == part, "image ", b, " differs from itself alone");
    }
  }
}

// Logits and weights so large that every exponential under- or overflows.
template <typename T>
void extreme_logits() {
  for (const double size : {100.0, 1000.0}) {
    Problem<T> problem = image_crf<T>({9, 10}, 6, Normalization::kSymmetric);
    for (T& logit : problem.logits) logit = logit * static_cast<T>(size / 3.0) + T(17);
    for (auto& k : problem.kernels) k.weights[0] = static_cast<T>(size);
    for (const T value : infer<T>(problem, cuda_lattices(problem), Output::kProbabilities)) {
      require(value >= T(0) && value <= T(1.00001), "Q is ", value);
    }
  }
}

void failed_lattices_give_nothing() {
  for (const double damping : {0.0, 0.2}) {
    Problem<float> problem = image_crf<float>({10, 12}, 3, Normalization::kSymmetric);
    problem.damping = damping;
    problem.fails = true;
    const auto lattices = cuda_lattices(problem);
    for (const float q : infer<float>(problem, lattices, Output::kProbabilities)) {
      require(std::isnan(q), "Q is ", q);
    }
    for (const int64_t label : infer<int64_t>(problem, lattices, Output::kLabels)) {
      require(label == -1, "a label is ", label);
    }
  }
}

// The kernels have no race that a dropped barrier would not show.
void one_tile_after_another() {
  const Problem<float> problem = image_crf<float>({40, 90}, 9, Normalization::kSymmetric);
  const auto lattices = cuda_lattices(problem);
  const auto expected = expected_of<float>(problem, Output::kProbabilities);
  require_near(infer<float>(problem, lattices, Output::kProbabilities), expected, 1e-5, "Q");
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
  test("any iterations, damping and tolerance, float32", every_schedule<float>);
  test("any iterations, damping and tolerance, float64", every_schedule<double>);
  test("any number of kernels", any_number_of_kernels);
  test("hard inputs, float32", hard_inputs<float>);
  test("hard inputs, float64", hard_inputs<double>);
  test("labels are the CPU's", labels_are_the_largest);
  test("labels after ten iterations are the CPU's, float32", ten_iterations<float>);
  test("labels after ten iterations are the CPU's, float64", ten_iterations<double>);
  test("images of a batch do not know of each other, float32", batches<float>);
  test("images of a batch do not know of each other, float64", batches<double>);
  test("extreme logits and weights, float32", extreme_logits<float>);
  test("extreme logits and weights, float64", extreme_logits<double>);
  test("lattices that failed give NaN and no label", failed_lattices_give_nothing);
  return failures;
}

const Mistakes kMistakes({
    {"nothing", one_tile_after_another, {}, true},
    {"no barrier between softmax and splat", one_tile_after_another, {.skipped_barrier = 0}},
    {"no barrier before the next tile", one_tile_after_another, {.skipped_barrier = 1}},
});

}  // namespace

}  // namespace densecrf::testing

int main(int arguments, char** argument) {
  using namespace densecrf::testing;
  if (arguments > 1) return kMistakes.make(argument[1]);
  return run_all() + kMistakes.run_all() == 0 ? 0 : 1;
}
