// The high-dimensional Gaussian filter of any number of channels, and its adjoint. Compiled once
// per instruction set, with contraction of a*b+c.
//
// Channels go through the lattice in tiles, so that the work memory stays at rows * 32 values.
#include "../blur.h"
#include "../memory.h"
#include "../normalization.h"
#include "tier.h"

namespace densecrf::inline DENSECRF_ISA {

namespace {

enum : size_t { kFactors, kRows };

// The transpose of a filter normalised before is one normalised after, and the other way round.
cpu::Normalization transposed(cpu::Normalization normalization) {
  switch (normalization) {
    case cpu::Normalization::kBefore:
      return cpu::Normalization::kAfter;
    case cpu::Normalization::kAfter:
      return cpu::Normalization::kBefore;
    default:
      return normalization;
  }
}

// What a point's values are multiplied by before splat and after slice, for all points of a band.
template <typename T>
void band_factors(const LatticeView<T>& lattice, const cpu::FilterArguments& arguments, int band,
                  T* before, T* after) {
  const int vertices = lattice.vertices_per_point;
  const T alpha = response_scale<T>(vertices - 1);
  const T* ones = lattice.ones + lattice.row_base[band];
  const auto mode =
      arguments.adjoint ? transposed(arguments.normalization) : arguments.normalization;
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

// Channels [first, first + count) with rows of kWidth values.
template <typename T, int kWidth>
void filter_tile(const LatticeView<T>& lattice, const cpu::FilterArguments& arguments,
                 int64_t first, int64_t count, const T* before, const T* after, T* rows,
                 const cpu::Executor& executor) {
  using Values = Row<T, kWidth>;
  constexpr int64_t kStride = kWidth;
  const int vertices = lattice.vertices_per_point;
  const auto bytes = static_cast<size_t>(count) * sizeof(T);
  const auto for_points = [&](int band, const auto& body) {
    const int64_t begin = lattice.first_block[band] * kBlock;
    const int64_t limit = lattice.first_block[band + 1] * kBlock;
    const int64_t end = limit < lattice.points ? limit : lattice.points;
    for (int64_t p = begin; p < end; ++p) body(p);
  };
  parallel(executor, lattice.bands, [&](int band) {
    T* band_rows = rows + lattice.row_base[band] * kStride;
    const T* values = static_cast<const T*>(arguments.values) + first;
    for_points(band, [&](int64_t p) {
      if (p % kBlock == 0) {
        const int64_t block = p / kBlock;
        const int64_t from = lattice.rows_before(band, block);
        const int64_t to = lattice.rows_before(band, block + 1);
        __builtin_memset(band_rows + from * kStride, 0,
                         static_cast<size_t>((to - from) * kStride) * sizeof(T));
      }
      alignas(64) T padded[kStride] = {};
      __builtin_memcpy(padded, values + p * arguments.channels, bytes);
      const Values x = Values::load(padded) * before[p];
      const int64_t record = p / kGroup * kGroup * vertices + p % kGroup;
      for (int r = 0; r < vertices; ++r) {
        x.add_scaled_to(lattice.weight[record + r * kGroup],
                        band_rows + lattice.row[record + r * kGroup] * kStride);
      }
    });
  });
  blur<T, kWidth>(lattice, rows, kStride, arguments.adjoint, executor);
  parallel(executor, lattice.bands, [&](int band) {
    const T* band_rows = rows + lattice.row_base[band] * kStride;
    T* result = static_cast<T*>(arguments.result) + first;
    for_points(band, [&](int64_t p) {
      Values x = Values::zero();
      const int64_t record = p / kGroup * kGroup * vertices + p % kGroup;
      for (int r = 0; r < vertices; ++r) {
        x.add_scaled(lattice.weight[record + r * kGroup],
                     band_rows + lattice.row[record + r * kGroup] * kStride);
      }
      alignas(64) T padded[kStride];
      (x * after[p]).store(padded);
      __builtin_memcpy(result + p * arguments.channels, padded, bytes);
    });
  });
}

template <typename T>
void filter_all(const cpu::FilterArguments& arguments, const cpu::Executor& executor) {
  const LatticeView<T> lattice(arguments.lattice.points, arguments.lattice.vertices);
  cpu::Workspace workspace;
  const auto padded = static_cast<size_t>(groups_of(lattice.points)) * kGroup;
  T* before = static_cast<T*>(workspace.buffer(kFactors).reserve(2 * padded * sizeof(T), 0));
  T* after = before + padded;
  parallel(executor, lattice.bands,
           [&](int band) { band_factors(lattice, arguments, band, before, after); });

  constexpr int kWidest = 32;
  const int64_t widest = arguments.channels <= 4 ? 4 : arguments.channels <= 16 ? 16 : kWidest;
  const auto row_bytes =
      static_cast<size_t>(lattice.rows) * static_cast<size_t>(widest) * sizeof(T) + 4096;
  T* rows = static_cast<T*>(workspace.buffer(kRows).reserve(row_bytes, 0));
  for (int64_t first = 0; first < arguments.channels; first += kWidest) {
    const int64_t left = arguments.channels - first;
    const int64_t count = left < kWidest ? left : kWidest;
    if (count <= 4) {
      filter_tile<T, 4>(lattice, arguments, first, count, before, after, rows, executor);
    } else if (count <= 16) {
      filter_tile<T, 16>(lattice, arguments, first, count, before, after, rows, executor);
    } else {
      filter_tile<T, kWidest>(lattice, arguments, first, count, before, after, rows, executor);
    }
  }
}

}  // namespace

void filter(cpu::Scalar scalar, const cpu::FilterArguments& arguments,
            const cpu::Executor& executor) {
  if (scalar == cpu::Scalar::kFloat32) {
    filter_all<float>(arguments, executor);
  } else {
    filter_all<double>(arguments, executor);
  }
}

}  // namespace densecrf::inline DENSECRF_ISA
