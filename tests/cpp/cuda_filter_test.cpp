// The CUDA backend's filter, run by the emulator, against the CPU backend's.
#include "cuda_problems.h"
#include "cuda_schedules.h"

namespace densecrf::testing {

namespace {

template <typename T>
constexpr double kTolerance = sizeof(T) == 4 ? 2e-5 : 1e-12;

template <typename T>
std::vector<T> filter(const CudaLattice<T>& lattice, const std::vector<T>& values, int64_t images,
                      int64_t channels, Normalization mode, bool adjoint) {
  Memory memory;
  std::vector<T> result(values.size(), T(7));
  cuda::filter(kCudaScalar<T>,
               {lattice.given(), images, channels, values.data(), result.data(), mode, adjoint},
               memory.context());
  return result;
}

template <typename T>
void compare(const Scene<T>& scene, int64_t channels, Normalization mode, bool adjoint,
             const std::string& what) {
  const CudaLattice<T> lattice = cuda_lattice(scene, 100);
  const std::vector<Lattice<T>> lattices = cpu_lattices(scene);
  const auto values = noise<T>(scene.batch * scene.points() * channels, -1.0, 1.0, 5);
  std::vector<T> expected;
  for (int64_t b = 0; b < scene.batch; ++b) {
    const auto one =
        filter<T>(cpu::backend(), lattices[b], scene.of_image(values, b), channels, mode, adjoint);
    expected.insert(expected.end(), one.begin(), one.end());
  }
  std::vector<T> first;
  under_all_schedules([&] {
    const auto found = filter(lattice, values, scene.batch, channels, mode, adjoint);
    require_near(found, expected, kTolerance<T>, what);
    if (first.empty()) first = found;
    require(found == first, what, ": another schedule, another result");
  });
}

template <typename T>
void every_number_of_channels() {
  const Scene<T> scene = picture<T>({20, 21}, 3, 6.0, 1);
  for (const int64_t channels : {1, 2, 3, 4, 5, 21, 32, 33, 150}) {
    compare(scene, channels, Normalization::kSymmetric, false, text(channels, " channels"));
  }
}

template <typename T>
void every_normalization() {
  const Scene<T> scene = picture<T>({17, 30}, 5, 5.0, 2);
  for (const Normalization mode : kNormalizations) {
    for (const bool adjoint : {false, true}) {
      compare(scene, 3, mode, adjoint,
              text("normalisation ", static_cast<int>(mode), adjoint ? ", adjoint" : ""));
    }
  }
}

template <typename T>
void hard_inputs() {
  const auto both = [](const Scene<T>& scene, const std::string& what) {
    compare(scene, 2, Normalization::kSymmetric, false, what);
    compare(scene, 7, Normalization::kAfter, true, what + ", adjoint");
  };
  both(constant<T>({1}, 2), "one point");
  both(picture<T>({1, 1}, 5, 3.0, 3), "one pixel");
  both(picture<T>({16, 16}, 5, 3.0, 3), "one tile");
  both(picture<T>({17, 33}, 5, 3.0, 3), "tiles at the border");
  both(picture<T>({1, 300}, 5, 3.0, 3), "a line");
  both(picture<T>({300, 1}, 2, 3.0, 3), "a column");
  both(picture<T>({5, 9, 11}, 4, 3.0, 3), "a volume");
  both(picture<T>({700}, 3, 40.0, 3), "loose points");
  both(constant<T>({40, 40}, 5), "a constant image");
  both(picture<T>({1, 600}, 1, 1.0, 3), "chains as long as the image");
  both(far_flung<T>({18, 18}, 5), "noise");
  both(picture<T>({9, 10}, 12, 3.0, 3), "12 dimensions");
  both(picture<T>({20, 20}, 5, 4.0, 3, 3), "a batch of unequal images");
}

// Images of a batch have the bits they have alone, and one lattice serves any batch.
template <typename T>
void batches() {
  const Scene<T> scene = picture<T>({19, 23}, 5, 4.0, 4, 3);
  const int64_t channels = 5;
  const auto values = noise<T>(3 * scene.points() * channels, -1.0, 1.0, 6);
  const auto together =
      filter(cuda_lattice(scene), values, 3, channels, Normalization::kBefore, false);
  for (int64_t b = 0; b < 3; ++b) {
    const Scene<T> alone{scene.grid, scene.d, 1, scene.of_image(scene.features, b)};
    const auto found = filter(cuda_lattice(alone), scene.of_image(values, b), 1, channels,
                              Normalization::kBefore, false);
    require(found == scene.of_image(together, b), "image ", b, " differs from itself alone");
  }
  const Scene<T> first{scene.grid, scene.d, 1, scene.of_image(scene.features, 0)};
  const CudaLattice<T> shared = cuda_lattice(first, 50);
  const auto served = filter(shared, values, 3, channels, Normalization::kSymmetric, false);
  for (int64_t b = 0; b < 3; ++b) {
    const auto found =
        filter(shared, scene.of_image(values, b), 1, channels, Normalization::kSymmetric, false);
    require(found == scene.of_image(served, b), "image ", b, " is served otherwise");
  }
}

void failed_lattices_give_nan() {
  const Scene<float> scene = picture<float>({10, 12}, 5, 4.0, 4);
  CudaLattice<float> lattice = cuda_lattice(scene);
  lattice.fail();
  const auto values = noise<float>(scene.points() * 3, -1.0, 1.0, 6);
  for (const float x : filter(lattice, values, 1, 3, Normalization::kSymmetric, false)) {
    require(std::isnan(x), "a result is ", x);
  }
}

// The gradient with respect to features against the CPU backend's.
template <typename T>
void compare_gradient(const Scene<T>& scene, int64_t images, int64_t channels, Normalization mode,
                      bool adjoint, const std::string& what) {
  const CudaLattice<T> lattice = cuda_lattice(scene, 40);
  const std::vector<Lattice<T>> lattices = cpu_lattices(scene);
  const int64_t each = scene.points() * channels, point_values = scene.points() * scene.d;
  const auto values = noise<T>(images * each, -1.0, 1.0, 5);
  const auto gradient = noise<T>(images * each, -1.0, 1.0, 6);
  std::vector<T> expected(scene.features.size());
  for (int64_t b = 0; b < images; ++b) {
    const int64_t at = scene.batch == 1 ? 0 : b;
    const auto features = scene.of_image(scene.features, at);
    with_team(1, [&](const cpu::Executor& executor) {
      const bool same = cpu::backend().feature_gradient(
          kScalar<T>,
          {lattices[at].sections(), source_of(features, scene.d), values.data() + b * each,
           gradient.data() + b * each, expected.data() + at * point_values, channels, mode, adjoint,
           at != b},
          executor);
      require(same, what, ": the CPU backend does not know its features");
    });
  }
  std::vector<T> first;
  under_all_schedules([&] {
    Memory memory;
    std::vector<T> found(expected.size(), T(7));
    cuda::feature_gradient(kCudaScalar<T>,
                           {lattice.given(), images, channels, scene.features.data(), values.data(),
                            gradient.data(), found.data(), mode, adjoint},
                           memory.context());
    require_near(found, expected, 5 * kTolerance<T>, what);
    if (first.empty()) first = found;
    require(found == first, what, ": another schedule, another result");
  });
}

template <typename T>
void gradients_of_features() {
  for (const Normalization mode : kNormalizations) {
    for (const bool adjoint : {false, true}) {
      compare_gradient(picture<T>({17, 21}, 5, 5.0, 2, 2), 2, 3, mode, adjoint,
                       text("normalisation ", static_cast<int>(mode), adjoint ? ", adjoint" : ""));
    }
  }
  const auto symmetric = Normalization::kSymmetric;
  for (const int d : {1, 2, 3, 4, 6, 9}) {
    compare_gradient(picture<T>({300}, d, 40.0, 3), 1, 2, symmetric, false, text(d, " dimensions"));
  }
  compare_gradient(picture<T>({12, 13}, 5, 5.0, 2), 1, 40, symmetric, false, "40 channels");
  compare_gradient(picture<T>({12, 13}, 5, 5.0, 2), 3, 2, symmetric, false, "one lattice for all");
}

void gradients_of_other_features_are_nan() {
  const Scene<float> scene = picture<float>({10, 12}, 5, 4.0, 4);
  const CudaLattice<float> lattice = cuda_lattice(scene);
  const auto values = noise<float>(scene.points(), -1.0, 1.0, 6);
  std::vector<float> features = scene.features, found(features.size());
  features[0] += 0.01f;
  Memory memory;
  cuda::feature_gradient(kCudaScalar<float>,
                         {lattice.given(), 1, 1, features.data(), values.data(), values.data(),
                          found.data(), Normalization::kSymmetric, false},
                         memory.context());
  for (size_t i = 0; i < found.size(); ++i) {
    require(std::isnan(found[i]) == (i < 5), "gradient ", i, " is ", found[i]);
  }
}

int run_all() {
  int failures = 0;
  const auto test = [&](const char* sentence, void (*body)()) {
    failures += run_test(sentence, body);
  };
  test("any number of channels, float32", every_number_of_channels<float>);
  test("any number of channels, float64", every_number_of_channels<double>);
  test("any normalisation and its adjoint, float32", every_normalization<float>);
  test("any normalisation and its adjoint, float64", every_normalization<double>);
  test("hard inputs, float32", hard_inputs<float>);
  test("hard inputs, float64", hard_inputs<double>);
  test("images of a batch do not know of each other, float32", batches<float>);
  test("images of a batch do not know of each other, float64", batches<double>);
  test("gradients of features are the CPU's, float32", gradients_of_features<float>);
  test("gradients of features are the CPU's, float64", gradients_of_features<double>);
  test("gradients of features the lattice does not have are NaN",
       gradients_of_other_features_are_nan);
  test("lattices that failed give NaN", failed_lattices_give_nan);
  return failures;
}

}  // namespace

}  // namespace densecrf::testing

int main() { return densecrf::testing::run_all() == 0 ? 0 : 1; }
