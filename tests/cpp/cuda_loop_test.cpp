// All iterations of the mean field in one cooperative launch, run by the emulator: the bits of the
// way launch by launch, which cuda_mean_field_test.cpp holds against the CPU backend.
#include "cuda_mean_fields.h"
#include "cuda_schedules.h"

namespace densecrf::testing {

namespace {

using cuda::BlurWay;
using cuda::Loop;

// Launch by launch, then as one launch under every schedule.
template <typename Result, typename T>
void compare(const Problem<T>& problem, const std::string& what, Output output,
             BlurWay blur = BlurWay::kTwoBuffers) {
  const auto lattices = cuda_lattices(problem);
  const auto expected = infer<Result>(problem, lattices, output, Loop::kLaunches);
  under_all_schedules([&] {
    const auto found = infer<Result>(problem, lattices, output, Loop::kCooperative, blur);
    require(std::memcmp(found.data(), expected.data(), found.size() * sizeof(Result)) == 0, what,
            ": one launch gives other bits than many");
  });
}

template <typename T>
void compare(const Problem<T>& problem, const std::string& what) {
  compare<T>(problem, what, Output::kProbabilities);
}

// Labels that take 1 to 8 chunks.
template <typename T>
void every_width() {
  const std::vector<int64_t> of_float = {1, 2, 3, 8, 11, 16, 19, 21, 32},
                             of_double = {1, 2, 3, 5, 8, 9, 11, 16};
  for (const int64_t classes : sizeof(T) == 4 ? of_float : of_double) {
    for (const int64_t iterations : {1, 2, 3}) {
      Problem<T> problem = image_crf<T>({18, 40}, classes, Normalization::kSymmetric);
      problem.iterations = iterations;
      compare(problem, text(classes, " classes, ", iterations, " iterations"));
    }
  }
}

// Lattices of 2, 3 and 6 vertices a point, in any company: the blur has as many steps as the widest
// needs, and an odd number of steps leaves the rows in another buffer every other time.
void any_kernels() {
  const std::vector<std::vector<int>> dimensions = {{1}, {2}, {5}, {2, 5}, {5, 1, 2}};
  for (const auto& each : dimensions) {
    for (const int64_t iterations : {1, 2, 4}) {
      Problem<float> problem;
      problem.grid = {300};
      problem.classes = 4;
      problem.iterations = iterations;
      problem.logits = noise<float>(4 * 300, -2.0, 2.0, 6);
      for (const int d : each) {
        problem.kernels.push_back({picture<float>({300}, d, 30.0, d),
                                   Normalization::kSymmetric,
                                   Compatibility::kPotts,
                                   {0.3f}});
      }
      problem.kernels.back().compatibility = Compatibility::kPerClass;
      problem.kernels.back().weights = noise<float>(4, 0.1, 0.5, 8);
      const auto what = text(each.size(), " kernels, the first of ", each[0], " dimensions, ",
                             iterations, " iterations");
      compare(problem, what);
      compare<float>(problem, what + ", in place", Output::kLogits, BlurWay::kInPlace);
    }
  }
}

template <typename T>
void any_output() {
  for (const Normalization mode : kNormalizations) {
    Problem<T> problem = image_crf<T>({20, 19}, 5, mode, 2);
    problem.iterations = 3;
    for (auto& kernel : problem.kernels) kernel.weights[0] *= T(0.1);
    const auto what = text("normalisation ", static_cast<int>(mode));
    compare<T>(problem, what + ", probabilities", Output::kProbabilities);
    compare<T>(problem, what + ", logits", Output::kLogits);
    compare<int64_t>(problem, what + ", labels", Output::kLabels);
  }
}

template <typename T>
void hard_inputs() {
  const auto with = [](const Scene<T>& scene, const std::string& what) {
    Problem<T> problem;
    problem.classes = 3;
    problem.iterations = 3;
    problem.images = scene.batch;
    problem.grid = scene.grid;
    problem.logits = noise<T>(scene.batch * scene.points() * 3, -2.0, 2.0, 7);
    problem.kernels.push_back({scene, Normalization::kSymmetric, Compatibility::kPotts, {T(2)}});
    compare(problem, what);
  };
  with(constant<T>({1}, 2), "one point");
  with(constant<T>({33, 30}, 5), "a constant image");
  with(picture<T>({1, 600}, 1, 0.5, 3), "chains as long as the image");
  with(picture<T>({5, 9, 11}, 4, 9.0, 3), "a volume");
  with(far_flung<T>({18, 18}, 5), "noise");
  with(picture<T>({19, 20}, 5, 9.0, 3, 3), "a batch of unequal images");
}

void failed_lattices_give_nothing() {
  Problem<float> problem = image_crf<float>({10, 12}, 3, Normalization::kSymmetric);
  problem.fails = true;
  const auto lattices = cuda_lattices(problem);
  for (const float q : infer<float>(problem, lattices, Output::kProbabilities, Loop::kCooperative))
    require(std::isnan(q), "Q is ", q);
  for (const int64_t label : infer<int64_t>(problem, lattices, Output::kLabels, Loop::kCooperative))
    require(label == -1, "a label is ", label);
}

emulator::Statistics counted(const Problem<float>& problem, Loop loop) {
  const auto lattices = cuda_lattices(problem);
  emulator::reset_statistics();
  infer<float>(problem, lattices, Output::kProbabilities, loop);
  return emulator::statistics();
}

// An iteration of lattices of up to 6 vertices a point: partial rows, 6 axes, points.
constexpr int64_t kSteps = 1 + 6 + 1;

void one_launch_in_place_of_many() {
  Problem<float> problem = image_crf<float>({20, 19}, 5, Normalization::kSymmetric);
  for (const int64_t iterations : {1, 4}) {
    problem.iterations = iterations;
    const auto many = counted(problem, Loop::kLaunches), one = counted(problem, Loop::kCooperative);
    require(many.grid_barriers == 0, many.grid_barriers, " grid barriers between launches");
    require(many.launches - one.launches == iterations * kSteps, many.launches, " launches became ",
            one.launches, ", for ", iterations, " iterations");
    require(one.grid_barriers == iterations * kSteps, one.grid_barriers, " grid barriers in ",
            iterations, " iterations");
  }
}

// Where there is a choice: few tiles go through in one launch.
void size_decides() {
  const int64_t most = cuda::kLoopTiles * emulator::resident_blocks();
  for (const int64_t tiles : {most, most + 1}) {
    const auto problem = image_crf<float>({16, 16 * tiles}, 2, Normalization::kSymmetric);
    const bool loops = counted(problem, Loop::kAutomatic).grid_barriers > 0;
    require(loops == (tiles <= most), tiles, " tiles on ", emulator::resident_blocks(),
            " resident blocks");
  }
}

// What the loop is not for goes the general way, whatever is asked for.
void the_general_way_has_no_loop() {
  Problem<float> problem = image_crf<float>({10, 12}, 3, Normalization::kSymmetric);
  const auto goes = [&](const char* what) {
    require(counted(problem, Loop::kCooperative).grid_barriers == 0, what, " went into the loop");
    compare(problem, what);
  };
  problem.iterations = 0;
  goes("no iteration");
  problem.iterations = 2;
  problem.damping = 0.2;
  goes("damping");
}

void three_iterations() {
  Problem<float> problem = image_crf<float>({20, 36}, 5, Normalization::kSymmetric);
  problem.iterations = 3;
  compare(problem, "three iterations");
}

void three_iterations_in_place() {
  Problem<float> problem = image_crf<float>({20, 36}, 5, Normalization::kSymmetric);
  problem.iterations = 3;
  compare<float>(problem, "three iterations", Output::kProbabilities, BlurWay::kInPlace);
}

// Vertices in more tiles than one group of lanes adds up, in either of two lattices.
void flat_regions() {
  Problem<float> problem;
  problem.classes = 2;
  problem.grid = {96, 96};
  problem.logits = noise<float>(2 * 96 * 96, -2.0, 2.0, 7);
  for (const int d : {2, 1}) {
    problem.kernels.push_back({constant<float>(problem.grid, d),
                               Normalization::kSymmetric,
                               Compatibility::kPotts,
                               {1.5f}});
  }
  compare(problem, "flat regions");
}

int run_all() {
  int failures = 0;
  const auto test = [&](const char* sentence, void (*body)()) {
    failures += run_test(sentence, body);
  };
  test("any number of labels, float32", every_width<float>);
  test("any number of labels, float64", every_width<double>);
  test("one to three kernels of any dimensions", any_kernels);
  test("any normalisation and output, float32", any_output<float>);
  test("any normalisation and output, float64", any_output<double>);
  test("hard inputs, float32", hard_inputs<float>);
  test("hard inputs, float64", hard_inputs<double>);
  test("long lists of partial rows", flat_regions);
  test("lattices that failed give NaN and no label", failed_lattices_give_nothing);
  test("a grid barrier in place of every launch", one_launch_in_place_of_many);
  test("the size decides where there is a choice", size_decides);
  test("the general way has no loop", the_general_way_has_no_loop);
  return failures;
}

emulator::Faults without_grid_barrier(int64_t number) { return {.skipped_grid_barrier = number}; }

const Mistakes kMistakes({
    {"nothing", three_iterations, {}, true},
    {"no grid barrier between splat and sums", three_iterations, without_grid_barrier(0)},
    {"no grid barrier between sums and blur", flat_regions, without_grid_barrier(1)},
    {"no grid barrier between two axes", three_iterations, without_grid_barrier(2)},
    {"no grid barrier between blur and slice", three_iterations, without_grid_barrier(7)},
    {"nothing, in place", three_iterations_in_place, {}, true},
    {"no grid barrier between two axes in place", three_iterations_in_place,
     without_grid_barrier(3)},
    {"no grid barrier between iterations", three_iterations, without_grid_barrier(8)},
    {"no grid barrier between axes, in the last iteration", three_iterations,
     without_grid_barrier(21)},
});

}  // namespace

}  // namespace densecrf::testing

int main(int arguments, char** argument) {
  using namespace densecrf::testing;
  if (arguments > 1) return kMistakes.make(argument[1]);
  return run_all() + kMistakes.run_all() == 0 ? 0 : 1;
}
