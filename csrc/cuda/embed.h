// Embeds the points of each tile: barycentric weights into the lattice, keys of the simplex's
// vertices into scratch. Compiled without contraction of a*b+c.
#pragma once

#include "keys.h"
#include "plan.h"

namespace densecrf::cuda {

template <typename T>
struct EmbedArguments {
  FeatureSource from;
  Plan<T> plan;
  T* weight;      // [B, tiles, V, 256]
  KeyArray keys;  // of the incidences
  // [threads of the grid, 6, V] of 8 bytes each, for dimensions without code of their own.
  void* scratch;
};

template <typename T, int kD>
struct EmbedVectors {
  using I = typename ScalarTraits<T>::Int;
  T c[kD + 1], elevated[kD + 1], remainder[kD + 1], weight[kD + 1];
  I rank[kD + 1], axis[kD + 1];
};

template <typename T>
struct EmbedVectors<T, -1> {
  using I = typename ScalarTraits<T>::Int;
  T *c, *elevated, *remainder, *weight;
  I *rank, *axis;
};

template <typename T, int kD>
__device__ __forceinline__ void embed_lane(const EmbedArguments<T>& a, EmbedVectors<T, kD>& v,
                                           int64_t tile, int lane, int words) {
  const int d = kD >= 0 ? kD : a.from.dimensions;
  const int64_t first = tile * (d + 1) * kTile + lane;  // incidence 0 of this lane
  const int64_t image = tile / a.from.tiles.tiles;
  const int64_t point = a.from.tiles.point(tile - image * a.from.tiles.tiles, lane);
  if (point < 0 || words == 0) {
    UNROLL
    for (int r = 0; r <= d; ++r) {
      a.weight[first + r * kTile] = T(0);
      a.keys.at(first + r * kTile, 0) = kNoKey;
    }
    return;
  }
  UNROLL
  for (int m = 0; m < d; ++m) {
    const T raw = raw_feature<T>(a.from, image, point, m);
    v.c[m] = (a.from.matrix != nullptr ? raw : raw / a.plan.sigma[m]) * a.plan.scale[m];
  }
  embed_point<kD, ScalarLanes<T>>(d, v.c, v.elevated, v.remainder, v.rank, v.axis, v.weight);
  UNROLL
  for (int r = 0; r <= d; ++r) a.weight[first + r * kTile] = v.weight[r];
  const int stride = a.plan.most_words;
  for (int w = 0; w < words; ++w) {
    uint64_t key = 0;
    UNROLL
    for (int i = 0; i <= d; ++i) {
      key += static_cast<uint64_t>(static_cast<int64_t>(v.remainder[i])) *
             a.plan.factor[i * stride + w];
    }
    key -= a.plan.origin[w];
    a.keys.at(first, w) = key;
    UNROLL
    for (int r = 0; r < d; ++r) {
      key += a.plan.step[static_cast<int>(v.axis[d - r]) * stride + w];
      a.keys.at(first + (r + 1) * kTile, w) = key;
    }
  }
}

// A block owns a tile, a thread a point. kD = -1: any number of dimensions.
template <typename T, int kD>
__global__ void __launch_bounds__(kTile, 2) embed_tiles(EmbedArguments<T> a) {
  const int lane = static_cast<int>(threadIdx.x);
  const int64_t tiles = a.from.batch * a.from.tiles.tiles;
  const int words = *a.plan.words;
  EmbedVectors<T, kD> vectors;
  if constexpr (kD < 0) {
    const int64_t vertices = a.from.dimensions + 1;
    auto* scratch = static_cast<uint64_t*>(a.scratch) + thread_of_grid() * 6 * vertices;
    const auto part = [&]<typename P>(P*& vector) {
      vector = reinterpret_cast<P*>(scratch);
      scratch += vertices;
    };
    part(vectors.c);
    part(vectors.elevated);
    part(vectors.remainder);
    part(vectors.weight);
    part(vectors.rank);
    part(vectors.axis);
  }
  for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    embed_lane<T, kD>(a, vectors, tile, lane, words);
  }
}

}  // namespace densecrf::cuda
