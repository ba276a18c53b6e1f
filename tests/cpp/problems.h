// Hard inputs for the backend, and its calls on std::vectors that end where their data end, so that
// the address sanitizer sees every step too far.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "check.h"
#include "cpu/sections.h"

namespace densecrf::testing {

template <typename T>
constexpr Scalar kScalar = sizeof(T) == 4 ? Scalar::kFloat32 : Scalar::kFloat64;

template <typename T>
struct Lattice {
  std::vector<char> points;
  std::vector<char> vertices;

  [[nodiscard]] cpu::LatticeSections sections() const { return {points.data(), vertices.data()}; }
  [[nodiscard]] LatticeView<T> view() const { return {points.data(), vertices.data()}; }
  bool operator==(const Lattice&) const = default;
};

template <typename T>
Lattice<T> build(const cpu::Backend& backend, const cpu::FeatureSource& source,
                 const cpu::Executor& executor) {
  const KeyLayout layout = cpu::plan_keys(kScalar<T>, source);
  Lattice<T> lattice;
  lattice.points.resize(point_section_bytes(source.points, source.dimensions, sizeof(T)));
  const cpu::Allocator allocator{[](void* context, size_t bytes) -> void* {
                                   auto& section = *static_cast<std::vector<char>*>(context);
                                   // Not zeros: every byte must be written.
                                   section.assign(bytes, static_cast<char>(0xa5));
                                   return section.data();
                                 },
                                 &lattice.vertices};
  backend.build_lattice(kScalar<T>, source, layout.view(), executor, lattice.points.data(),
                        allocator);
  return lattice;
}

template <typename T>
cpu::FeatureSource source_of(const std::vector<T>& features, int d) {
  cpu::FeatureSource source{};
  source.points = static_cast<int64_t>(features.size()) / d;
  source.dimensions = d;
  source.matrix = features.data();
  source.point_stride = d;
  source.dimension_stride = 1;
  return source;
}

// The lattice of features [points, d], built by so many threads.
template <typename T>
Lattice<T> build(const cpu::Backend& backend, const std::vector<T>& features, int d,
                 int threads = 1) {
  Lattice<T> lattice;
  with_team(threads, [&](const cpu::Executor& executor) {
    lattice = build<T>(backend, source_of(features, d), executor);
  });
  return lattice;
}

template <typename T>
std::vector<T> filter(const cpu::Backend& backend, const Lattice<T>& lattice,
                      const std::vector<T>& values, int64_t channels, Normalization mode,
                      bool adjoint, int threads = 1) {
  std::vector<T> result(values.size());
  with_team(threads, [&](const cpu::Executor& executor) {
    backend.filter(kScalar<T>,
                   {lattice.sections(), values.data(), result.data(), channels, mode, adjoint},
                   executor);
  });
  return result;
}

template <typename T>
std::vector<T> noise(int64_t count, double low, double high, uint64_t seed) {
  Random random(seed);
  std::vector<T> values;
  for (int64_t i = 0; i < count; ++i) values.push_back(static_cast<T>(random.real(low, high)));
  return values;
}

// Features as an image has them: neighbouring points are near each other, with a jump halfway.
template <typename T>
std::vector<T> smooth_features(int64_t points, int d, uint64_t seed) {
  Random random(seed);
  std::vector<T> features;
  const auto width = static_cast<int64_t>(std::ceil(std::sqrt(static_cast<double>(points))));
  for (int64_t p = 0; p < points; ++p) {
    for (int m = 0; m < d; ++m) {
      const double at =
          m % 2 == 0 ? static_cast<double>(p % width) : static_cast<double>(p / width);
      const double jump = m >= 2 && 2 * p > points ? 1.5 : 0.0;
      features.push_back(static_cast<T>(at * (m < 2 ? 0.2 : 0.03) + jump + 0.1 * random.real()));
    }
  }
  return features;
}

template <typename T, typename U>
void require_near(const std::vector<T>& found, const std::vector<U>& expected, double tolerance,
                  const std::string& what) {
  require(found.size() == expected.size(), what, ": ", found.size(), " values, expected ",
          expected.size());
  double scale = 1e-30;
  for (const U value : expected) scale = std::max(scale, std::abs(static_cast<double>(value)));
  for (size_t i = 0; i < found.size(); ++i) {
    const double difference = std::abs(static_cast<double>(found[i] - expected[i]));
    require(difference <= tolerance * scale, what, ": value ", i, " is ", found[i], ", expected ",
            expected[i], " within ", tolerance, " of ", scale);
  }
}

}  // namespace densecrf::testing
