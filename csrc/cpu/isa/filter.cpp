// The high-dimensional Gaussian filter of any number of channels, and its adjoint. Compiled once
// per instruction set, with contraction of a*b+c.
#include "../blur.h"
#include "../memory.h"
#include "../tile.h"
#include "tier.h"

namespace densecrf::inline DENSECRF_ISA {

namespace {

enum : size_t { kFactors, kRows };

// Channels [first, first + count) with rows of kWidth values.
template <typename T, int kWidth>
void filter_tile(const LatticeView<T>& lattice, const cpu::FilterArguments& arguments,
                 int64_t first, int64_t count, const T* before, const T* after, T* rows,
                 const cpu::Executor& executor) {
  using Values = Row<T, kWidth>;
  const int vertices = lattice.vertices_per_point;
  splat_tile<T, kWidth>(lattice, static_cast<const T*>(arguments.values) + first,
                        arguments.channels, count, before, rows, executor);
  blur<T, kWidth>(lattice, rows, kWidth, arguments.adjoint, executor);
  parallel(executor, lattice.bands, [&](int band) {
    const T* band_rows = rows + lattice.row_base[band] * kWidth;
    T* result = static_cast<T*>(arguments.result) + first;
    for_band_points(lattice, band, [&](int64_t p) {
      Values x = Values::zero();
      const int64_t record = record_of(p, vertices);
      for (int r = 0; r < vertices; ++r) {
        x.add_scaled(lattice.weight[record + r * kGroup],
                     band_rows + lattice.row[record + r * kGroup] * kWidth);
      }
      alignas(64) T padded[kWidth];
      (x * after[p]).store(padded);
      __builtin_memcpy(result + p * arguments.channels, padded,
                       static_cast<size_t>(count) * sizeof(T));
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
  const auto mode =
      arguments.adjoint ? transposed(arguments.normalization) : arguments.normalization;
  parallel(executor, lattice.bands,
           [&](int band) { band_factors(lattice, mode, band, before, after); });

  const auto row_bytes = static_cast<size_t>(lattice.rows) *
                             static_cast<size_t>(tile_width(arguments.channels)) * sizeof(T) +
                         4096;
  T* rows = static_cast<T*>(workspace.buffer(kRows).reserve(row_bytes, 0));
  for_each_tile(arguments.channels, [&]<int kWidth>(int64_t first, int64_t count) {
    filter_tile<T, kWidth>(lattice, arguments, first, count, before, after, rows, executor);
  });
}

}  // namespace

void filter(Scalar scalar, const cpu::FilterArguments& arguments, const cpu::Executor& executor) {
  if (scalar == Scalar::kFloat32) {
    filter_all<float>(arguments, executor);
  } else {
    filter_all<double>(arguments, executor);
  }
}

}  // namespace densecrf::inline DENSECRF_ISA
