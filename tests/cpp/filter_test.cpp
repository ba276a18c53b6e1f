// Building lattices and filtering with them, on every instruction set of this machine, against the
// reference lattice and against what holds for any filter.
#include <algorithm>
#include <cstdio>
#include <limits>
#include <map>
#include <string>

#include "cpu/memory.h"
#include "problems.h"
#include "reference.h"
#include "tiers.h"

namespace densecrf::testing {

namespace {

using cpu::Backend;

constexpr Normalization kModes[] = {Normalization::kNone, Normalization::kBefore,
                                    Normalization::kAfter, Normalization::kSymmetric};

template <typename T>
constexpr double kTolerance = sizeof(T) == 4 ? 2e-5 : 1e-12;

template <typename T>
void compare_with_reference(const Backend& backend, const std::vector<T>& features, int d,
                            int64_t channels, int threads, const std::string& what) {
  const auto points = static_cast<int64_t>(features.size()) / d;
  const Lattice<T> lattice = build(backend, features, d, threads);
  const ReferenceLattice<T> reference(features, d);
  const VertexHeader& header = *lattice.view().header;
  require(header.vertices == reference.vertices(), what, ": ", header.vertices,
          " vertices, expected ", reference.vertices());
  const std::vector<T> values = noise<T>(points * channels, -1.0, 1.0, 11);
  const std::vector<double> exact(values.begin(), values.end());
  for (const Normalization mode : kModes) {
    for (const bool adjoint : {false, true}) {
      require_near(filter(backend, lattice, values, channels, mode, adjoint, threads),
                   reference.filter(exact, channels, mode, adjoint), kTolerance<T>,
                   text(what, ", normalisation ", static_cast<int>(mode), ", adjoint ", adjoint));
    }
  }
}

template <typename T>
void every_dimension(const Backend& backend) {
  for (int d = 1; d <= 9; ++d) {
    compare_with_reference(backend, smooth_features<T>(130, d, 1), d, 3, 2, text("d = ", d));
  }
  compare_with_reference(backend, smooth_features<T>(130, 12, 1), 12, 3, 2, "d = 12");
}

template <typename T>
void every_number_of_points(const Backend& backend) {
  for (const int64_t points : {1, 2, 15, 16, 17, 63, 64, 65, 127, 4097}) {
    compare_with_reference(backend, smooth_features<T>(points, 2, 2), 2, 4, 3,
                           text(points, " points"));
  }
}

template <typename T>
void every_number_of_channels(const Backend& backend) {
  for (const int64_t channels : {1, 2, 4, 5, 16, 17, 31, 32, 33, 70}) {
    compare_with_reference(backend, smooth_features<T>(70, 3, 3), 3, channels, 1,
                           text(channels, " channels"));
  }
}

template <typename T>
void hard_features(const Backend& backend) {
  compare_with_reference(backend, std::vector<T>(300 * 5, T(0)), 5, 2, 2, "zeros");
  compare_with_reference(backend, std::vector<T>(300 * 5, T(-7.25)), 5, 2, 2, "one vector");
  compare_with_reference(backend, noise<T>(400 * 5, -300.0, 300.0, 4), 5, 2, 2, "noise");
  // Lattice points and midpoints of cells: equal residuals everywhere.
  std::vector<T> ties;
  for (int i = 0; i < 200; ++i) {
    for (int m = 0; m < 3; ++m)
      ties.push_back(static_cast<T>((i >> m) % 4) / feature_scale<T>(m, 3));
  }
  compare_with_reference(backend, ties, 3, 2, 1, "ties");
}

// Ranges too wide for one word, as far as the dtype resolves them.
template <typename T>
void wide_keys(const Backend& backend) {
  const double reach = sizeof(T) == 4 ? 300.0 : 1e9;
  const int d = sizeof(T) == 4 ? 9 : 3;
  std::vector<T> features = noise<T>(int64_t{8300} * d, -reach, reach, 5);
  // Every other point near its like, so that there are neighbours and shared vertices.
  for (size_t i = 0; i < features.size(); ++i) {
    if (i / d % 2 == 0) features[i] = static_cast<T>(0.003 * static_cast<double>(i % 999));
  }
  const KeyLayout layout = cpu::plan_keys(kScalar<T>, source_of(features, d));
  require(layout.words() > 1, "this test's keys have ", layout.words(), " word");
  const std::vector<T> values = noise<T>(8300, -1.0, 1.0, 6);
  const Lattice<T> one = build(backend, features, d, 1), two = build(backend, features, d, 2);
  require(two.view().bands == 2 && two.view().header->copies > 0, "no vertices are shared");
  require(one.view().header->vertices == two.view().header->vertices, "other vertices");
  for (const Normalization mode : kModes) {
    require_near(filter(backend, two, values, 1, mode, false, 2),
                 filter(backend, one, values, 1, mode, false, 1), kTolerance<T>, "two threads");
  }
  features.resize(static_cast<size_t>(300 * d));
  compare_with_reference(backend, features, d, 2, 1, "wide keys");
}

// Lattices of an image in place equal those of its features, byte by byte.
template <typename T, typename Pixel>
void compare_image(const Backend& backend, const std::vector<int64_t>& size, int channels,
                   const std::vector<int64_t>& grid_stride, int64_t channel_stride, int threads) {
  cpu::FeatureSource source{};
  source.grid_dimensions = static_cast<int>(size.size());
  source.dimensions = source.grid_dimensions + channels;
  source.points = 1;
  int64_t reach = channels > 0 ? (channels - 1) * channel_stride : 0;
  for (size_t m = 0; m < size.size(); ++m) {
    source.points *= size[m];
    source.grid_size[m] = size[m];
    source.grid_stride[m] = grid_stride[m];
    source.grid_sigma[m] = 2.5 + static_cast<double>(m);
    reach += (size[m] - 1) * grid_stride[m];
  }
  Random random(7);
  std::vector<Pixel> image;
  for (int64_t i = 0; i <= reach; ++i) image.push_back(static_cast<Pixel>(random.real(0.0, 255.9)));
  const std::vector<double> sigma{13.0, 3.0, 20.0, 7.0};
  source.image = channels > 0 ? image.data() : nullptr;
  source.pixel_type = sizeof(Pixel) == 1   ? PixelType::kUint8
                      : sizeof(Pixel) == 4 ? PixelType::kFloat32
                                           : PixelType::kFloat64;
  source.channels = channels;
  source.channel_stride = channel_stride;
  source.channel_sigma = sigma.data();

  std::vector<T> features;
  for (int64_t p = 0; p < source.points; ++p) {
    int64_t left = p, pixel = 0;
    for (size_t m = 0; m < size.size(); ++m) {
      features.push_back(static_cast<T>(left % size[m]) / static_cast<T>(source.grid_sigma[m]));
      pixel += left % size[m] * grid_stride[m];
      left /= size[m];
    }
    for (int c = 0; c < channels; ++c) {
      features.push_back(static_cast<T>(image[pixel + c * channel_stride]) /
                         static_cast<T>(sigma[c]));
    }
  }
  with_team(threads, [&](const cpu::Executor& executor) {
    const Lattice<T> in_place = build<T>(backend, source, executor);
    const Lattice<T> of_matrix =
        build<T>(backend, source_of(features, source.dimensions), executor);
    const auto values = noise<T>(source.points, -1.0, 1.0, 8);
    require(in_place.points == of_matrix.points, "other vertices or weights than the features");
    require(filter(backend, in_place, values, 1, Normalization::kSymmetric, false) ==
                filter(backend, of_matrix, values, 1, Normalization::kSymmetric, false),
            "another filter than the features");
  });
}

void images(const Backend& backend) {
  compare_image<float, uint8_t>(backend, {37, 23}, 3, {3, 37 * 3}, 1, 1);    // HWC
  compare_image<float, uint8_t>(backend, {37, 23}, 3, {1, 37}, 37 * 23, 1);  // CHW
  compare_image<float, uint8_t>(backend, {37, 23}, 3, {7, 311}, 2, 1);       // a view
  compare_image<float, uint8_t>(backend, {130, 97}, 3, {3, 400}, 1, 3);      // padded lines
  compare_image<float, float>(backend, {37, 23}, 3, {3, 37 * 3}, 1, 1);
  compare_image<float, float>(backend, {11, 5, 7}, 1, {35, 7, 1}, 0, 1);     // xyz order
  compare_image<double, double>(backend, {37, 23}, 4, {23, 1}, 37 * 23, 1);  // transposed
  compare_image<float, uint8_t>(backend, {100}, 2, {2}, 1, 1);
  compare_image<float, uint8_t>(backend, {64, 130}, 0, {0, 0}, 0, 2);  // no image
  compare_image<float, uint8_t>(backend, {1, 1}, 3, {3, 3}, 1, 1);
  compare_image<float, uint8_t>(backend, {9, 9}, 1, {0, 0}, 0, 1);  // broadcast
}

// Rows and columns of a feature matrix may lie anywhere.
void strided_features(const Backend& backend) {
  const std::vector<float> features = smooth_features<float>(200, 3, 9);
  std::vector<float> spread(200 + 2 * 205 * 3, std::numeric_limits<float>::quiet_NaN());
  for (int p = 0; p < 200; ++p) {
    for (int m = 0; m < 3; ++m) spread[2 * 205 * m + p] = features[p * 3 + m];
  }
  cpu::FeatureSource source = source_of(features, 3);
  source.matrix = spread.data();
  source.point_stride = 1;
  source.dimension_stride = 2 * 205;
  with_team(1, [&](const cpu::Executor& executor) {
    require(build<float>(backend, source, executor) == build(backend, features, 3),
            "planes of features give another lattice than rows");
  });
}

template <typename T>
void thread_counts(const Backend& backend) {
  const int64_t points = 3 * 4096 + 65;
  const std::vector<T> features = smooth_features<T>(points, 3, 10);
  const std::vector<T> values = noise<T>(points * 2, -1.0, 1.0, 12);
  const Lattice<T> single = build(backend, features, 3);
  const std::vector<T> expected =
      filter(backend, single, values, 2, Normalization::kSymmetric, false);
  for (const int threads : {2, 3, 7}) {
    const Lattice<T> lattice = build(backend, features, 3, threads);
    const LatticeView<T> view = lattice.view();
    require(view.bands == std::min(threads, 3), threads, " threads make ", view.bands, " bands");
    require(view.header->vertices == single.view().header->vertices, threads,
            " threads find other vertices");
    require(lattice == build(backend, features, 3, threads), "a second build differs in a byte");
    const auto found =
        filter(backend, lattice, values, 2, Normalization::kSymmetric, false, threads);
    require_near(found, expected, kTolerance<T>, text(threads, " threads"));
    // What counts is how the lattice was built, not who filters with it.
    for (const int others : {1, 2, 7}) {
      require(
          found == filter(backend, lattice, values, 2, Normalization::kSymmetric, false, others),
          "lattices of ", threads, " threads filter otherwise with ", others);
    }
  }
}

template <typename T>
void noise_in_many_bands(const Backend& backend) {
  compare_with_reference(backend, noise<T>(8300 * 3, -40.0, 40.0, 13), 3, 1, 2, "noise");
}

void constants(const Backend& backend) {
  const std::vector<float> features = smooth_features<float>(500, 5, 14);
  const std::vector<float> constant(500 * 6, 3.5f);
  const Lattice<float> lattice = build(backend, features, 5);
  require_near(filter(backend, lattice, constant, 6, Normalization::kAfter, false), constant, 1e-6,
               "a constant, normalised after");
}

template <typename T>
void adjoints(const Backend& backend) {
  const std::vector<T> features = smooth_features<T>(600, 4, 15);
  const Lattice<T> lattice = build(backend, features, 4);
  const auto x = noise<T>(600, 0.0, 1.0, 16), y = noise<T>(600, 0.0, 1.0, 17);
  for (const Normalization mode : kModes) {
    const auto fx = filter(backend, lattice, x, 1, mode, false);
    const auto ay = filter(backend, lattice, y, 1, mode, true);
    double left = 0.0, right = 0.0;
    for (int p = 0; p < 600; ++p) {
      left += static_cast<double>(fx[p]) * static_cast<double>(y[p]);
      right += static_cast<double>(x[p]) * static_cast<double>(ay[p]);
    }
    require(std::abs(left - right) <= kTolerance<T> * std::abs(left), "<Fx, y> = ", left,
            ", <x, F'y> = ", right);
  }
}

// Small after large after small, with and without memory kept: nothing of an earlier call shows.
void repeated_calls(const Backend& backend) {
  std::map<int, std::vector<float>> first;
  for (const size_t limit : {size_t{1} << 30, size_t{0}, size_t{1} << 20}) {
    cpu::set_workspace_limit(limit);
    for (const int points : {70, 5000, 33, 9000, 70, 1}) {
      const std::vector<float> features = smooth_features<float>(points, 2, 18);
      const auto values = noise<float>(points * 5, -1.0, 1.0, 19);
      const auto found = filter(backend, build(backend, features, 2, 2), values, 5,
                                Normalization::kSymmetric, false, 2);
      const auto [at, fresh] = first.try_emplace(points, found);
      require(fresh || at->second == found, points, " points: a later call differs");
      require(cpu::workspace_bytes() <= limit, cpu::workspace_bytes(), " bytes kept of ", limit);
    }
  }
  cpu::set_workspace_limit(size_t{1} << 30);
}

template <typename Body>
void require_throws(const Body& body, const std::string& part) {
  try {
    body();
  } catch (const std::exception& error) {
    require(std::string(error.what()).find(part) != std::string::npos, "expected an error about ",
            part, ", got: ", error.what());
    return;
  }
  fail("no error about ", part);
}

void errors(const Backend& backend) {
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
        -std::numeric_limits<float>::infinity()}) {
    std::vector<float> features(130, 0.5f);
    features[77] = bad;
    require_throws([&] { build(backend, features, 2); }, "feature 1 contains NaN or infinity");
  }
  require_throws([&] { build(backend, std::vector<float>{0.0f, 1e6f}, 1); }, "too many bandwidths");
  build(backend, std::vector<double>{0.0, 1e6}, 1);

