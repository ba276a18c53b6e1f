// The scaled features of a block of points: (feature / bandwidth) * feature_scale, in the scalar's
// own arithmetic, as the embedding takes them.
#pragma once

#include "../embedding.h"
#include "backend.h"
#include "memory.h"
#include "sections.h"

namespace densecrf::inline DENSECRF_ISA {

// Grid coordinates and 8-bit channels come from tables, computed once; everything else is divided
// point by point. Read-only after construction.
template <typename T>
class ScaledFeatures {
 public:
  ScaledFeatures(const cpu::FeatureSource& source, cpu::Buffer& memory)
      : source_(source), on_grid_(source.matrix == nullptr) {
    if (!on_grid_) return;
    int64_t entries = 0;
    for (int m = 0; m < source.grid_dimensions; ++m) entries += source.grid_size[m];
    const bool bytes = source.image != nullptr && source.pixel_type == PixelType::kUint8;
    if (bytes) entries += int64_t{256} * source.channels;
    T* table = static_cast<T*>(memory.reserve(static_cast<size_t>(entries) * sizeof(T), 0));
    for (int m = 0; m < source.grid_dimensions; ++m) {
      coordinate_[m] = table;
      table = fill_table(table, source.grid_size[m], m, static_cast<T>(source.grid_sigma[m]));
    }
    levels_ = table;
    for (int k = 0; bytes && k < source.channels; ++k) {
      table = fill_table(table, 256, source.grid_dimensions + k,
                         static_cast<T>(source.channel_sigma[k]));
    }
  }

  // to[m][q] for the n <= kBlock points from `first` on; the rest of the block becomes zero.
  void fill(int64_t first, int n, T* to) const {
    if (on_grid_) {
      fill_grid(first, n, to);
      for (int k = 0; source_.image != nullptr && k < source_.channels; ++k) {
        fill_channel(first, n, k, to + (source_.grid_dimensions + k) * kBlock);
      }
    } else {
      fill_matrix(first, n, to);
    }
    for (int m = 0; m < source_.dimensions; ++m) {
      for (int q = n; q < kBlock; ++q) to[m * kBlock + q] = T(0);
    }
  }

 private:
  T* fill_table(T* table, int64_t entries, int feature, T sigma) const {
    const T scale = feature_scale<T>(feature, source_.dimensions);
    for (int64_t v = 0; v < entries; ++v) table[v] = (static_cast<T>(v) / sigma) * scale;
    return table + entries;
  }

  void fill_matrix(int64_t first, int n, T* to) const {
    const T* from = static_cast<const T*>(source_.matrix) + first * source_.point_stride;
    for (int m = 0; m < source_.dimensions; ++m) {
      const T scale = feature_scale<T>(m, source_.dimensions);
      for (int q = 0; q < n; ++q) {
        to[m * kBlock + q] = from[q * source_.point_stride + m * source_.dimension_stride] * scale;
      }
    }
  }

  // Calls visit(offset in the block, count, x, y, z) for every piece of a grid line.
  template <typename Visit>
  HOST_DEVICE void for_each_line(int64_t first, int n, const Visit& visit) const {
    const int64_t width = source_.grid_size[0];
    const int64_t height = source_.grid_dimensions > 1 ? source_.grid_size[1] : 1;
    for (int q = 0; q < n;) {
      const int64_t p = first + q, x = p % width, line = p / width;
      const int64_t left = width - x;
      const int count = left < n - q ? static_cast<int>(left) : n - q;
      visit(q, count, x, line % height, line / height);
      q += count;
    }
  }

  void fill_grid(int64_t first, int n, T* to) const {
    for_each_line(first, n, [&](int q, int count, int64_t x, int64_t y, int64_t z) {
      const int64_t line[3] = {0, y, z};
      __builtin_memcpy(to + q, coordinate_[0] + x, static_cast<size_t>(count) * sizeof(T));
      for (int m = 1; m < source_.grid_dimensions; ++m) {
        const T value = coordinate_[m][line[m]];
        for (int i = 0; i < count; ++i) to[m * kBlock + q + i] = value;
      }
    });
  }

  void fill_channel(int64_t first, int n, int channel, T* to) const {
    const T sigma = static_cast<T>(source_.channel_sigma[channel]);
    const T scale = feature_scale<T>(source_.grid_dimensions + channel, source_.dimensions);
    const int64_t* stride = source_.grid_stride;
    for_each_line(first, n, [&](int q, int count, int64_t x, int64_t y, int64_t z) {
      const int64_t at =
          channel * source_.channel_stride + x * stride[0] + y * stride[1] + z * stride[2];
      T* out = to + q;
      switch (source_.pixel_type) {
        case PixelType::kUint8: {
          const uint8_t* pixel = static_cast<const uint8_t*>(source_.image) + at;
          const T* level = levels_ + 256 * channel;
          for (int i = 0; i < count; ++i) out[i] = level[pixel[i * stride[0]]];
          break;
        }
        case PixelType::kFloat32: {
          const float* pixel = static_cast<const float*>(source_.image) + at;
          for (int i = 0; i < count; ++i) {
            out[i] = (static_cast<T>(pixel[i * stride[0]]) / sigma) * scale;
          }
          break;
        }
        case PixelType::kFloat64: {
          const double* pixel = static_cast<const double*>(source_.image) + at;
          for (int i = 0; i < count; ++i) {
            out[i] = (static_cast<T>(pixel[i * stride[0]]) / sigma) * scale;
          }
          break;
        }
      }
    });
  }

  const cpu::FeatureSource& source_;
  bool on_grid_;
  const T* coordinate_[3] = {nullptr, nullptr, nullptr};
  const T* levels_ = nullptr;
};

}  // namespace densecrf::inline DENSECRF_ISA
