#include "backend.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <sstream>
#include <stdexcept>
#include <string>

#include "../embedding.h"

namespace densecrf {

// The tiers of cpu/isa, each compiled into a namespace of its own.
#if defined(__x86_64__)
namespace avx512 {
const cpu::Backend& backend_of_tier();
}
namespace avx2 {
const cpu::Backend& backend_of_tier();
}
#endif
namespace baseline {
const cpu::Backend& backend_of_tier();
}

}  // namespace densecrf

namespace densecrf::cpu {

namespace {

const Backend& choose() {
  const char* forced = std::getenv("DENSECRF_ISA");
  const bool any = forced == nullptr || *forced == '\0';
  for (const Backend* tier : tiers()) {
    if (any || std::string(tier->name) == forced) return *tier;
  }
  throw std::invalid_argument(
      "DENSECRF_ISA must name an instruction set of this machine out of avx512, avx2 and baseline, "
      "got " +
      std::string(forced));
}

struct Range {
  double low;
  double high;
};

void require_finite(Range range, const char* what, int index) {
  if (std::isfinite(range.low) && std::isfinite(range.high)) return;
  std::ostringstream message;
  message << what << ' ' << index << " contains NaN or infinity";
  throw std::invalid_argument(message.str());
}

// A NaN spreads to the ends, so that one check finds it.
template <typename T>
void widen(Range& range, T value) {
  const auto v = static_cast<double>(value);
  if (!(v >= range.low)) range.low = v;
  if (!(v <= range.high)) range.high = v;
}

template <typename T>
Range matrix_range(const FeatureSource& source, int feature) {
  const T* from = static_cast<const T*>(source.matrix) + feature * source.dimension_stride;
  Range range{static_cast<double>(from[0]), static_cast<double>(from[0])};
  for (int64_t p = 0; p < source.points; ++p) {
    widen(range, from[p * source.point_stride]);
    if (range.low != range.low) break;
  }
  return range;
}

template <typename T>
Range channel_range(const FeatureSource& source, int channel) {
  const T* from = static_cast<const T*>(source.image) + channel * source.channel_stride;
  Range range{static_cast<double>(from[0]), static_cast<double>(from[0])};
  const int64_t* stride = source.grid_stride;
  const int64_t* size = source.grid_size;
  const int64_t height = source.grid_dimensions > 1 ? size[1] : 1;
  const int64_t depth = source.grid_dimensions > 2 ? size[2] : 1;
  for (int64_t z = 0; z < depth; ++z) {
    for (int64_t y = 0; y < height; ++y) {
      const T* line = from + y * (height > 1 ? stride[1] : 0) + z * (depth > 1 ? stride[2] : 0);
      for (int64_t x = 0; x < size[0]; ++x) widen(range, line[x * stride[0]]);
    }
  }
  return range;
}

template <typename T>
double max_elevated() {
  return ScalarTraits<T>::kMaxElevated;
}

}  // namespace

std::vector<const Backend*> tiers() {
  std::vector<const Backend*> list;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("x86-64-v4")) list.push_back(&avx512::backend_of_tier());
  if (__builtin_cpu_supports("x86-64-v3")) list.push_back(&avx2::backend_of_tier());
#endif
  list.push_back(&baseline::backend_of_tier());
  return list;
}

const Backend& backend() {
  static const Backend& chosen = choose();
  return chosen;
}

KeyLayout plan_keys(Scalar scalar, const FeatureSource& source) {
  std::vector<double> low, high;
  const auto add = [&](Range range, double sigma) {
    const double scale = feature_scale<double>(static_cast<int>(low.size()), source.dimensions);
    low.push_back(range.low / sigma * scale);
    high.push_back(range.high / sigma * scale);
  };
  if (source.matrix != nullptr) {
    for (int m = 0; m < source.dimensions; ++m) {
      const Range range = scalar == Scalar::kFloat32 ? matrix_range<float>(source, m)
                                                     : matrix_range<double>(source, m);
      require_finite(range, "feature", m);
      add(range, 1.0);
    }
  } else {
    for (int m = 0; m < source.grid_dimensions; ++m) {
      add({0.0, static_cast<double>(source.grid_size[m] - 1)}, source.grid_sigma[m]);
    }
    for (int k = 0; source.image != nullptr && k < source.channels; ++k) {
      Range range{0.0, 255.0};
      if (source.pixel_type == PixelType::kFloat32) range = channel_range<float>(source, k);
      if (source.pixel_type == PixelType::kFloat64) range = channel_range<double>(source, k);
      require_finite(range, "image channel", k);
      add(range, source.channel_sigma[k]);
    }
  }
  return KeyLayout(low, high,
                   scalar == Scalar::kFloat32 ? max_elevated<float>() : max_elevated<double>());
}

void sort_by_primary(Copy* copies, int64_t count) {
  std::sort(copies, copies + count, [](const Copy& a, const Copy& b) {
    return a.primary != b.primary ? a.primary < b.primary : a.copy < b.copy;
  });
}

void fail_too_many_vertices(int64_t rows) {
  throw std::length_error("the lattice has too many vertices for one thread (" +
                          std::to_string(rows) +
                          "); use more threads, larger bandwidths or fewer points");
}

}  // namespace densecrf::cpu