  // The caller's allocator fails inside a call with helpers at work.
  const std::vector<float> features = smooth_features<float>(9000, 2, 20);
  const cpu::FeatureSource source = source_of(features, 2);
  const KeyLayout layout = cpu::plan_keys(Scalar::kFloat32, source);
  std::vector<char> points(point_section_bytes(9000, 2, 4));
  const cpu::Allocator refuses{[](void*, size_t) -> void* { throw std::bad_alloc(); }, nullptr};
  with_team(2, [&](const cpu::Executor& executor) {
    require_throws(
        [&] {
          backend.build_lattice(Scalar::kFloat32, source, layout.view(), executor, points.data(),
                                refuses);
        },
        "bad_alloc");
    require(build<float>(backend, source, executor) == build(backend, features, 2, 2),
            "the call after a failure differs");
  });
}

const std::vector<TierTest> kTests{
    {"float32 filters are the reference's in 1 to 12 dimensions", every_dimension<float>},
    {"float64 filters are the reference's in 1 to 12 dimensions", every_dimension<double>},
    {"any number of points, float32", every_number_of_points<float>},
    {"any number of points, float64", every_number_of_points<double>},
    {"any number of channels, float32", every_number_of_channels<float>},
    {"any number of channels, float64", every_number_of_channels<double>},
    {"constant, noisy and tied features, float32", hard_features<float>},
    {"constant, noisy and tied features, float64", hard_features<double>},
    {"keys of several words, float32", wide_keys<float>},
    {"keys of several words, float64", wide_keys<double>},
    {"images of any strides equal their features", images},
    {"features of any strides", strided_features},
    {"thread counts agree, float32", thread_counts<float>},
    {"thread counts agree, float64", thread_counts<double>},
    {"noise in two bands", noise_in_many_bands<float>},
    {"constants survive a normalised filter", constants},
    {"adjoints are transposes, float32", adjoints<float>},
    {"adjoints are transposes, float64", adjoints<double>},
    {"repeated calls do not know of each other", repeated_calls},
    {"errors are thrown and leave nothing behind", errors},
};

}  // namespace

}  // namespace densecrf::testing

int main() { return densecrf::testing::run_for_every_tier(densecrf::testing::kTests); }
