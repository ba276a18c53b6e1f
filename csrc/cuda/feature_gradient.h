// The derivative of <gradient, filter(values)> with respect to the features.
//
// With the splat S, the blurs B and the factors s, t of the normalisation, the filter is
// y = alpha s S'BS t v. Weights w_pr of point p and its vertex r are the entries of S, and linear
// in the features of p inside a simplex. With u the gradient of y,
//
//   dL/dw_pr = alpha (s_p <u_p, (B S t v)_r> + t_p <v_p, (B' S s u)_r>),
//
// and the normaliser n = alpha S'B S 1 adds, with m_p = alpha dL/dn_p,
//
//   dL/dw_pr += m_p (B S 1)_r + (B' S m)_r.
#pragma once

#include <cmath>

#include "backend.h"
#include "embed.h"
#include "pass_list.h"

namespace densecrf::cuda {

// s and t of a point, from the reciprocal of its normaliser.
template <typename T>
struct SideFactors {
  T splat, slice;  // t, s
};
template <typename T>
__device__ __forceinline__ SideFactors<T> side_factors(Normalization mode, T inverse) {
  switch (mode) {
    case Normalization::kBefore:
      return {inverse, T(1)};
    case Normalization::kAfter:
      return {T(1), inverse};
    case Normalization::kSymmetric:
      return {std::sqrt(inverse), std::sqrt(inverse)};
    default:
      return {T(1), T(1)};
  }
}

template <typename T>
struct WeightGradient {
  PassLattice<T> forward;   // rows B S t v
  PassLattice<T> backward;  // rows B' S s u
  int64_t images;
  int chunks;
  const T* values;    // [images, tiles, 256, chunks] v
  const T* gradient;  // [images, tiles, 256, chunks] u
  Normalization mode;
  T* weights;  // [batch, tiles, V, 256] dL/dw, added to unless `fresh`
  T* sums;     // [batch, tiles, 256] m, up to a factor, likewise
  bool fresh;
};

// 1 / (alpha n + 1e-20), n the filter of ones at the point in this thread's lane.
template <typename T>
__device__ __forceinline__ T inverse_normalizer(const LatticeView<T>& lattice, int64_t incidence) {
  T total = T(0);
  for (int r = 0; r < lattice.vertices_per_point; ++r) {
    total +=
        lattice.weight[incidence + r * kTile] * lattice.ones[lattice.row[incidence + r * kTile]];
  }
  return T(1) / (response_scale<T>(lattice.vertices_per_point - 1) * total + T(1e-20));
}

template <typename T>
__device__ __forceinline__ T product(const Chunk<T>* a, const Chunk<T>* b, int chunks) {
  T sum = T(0);
  for (int c = 0; c < chunks; ++c) {
    const Chunk<T> x = a[c], y = b[c];
    for (int i = 0; i < kChunk<T>; ++i) sum += x.value[i] * y.value[i];
  }
  return sum;
}

// Adds what some channels give to the gradient of the weights, and to m. A block owns a tile of a
// lattice, a thread a point.
template <typename T>
__global__ void __launch_bounds__(kTile, 2)
    differentiate_weights(const __grid_constant__ WeightGradient<T> a) {
  const LatticeView<T>& lattice = a.forward.lattice;
  const int vertices = lattice.vertices_per_point;
  const T alpha = response_scale<T>(vertices - 1);
  const bool symmetric = a.mode == Normalization::kSymmetric;
  const T slice_share = symmetric ? T(0.5) : a.mode == Normalization::kAfter ? T(1) : T(0);
  const T splat_share = symmetric ? T(0.5) : a.mode == Normalization::kBefore ? T(1) : T(0);
  for (int64_t at = blockIdx.x; at < lattice.batch * lattice.tiles.tiles; at += gridDim.x) {
    const auto [own, tile] = batch_tile(at, lattice.tiles);
    const int64_t incidence = at * vertices * kTile + threadIdx.x;
    const auto factors = side_factors(a.mode, inverse_normalizer(lattice, incidence));
    T sum = a.fresh ? T(0) : a.sums[at * kTile + threadIdx.x];
    for (int r = 0; r < vertices; ++r) {
      const int64_t i = incidence + r * kTile;
      T gradient = a.fresh ? T(0) : a.weights[i];
      const int64_t first = lattice.batch == 1 ? 0 : own;
      const int64_t last = lattice.batch == 1 ? a.images : own + 1;
      for (int64_t image = first; image < last; ++image) {
        const int64_t point = (image * lattice.tiles.tiles + tile) * kTile + threadIdx.x;
        const int64_t row = a.forward.copy_of(image) * lattice.capacity + lattice.row[i];
        const T of_slice = alpha * factors.slice *
                           product(as_chunks(a.gradient) + point * a.chunks,
                                   as_chunks(a.forward.blurred(0)) + row * a.chunks, a.chunks);
        const T of_splat = alpha * factors.splat *
                           product(as_chunks(a.values) + point * a.chunks,
                                   as_chunks(a.backward.blurred(0)) + row * a.chunks, a.chunks);
        gradient += of_slice + of_splat;
        sum += lattice.weight[i] * (slice_share * of_slice + splat_share * of_splat);
      }
      a.weights[i] = gradient;
    }
    a.sums[at * kTile + threadIdx.x] = sum;
  }
}

// m [batch, tiles, 256, one chunk] = -alpha sums / n', in the first channel.
template <typename T>
__global__ void __launch_bounds__(kTile, kResident)
    prepare_normalizer(const __grid_constant__ LatticeView<T> lattice, T* sums, T* m) {
  const T alpha = response_scale<T>(lattice.vertices_per_point - 1);
  for (int64_t at = blockIdx.x; at < lattice.batch * lattice.tiles.tiles; at += gridDim.x) {
    const int64_t incidence = at * lattice.vertices_per_point * kTile + threadIdx.x;
    const int64_t place = at * kTile + threadIdx.x;
    sums[place] *= -alpha * inverse_normalizer(lattice, incidence);
    Chunk<T> x = Chunk<T>::zero();
    x.value[0] = sums[place];
    as_chunks(m)[place] = x;
  }
}

// ones: through which m went, B' S m in its rows of one chunk each.
template <typename T>
__global__ void __launch_bounds__(kTile, kResident)
    differentiate_normalizer(const __grid_constant__ PassLattice<T> ones, const T* sums,
                             T* weights) {
  const LatticeView<T>& lattice = ones.lattice;
  const T* rows = ones.blurred(0);
  for (int64_t at = blockIdx.x; at < lattice.batch * lattice.tiles.tiles; at += gridDim.x) {
    const T m = sums[at * kTile + threadIdx.x];
    for (int r = 0; r < lattice.vertices_per_point; ++r) {
      const int64_t i = (at * lattice.vertices_per_point + r) * kTile + threadIdx.x;
      weights[i] += m * lattice.ones[lattice.row[i]] + as_chunks(rows)[lattice.row[i]].value[0];
    }
  }
}

template <typename T>
struct EmbeddingGradient {
  LatticeView<T> lattice;
  const T* features;  // [batch, N, d]
  const T* weights;   // [batch, tiles, V, 256] dL/dw
  T* result;          // [batch, N, d]
  void* scratch;      // [threads of the grid, 6, V] of 8 bytes each, for kD = -1
};

// From weights to features, through the embedding (see embed_point). The coordinate of rank r is in
// the weight of vertex d - r with its sign, in the next vertex's against it.
template <typename T, int kD>
__device__ __forceinline__ void embedding_gradient(const EmbeddingGradient<T>& a,
                                                   EmbedVectors<T, kD>& v, int64_t at,
                                                   int64_t place) {
  const int d = kD >= 0 ? kD : a.lattice.vertices_per_point - 1;
  const int64_t incidence = at * (d + 1) * kTile + threadIdx.x;
  const T* feature = a.features + place * d;
  UNROLL
  for (int m = 0; m < d; ++m) v.c[m] = feature[m] * feature_scale<T>(m, d);
  embed_point<kD, ScalarLanes<T>>(d, v.c, v.elevated, v.remainder, v.rank, v.axis, v.weight);
  bool same = *a.lattice.failure == kSound;
  UNROLL
  for (int r = 0; r <= d; ++r) {
    same = same && v.weight[r] == a.lattice.weight[incidence + r * kTile];
    v.elevated[r] = T(0);
    v.weight[r] = a.weights[incidence + r * kTile];  // its gradient from here on
  }
  const T inverse = T(1) / static_cast<T>(d + 1);
  UNROLL
  for (int r = 0; r <= d; ++r) {
    const T value = (v.weight[d - r] - v.weight[r == 0 ? 0 : d - r + 1]) * inverse;
    UNROLL
    for (int i = 0; i <= d; ++i) v.elevated[i] = v.axis[r] == i ? value : v.elevated[i];
  }
  T below = v.elevated[0];
  UNROLL
  for (int m = 1; m <= d; ++m) {
    const T value = (below - static_cast<T>(m) * v.elevated[m]) * feature_scale<T>(m - 1, d);
    a.result[place * d + m - 1] = same ? value : static_cast<T>(NAN);
    below += v.elevated[m];
  }
}

// A block owns a tile, a thread a point. kD = -1: any number of dimensions.
template <typename T, int kD>
__global__ void __launch_bounds__(kTile, 2)
    differentiate_embedding(const __grid_constant__ EmbeddingGradient<T> a) {
  const TileMap& tiles = a.lattice.tiles;
  EmbedVectors<T, kD> vectors;
  if constexpr (kD < 0) {
    auto* scratch =
        static_cast<uint64_t*>(a.scratch) + thread_of_grid() * 6 * a.lattice.vertices_per_point;
    const auto part = [&]<typename P>(P*& vector) {
      vector = reinterpret_cast<P*>(scratch);
      scratch += a.lattice.vertices_per_point;
    };
    part(vectors.c);
    part(vectors.elevated);
    part(vectors.remainder);
    part(vectors.weight);
    part(vectors.rank);
    part(vectors.axis);
  }
  for (int64_t at = blockIdx.x; at < a.lattice.batch * tiles.tiles; at += gridDim.x) {
    const auto [image, tile] = batch_tile(at, tiles);
    const int64_t point = tiles.point(tile, static_cast<int>(threadIdx.x));
    if (point < 0) continue;
    embedding_gradient<T, kD>(a, vectors, at, image * tiles.points + point);
  }
}

}  // namespace densecrf::cuda
