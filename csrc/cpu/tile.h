// A few channels of the points' values on their way to the lattice's rows and back: what the filter
// and its gradient are made of.
#pragma once

#include "normalization.h"
#include "parallel.h"
#include "row.h"
#include "sections.h"

namespace densecrf::inline DENSECRF_ISA {

// What a point's values are multiplied by before splat and after slice, for all points of a band.
template <typename T>
void band_factors(const LatticeView<T>& lattice, Normalization mode, int band, T* before,
                  T* after) {
  const int vertices = lattice.vertices_per_point;
  const T alpha = response_scale<T>(vertices - 1);
  const T* ones = lattice.ones + lattice.row_base[band];
  for (int64_t g = lattice.first_block[band] * (kBlock / kGroup);
       g < lattice.first_block[band + 1] * (kBlock / kGroup); ++g) {
    T total[kGroup];
    for (int q = 0; q < kGroup; ++q) {
      T n = 0;
      for (int r = 0; r < vertices; ++r) {
        const int64_t entry = (g * vertices + r) * kGroup + q;
        n += lattice.weight[entry] * ones[lattice.row[entry]];
      }
      total[q] = alpha * n + T(1e-20);
    }
    side_factors(mode, alpha, total, before + g * kGroup, after + g * kGroup);
  }
}

template <typename T, typename Body>
HOST_DEVICE void for_band_points(const LatticeView<T>& lattice, int band, const Body& body) {
  const int64_t begin = lattice.first_block[band] * kBlock;
  const int64_t limit = lattice.first_block[band + 1] * kBlock;
  const int64_t end = limit < lattice.points ? limit : lattice.points;
  for (int64_t p = begin; p < end; ++p) body(p);
}

// The place of point p's first weight and row; those of its other vertices follow 16 apart.
HOST_DEVICE int64_t record_of(int64_t p, int vertices) {
  return p / kGroup * kGroup * vertices + p % kGroup;
}

// `count` of the values of a point, times a factor; the row's other values become zero.
template <typename T, int kWidth>
HOST_DEVICE Row<T, kWidth> load_values(const T* from, int64_t count, T factor) {
  alignas(64) T padded[kWidth] = {};
  __builtin_memcpy(padded, from, static_cast<size_t>(count) * sizeof(T));
  return Row<T, kWidth>::load(padded) * factor;
}

// rows [lattice.rows, kWidth] <- the splat of factor * values; values [points, channels], of which
// `count` channels are taken. Rows are cleared on the way.
template <typename T, int kWidth>
void splat_tile(const LatticeView<T>& lattice, const T* values, int64_t channels, int64_t count,
                const T* factor, T* rows, const cpu::Executor& executor) {
  const int vertices = lattice.vertices_per_point;
  parallel(executor, lattice.bands, [&](int band) {
    T* band_rows = rows + lattice.row_base[band] * kWidth;
    for_band_points(lattice, band, [&](int64_t p) {
      if (p % kBlock == 0) {
        const int64_t block = p / kBlock;
        const int64_t from = lattice.rows_before(band, block);
        const int64_t to = lattice.rows_before(band, block + 1);
        __builtin_memset(band_rows + from * kWidth, 0,
                         static_cast<size_t>((to - from) * kWidth) * sizeof(T));
      }
      const auto x = load_values<T, kWidth>(values + p * channels, count, factor[p]);
      const int64_t record = record_of(p, vertices);
      for (int r = 0; r < vertices; ++r) {
        x.add_scaled_to(lattice.weight[record + r * kGroup],
                        band_rows + lattice.row[record + r * kGroup] * kWidth);
      }
    });
  });
}

// Calls tile<kWidth>(first, count) for all channels, at most 32 at a time: the work memory stays at
// tile_width(channels) values a row.
constexpr int kWidestTile = 32;

HOST_DEVICE int64_t tile_width(int64_t channels) {
  return channels <= 4 ? 4 : channels <= 16 ? 16 : kWidestTile;
}

template <typename Tile>
HOST_DEVICE void for_each_tile(int64_t channels, const Tile& tile) {
  for (int64_t first = 0; first < channels; first += kWidestTile) {
    const int64_t left = channels - first;
    const int64_t count = left < kWidestTile ? left : kWidestTile;
    if (count <= 4) {
      tile.template operator()<4>(first, count);
    } else if (count <= 16) {
      tile.template operator()<16>(first, count);
    } else {
      tile.template operator()<kWidestTile>(first, count);
    }
  }
}

}  // namespace densecrf::inline DENSECRF_ISA
