// The blur in place along chains, run by the emulator, against the blur from buffer to buffer: they
// must not differ by a bit.
#include "cuda/blur.h"
#include "cuda_built.h"
#include "cuda_mean_fields.h"
#include "cuda_schedules.h"

namespace densecrf::testing {

namespace {

using cuda::BlurWay;

template <typename T>
std::vector<T> filter(const cuda::Lattice& lattice, const std::vector<T>& values, int64_t images,
                      int64_t channels, bool adjoint, BlurWay way) {
  Memory memory;
  cuda::Context context = memory.context();
  context.blur = way;
  std::vector<T> result(values.size(), T(7));
  cuda::filter(
      kCudaScalar<T>,
      {lattice, images, channels, values.data(), result.data(), Normalization::kSymmetric, adjoint},
      context);
  return result;
}

template <typename T>
void same_filter(const cuda::Lattice& lattice, int64_t images, int64_t channels,
                 const std::string& what) {
  const int64_t points = lattice.shape.tiles.points;
  const auto values = noise<T>(images * points * channels, -1.0, 1.0, 5);
  for (const bool adjoint : {false, true}) {
    const auto expected = filter(lattice, values, images, channels, adjoint, BlurWay::kTwoBuffers);
    under_all_schedules([&] {
      const auto found = filter(lattice, values, images, channels, adjoint, BlurWay::kInPlace);
      require(found == expected, what, adjoint ? ", adjoint" : "", " differs");
    });
  }
}

template <typename T>
void same_filter(const Scene<T>& scene, int64_t channels, const std::string& what) {
  same_filter<T>(cuda_lattice(scene, 100).given(), scene.batch, channels, what);
}

template <typename T>
int axes_with_short_chains(const cuda::LatticeView<T>& view) {
  int count = 0;
  for (int axis = 0; axis < view.vertices_per_point; ++axis) {
    count += view.longest_chain[axis] <= cuda::kLongestChain ? 1 : 0;
  }
  return count;
}

// Scene by scene, so many of whose axes have no long chain.
template <typename T>
void same_filter_where(const Scene<T>& scene, int short_axes, const std::string& what) {
  const CudaLattice<T> lattice = cuda_lattice(scene, 100);
  const int found = axes_with_short_chains(lattice.view());
  require(found == short_axes, what, ": ", found, " axes are short, expected ", short_axes);
  same_filter<T>(lattice.given(), scene.batch, 3, what);
}

// Loose points, four to a step, on the line along which an axis has its vertices. The coordinates c
// of an elevated u are c_(m-1) = (u_0 + ... + u_(m-1) - m u_m) / (m (m + 1)); see embed_point.
template <typename T>
Scene<T> along_axis(int axis, int d, int steps) {
  Scene<T> scene{{4 * int64_t{steps}}, d, 1, {}};
  for (int p = 0; p < 4 * steps; ++p) {
    const auto u = [&](int i) { return (i == axis ? -d : 1) * p / 4.0; };
    double below = 0.0;
    for (int m = 1; m <= d; ++m) {
      below += u(m - 1);
      const double c = (below - m * u(m)) / (m * (m + 1.0));
      scene.features.push_back(static_cast<T>(c / feature_scale<double>(m - 1, d)));
    }
  }
  return scene;
}

template <typename T>
void chains_of_every_kind() {
  same_filter_where(picture<T>({20, 21}, 5, 6.0, 1), 6, "short chains");
  same_filter_where(picture<T>({20, 21}, 2, 6.0, 1), 3, "an odd number of axes, all short");
  same_filter_where(picture<T>({1, 600}, 1, 1.0, 3), 0, "long chains alone");
  same_filter_where(along_axis<T>(0, 2, 60), 2, "a long axis and two short ones");
  same_filter_where(along_axis<T>(2, 3, 60), 3, "a long axis after two of three short ones");
}

template <typename T>
void hard_inputs() {
  same_filter(constant<T>({1}, 2), 2, "one point");
  same_filter(picture<T>({1, 1}, 5, 3.0, 3), 2, "one pixel");
  same_filter(constant<T>({40, 40}, 5), 2, "a constant image");
  same_filter(far_flung<T>({18, 18}, 5), 2, "noise");
  same_filter(picture<T>({5, 9, 11}, 4, 3.0, 3), 2, "a volume");
  same_filter(picture<T>({9, 10}, 12, 3.0, 3), 2, "12 dimensions");
  for (const int64_t channels : {1, 21, 33, 150}) {
    same_filter(picture<T>({20, 20}, 3, 5.0, 3), channels, text(channels, " channels"));
  }
}

template <typename T>
Scene<T> unequal_images() {
  Scene<T> scene = picture<T>({20, 18}, 5, 6.0, 4, 3);
  for (int64_t p = 0; p < scene.points() * scene.d; ++p) {
    scene.features[p] = T(0.25);                                // image 0: constant
    scene.features[2 * scene.points() * scene.d + p] *= T(50);  // image 2: noise
  }
  return scene;
}

template <typename T>
void batches() {
  const Scene<T> scene = unequal_images<T>();
  same_filter(scene, 5, "a batch of unequal images");
  const Scene<T> one{scene.grid, scene.d, 1, scene.of_image(scene.features, 1)};
  same_filter<T>(cuda_lattice(one, 50).given(), 3, 5, "one lattice for three images");
}

// Lists as the device fills them, in whatever order.
void lists_of_the_device() {
  const Scene<float> scene = unequal_images<float>();
  const auto values = noise<float>(scene.batch * scene.points() * 3, -1.0, 1.0, 5);
  const auto through = [&](BlurWay way) {
    const Built<float> built(from_matrix(scene));
    return filter(built.given(), values, scene.batch, 3, false, way);
  };
  const auto expected = through(BlurWay::kTwoBuffers);
  under_all_schedules(
      [&] { require(through(BlurWay::kInPlace) == expected, "another order, another result"); });
}

template <typename P>
P* writable(const P* part) {
  return const_cast<P*>(part);
}

// Points on a line whose chain of vertices has just that many.
CudaLattice<double> line_of(int vertices) {
  for (int64_t points = 1; points < 1000; ++points) {
    CudaLattice<double> lattice = cuda_lattice(picture<double>({points}, 1, 2.0, 1));
    if (lattice.view().image_first[1] == vertices) return lattice;
  }
  fail("no line has ", vertices, " vertices");
}

// Without its heads an axis is left alone in place, and blurred all the same to another buffer.
void longest_chain_is_the_last_in_place() {
  for (const int vertices : {2, 3, cuda::kLongestChain, cuda::kLongestChain + 1}) {
    const CudaLattice<double> line = line_of(vertices);
    same_filter<double>(line.given(), 1, 3, text("a chain of ", vertices));
    const auto values = noise<double>(line.tiles().points, -1.0, 1.0, 5);
    const auto expected = filter(line.given(), values, 1, 1, false, BlurWay::kTwoBuffers);
    for (int axis = 0; axis < 2; ++axis) writable(line.view().chain_count)[axis] = 0;
    const bool same = filter(line.given(), values, 1, 1, false, BlurWay::kInPlace) == expected;
    require(same == (vertices > cuda::kLongestChain), "a chain of ", vertices,
            same ? " went to another buffer" : " was blurred in place");
  }
}

// Whatever pays, steps move on from where the one before left the rows, and the last leaves them
// where as many moves as there are axes would.
void plans_fit_together() {
  Random random(3);
  for (int round = 0; round < 2000; ++round) {
    cuda::PassLattice<float> pass{};
    const int axes = static_cast<int>(2 + random.below(7));
    std::vector<int32_t> longest;
    for (int axis = 0; axis < axes; ++axis) {
      longest.push_back(static_cast<int32_t>(random.below(cuda::kLongestChain + 2)));
    }
    pass.lattice.vertices_per_point = axes;
    pass.lattice.longest_chain = longest.data();
    const int64_t rows = random.below(1 << 20);
    const int chunks = static_cast<int>(1 + random.below(8));
    const bool adjoint = random.below(2) == 1;
    for (const BlurWay way : {BlurWay::kAutomatic, BlurWay::kTwoBuffers, BlurWay::kInPlace}) {
      pass.way = way;
      int moves = 0, paying = 0;
      for (int step = 0; step < axes; ++step) {
        const int32_t chain = longest[adjoint ? axes - 1 - step : step];
        const bool pays =
            chain <= cuda::kLongestChain && way != BlurWay::kTwoBuffers &&
            (way == BlurWay::kInPlace || chain * cuda::kChunksPerLink <= rows * chunks);
        const cuda::AxisPlan plan = cuda::plan_axis(pass, step, adjoint, rows, chunks);
        require(plan.moves == moves, "step ", step, " looks for its rows elsewhere");
        require(!plan.in_place || pays, "step ", step, " is in place and does not pay");
        moves += plan.in_place ? 0 : 1;
        paying += pays ? 1 : 0;
      }
      require(axes - moves == paying / 2 * 2, axes - moves, " steps are in place, ", paying,
              " pay");
    }
  }
}

struct Inferred {
  std::vector<float> result, gradient, weight_gradient;
};

// A mean field, and backward through it where it can be differentiated.
Inferred infer(const Problem<float>& problem, const std::vector<CudaLattice<float>>& lattices,
               BlurWay way) {
  const auto kernels = cuda_kernels(problem, lattices);
  const auto count = static_cast<int>(kernels.size());
  const auto tiles = cuda::tile_map(problem.grid.data(), static_cast<int>(problem.grid.size()));
  const size_t values = problem.logits.size();
  Memory memory;
  cuda::Context context = memory.context();
  context.blur = way;
  Inferred inferred{std::vector<float>(values, 7.0f), std::vector<float>(values, 7.0f),
                    std::vector<float>(static_cast<size_t>(count), 7.0f)};
  const int64_t stride = cuda::state_stride(kCudaScalar<float>, problem.classes);
  Bytes states(problem.iterations * problem.images * tiles.tiles * cuda::kTile * stride * 4);
  const bool trains = problem.tolerance == 0.0 && problem.damping != 0.0;
  cuda::mean_field(
      kCudaScalar<float>,
      {problem.images, problem.classes, problem.logits.data(), tiles, kernels.data(), count,
       problem.iterations, problem.damping, problem.tolerance, Output::kProbabilities,
       inferred.result.data(), trains ? states.data() : nullptr, nullptr},
      context);
  if (!trains) return inferred;
  std::vector<void*> sums;
  for (float& sum : inferred.weight_gradient) sums.push_back(&sum);
  const auto upstream = noise<float>(static_cast<int64_t>(values), -1.0, 1.0, 8);
  cuda::mean_field_gradient(
      kCudaScalar<float>,
      {problem.images, problem.classes, upstream.data(), inferred.result.data(), states.data(),
       tiles, kernels.data(), count, problem.iterations, problem.damping, Output::kProbabilities,
       nullptr, inferred.gradient.data(), sums.data()},
      context);
  return inferred;
}

void same_mean_field(const Problem<float>& problem, const std::string& what) {
  const auto lattices = cuda_lattices(problem);
  const Inferred expected = infer(problem, lattices, BlurWay::kTwoBuffers);
  under_all_schedules([&] {
    const Inferred found = infer(problem, lattices, BlurWay::kInPlace);
    require(found.result == expected.result, what, ": another result");
    require(found.gradient == expected.gradient, what, ": another gradient");
    require(found.weight_gradient == expected.weight_gradient, what, ": another weight's gradient");
  });
}

// In one launch, blocks go from in place to another buffer and back without leaving the kernel.
void one_launch() {
  for (const int64_t classes : {2, 21}) {
    Problem<float> problem = image_crf<float>({18, 17}, classes, Normalization::kSymmetric, 2);
    problem.iterations = 3;
    const auto lattices = cuda_lattices(problem);
    const auto through = [&](cuda::Loop loop, BlurWay way) {
      return infer<float>(problem, lattices, Output::kProbabilities, loop, way);
    };
    const auto expected = through(cuda::Loop::kLaunches, BlurWay::kTwoBuffers);
    under_all_schedules([&] {
      require(through(cuda::Loop::kCooperative, BlurWay::kInPlace) == expected, classes,
              " classes: another result");
    });
  }
}

void mean_fields() {
  // Positions: three axes, of which two are in place; positions and colours: six.
  for (const int64_t classes : {2, 21}) {
    Problem<float> problem = image_crf<float>({18, 17}, classes, Normalization::kSymmetric, 2);
    problem.iterations = 3;
    same_mean_field(problem, text(classes, " classes"));
  }
  Problem<float> problem = image_crf<float>({18, 17}, 3, Normalization::kSymmetric);
  problem.iterations = 3;
  problem.tolerance = 1e-3;
  same_mean_field(problem, "with a tolerance");
  problem.tolerance = 0.0;
  problem.damping = 0.25;
  same_mean_field(problem, "through which is differentiated");
}

void gradients_of_features() {
  const Scene<double> scene = picture<double>({17, 21}, 5, 5.0, 2, 2);
  const CudaLattice<double> lattice = cuda_lattice(scene, 40);
  const auto values = noise<double>(2 * scene.points() * 3, -1.0, 1.0, 5);
  const auto upstream = noise<double>(2 * scene.points() * 3, -1.0, 1.0, 6);
  const auto gradient = [&](BlurWay way) {
    Memory memory;
    cuda::Context context = memory.context();
    context.blur = way;
    std::vector<double> found(scene.features.size(), 7.0);
    cuda::feature_gradient(kCudaScalar<double>,
                           {lattice.given(), 2, 3, scene.features.data(), values.data(),
                            upstream.data(), found.data(), Normalization::kSymmetric, false},
                           context);
    return found;
  };
  const auto expected = gradient(BlurWay::kTwoBuffers);
  under_all_schedules(
      [&] { require(gradient(BlurWay::kInPlace) == expected, "another gradient"); });
}

// A lattice with mistakes in its lists.
void with_lists(void (*spoil)(const cuda::LatticeView<float>&)) {
  const CudaLattice<float> lattice = cuda_lattice(picture<float>({20, 21}, 5, 6.0, 1));
  spoil(lattice.view());
  same_filter<float>(lattice.given(), 1, 3, "the filter");
}

const Mistakes kMistakes({
    {"lists as they are", [] { with_lists([](const cuda::LatticeView<float>&) {}); }, {}, true},
    {"a list lacks a chain",
     [] {
       with_lists([](const cuda::LatticeView<float>& view) { --writable(view.chain_count)[2]; });
     }},
    {"a chain is listed twice",
     [] {
       with_lists([](const cuda::LatticeView<float>& view) {
         const int32_t* heads = view.heads_along(2);
         writable(heads)[1] = heads[0];
       });
     }},
    {"a chain is entered at its second vertex",
     [] {
       with_lists([](const cuda::LatticeView<float>& view) {
         const int32_t* heads = view.heads_along(2);
         writable(heads)[0] = view.next_along(2)[heads[0]];
       });
     }},
    {"lists are filled in two steps", lists_of_the_device, {.split_atomics = true}},
});

int run_all() {
  int failures = 0;
  const auto test = [&](const char* sentence, void (*body)()) {
    failures += run_test(sentence, body);
  };
  test("chains of every kind, float32", chains_of_every_kind<float>);
  test("chains of every kind, float64", chains_of_every_kind<double>);
  test("hard inputs, float32", hard_inputs<float>);
  test("hard inputs, float64", hard_inputs<double>);
  test("batches, float32", batches<float>);
  test("batches, float64", batches<double>);
  test("the order of the device's lists changes nothing", lists_of_the_device);
  test("the longest chain in place is as long as it is said", longest_chain_is_the_last_in_place);
  test("every step finds its rows where the one before left them", plans_fit_together);
  test("mean fields and their gradients", mean_fields);
  test("mean fields in one launch", one_launch);
  test("gradients of features", gradients_of_features);
  return failures + kMistakes.run_all();
}

}  // namespace

}  // namespace densecrf::testing

int main(int arguments, char** argument) {
  using namespace densecrf::testing;
  if (arguments > 1) return kMistakes.make(argument[1]);
  return run_all() == 0 ? 0 : 1;
}
