// Softmax over the labels of a point, and the ways in and out of the passes. The logits of labels
// that do not exist, which only fill up chunks, are kPadding.
#pragma once

#include <cmath>

#include "../logits.h"
#include "backend.h"
#include "pass_list.h"

namespace densecrf::cuda {

__device__ __forceinline__ float power_of_two(float x) { return exp2f(x); }
__device__ __forceinline__ double power_of_two(double x) { return exp2(x); }
__device__ __forceinline__ float log_of(float x) { return logf(x); }
__device__ __forceinline__ double log_of(double x) { return log(x); }
__device__ __forceinline__ float log1p_of(float x) { return log1pf(x); }
__device__ __forceinline__ double log1p_of(double x) { return log1p(x); }

template <typename T>
__device__ __forceinline__ T larger(T a, T b) {
  return a > b ? a : b;
}

// The sum and the maximum of what `lanes` neighbouring lanes hold, a power of two. Every lane of
// the warp takes part.
template <typename T>
__device__ __forceinline__ T sum_of_lanes(T x, int lanes) {
  for (int d = lanes / 2; d > 0; d /= 2) x += __shfl_xor_sync(kFullWarp, x, d);
  return x;
}
template <typename T>
__device__ __forceinline__ T maximum_of_lanes(T x, int lanes) {
  for (int d = lanes / 2; d > 0; d /= 2) x = larger(x, __shfl_xor_sync(kFullWarp, x, d));
  return x;
}

// log((1 - damping) exp(a) + damping exp(b)), also where both exponentials vanish.
template <typename T>
__device__ __forceinline__ T damp_log(T damping, T a, T b) {
  if (damping == T(0)) return a;
  a += log1p_of(-damping);
  b += log_of(damping);
  const T high = larger(a, b), low = a > b ? b : a;
  return high + log1p_of(power_of_two((low - high) * kLog2E<T>));
}

// unary [images, tiles, 256, chunks] = (logits - their maximum) / ln 2, from planes
// [images, classes, N]; zeros for lanes without a point, NaN where one of a point's logits is not
// finite: a comparison would hide it. A block of 256 threads for every tile.
template <typename T>
__global__ void __launch_bounds__(kTile, kResident)
    load_unaries(const T* logits, T* unary, int64_t images, const __grid_constant__ TileMap tiles,
                 int64_t classes, int chunks) {
  for (int64_t item = blockIdx.x; item < images * tiles.tiles; item += gridDim.x) {
    const auto [image, tile] = batch_tile(item, tiles);
    const int64_t point = tiles.point(tile, static_cast<int>(threadIdx.x));
    const T* plane = logits + image * classes * tiles.points + point;
    T highest = T(0), undefined = T(0);  // or NaN
    if (point >= 0) {
      highest = plane[0];
      for (int64_t c = 0; c < classes; ++c) {
        highest = larger(highest, plane[c * tiles.points]);
        undefined += T(0) * plane[c * tiles.points];
      }
    }
    Chunk<T>* to = as_chunks(unary) + (item * kTile + threadIdx.x) * chunks;
    for (int c = 0; c < chunks; ++c) {
      Chunk<T> x;
      for (int i = 0; i < kChunk<T>; ++i) {
        const int64_t label = int64_t{c} * kChunk<T> + i;
        T value = label < classes ? T(0) : kPadding<T>;
        if (point >= 0 && label < classes) {
          value =
              larger((plane[label * tiles.points] - highest) * kLog2E<T>, kNever<T>) + undefined;
        }
        x.value[i] = value;
      }
      to[c] = x;
    }
  }
}

// Hands out the values [256, stride] of a tile, stride counted in T: as planes [images, classes, N]
// of the result, or as the first label of the largest value; -1 where a value is NaN.
template <typename T>
__device__ __forceinline__ void emit_tile(const T* values, int64_t stride, int64_t image,
                                          int64_t tile, const TileMap& tiles, int64_t classes,
                                          bool labels, bool failed, void* result) {
  const auto lane = static_cast<int>(threadIdx.x);
  const int64_t point = tiles.point(tile, lane);
  if (point < 0) return;
  const T* value = values + lane * stride;
  if (!labels) {
    T* plane = static_cast<T*>(result) + image * classes * tiles.points + point;
    for (int64_t c = 0; c < classes; ++c) {
      plane[c * tiles.points] = failed ? static_cast<T>(NAN) : value[c];
    }
    return;
  }
  int64_t label = 0;
  T best = value[0];
  bool defined = best == best;
  for (int64_t c = 1; c < classes; ++c) {
    const T x = value[c];
    defined = defined && x == x;
    if (x > best) {
      best = x;
      label = c;
    }
  }
  static_cast<int64_t*>(result)[image * tiles.points + point] = failed || !defined ? -1 : label;
}

}  // namespace densecrf::cuda
