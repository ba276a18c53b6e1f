// What is done once for a lattice in a call: its normalisation goes into weights and scales.
#pragma once

#include <cmath>

#include "../embedding.h"
#include "backend.h"
#include "pass_list.h"

namespace densecrf::cuda {

// With n' = alpha n + 1e-20, n the filter of ones at a point, values are multiplied
//   none       by 1         before splat, by alpha          after slice
//   before     by 1/n'                    by alpha
//   after      by 1                       by alpha/n'
//   symmetric  by 1/sqrt n'               by alpha/sqrt n'
// The first factor goes into `weight`, which slice uses too: `scale` is the second over the first,
// times `unit` and, where there is one, times the attraction on the device.
template <typename T>
struct FoldArguments {
  LatticeView<T> lattice;
  Normalization normalization;
  T unit;
  const T* attraction;  // [1] or null
  T* weight;            // [batch, tiles, V, 256]; null where the first factor is 1
  T* scale;             // [batch, tiles, 256]
};

template <typename T>
__global__ void __launch_bounds__(kTile, kResident)
    fold_normalization(const __grid_constant__ FoldArguments<T> fold) {
  const LatticeView<T>& lattice = fold.lattice;
  const int vertices = lattice.vertices_per_point;
  const T alpha = response_scale<T>(vertices - 1);
  const T unit = fold.attraction == nullptr ? fold.unit : fold.unit * *fold.attraction;
  for (int64_t at = blockIdx.x; at < lattice.batch * lattice.tiles.tiles; at += gridDim.x) {
    const int64_t incidence = at * vertices * kTile + threadIdx.x;
    T total = T(0);
    for (int r = 0; r < vertices; ++r) {
      const int64_t i = incidence + r * kTile;
      total += lattice.weight[i] * lattice.ones[lattice.row[i]];
    }
    total = alpha * total + T(1e-20);
    T splat = T(1), scale = unit * alpha;
    if (fold.normalization == Normalization::kBefore) {
      splat = T(1) / total;
      scale *= total;
    } else if (fold.normalization == Normalization::kAfter) {
      scale /= total;
    } else if (fold.normalization == Normalization::kSymmetric) {
      splat = T(1) / std::sqrt(total);
    }
    fold.scale[at * kTile + threadIdx.x] = scale;
    if (fold.weight == nullptr) continue;
    for (int r = 0; r < vertices; ++r) {
      const int64_t i = incidence + r * kTile;
      fold.weight[i] = lattice.weight[i] * splat;
    }
  }
}

}  // namespace densecrf::cuda
