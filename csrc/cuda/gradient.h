// Mean field's backward, one kernel after another. An iteration is z = logits - sum_k C_k F_k(Q),
// S = softmax(z), Q' = (1 - a) S + a Q with damping a. Given H = dL/dQ',
//
//   g = (1 - a) S (H - <S, H>)      dL/dlogits += g      m_k = F_k^T g
//   dL/dC_k -= m_k Q^T              dL/dQ = a H - sum_k C_k^T m_k
//
// with m_k a filter pass with the adjoint. F acts on points, C on labels: they commute.
#pragma once

#include "softmax.h"

namespace densecrf::cuda {

template <typename T>
constexpr T kSmallest = sizeof(T) == 4 ? T(1e-37) : T(1e-300);

// rows [images, tiles, 256, chunks] of planes [images, classes, N], or their exponentials; zeros
// where there is no point or no label.
template <typename T>
__global__ void __launch_bounds__(kTile, kResident)
    load_planes(const T* planes, T* rows, int64_t images, const __grid_constant__ TileMap tiles,
                int64_t classes, int chunks, bool exponentials) {
  for (int64_t item = blockIdx.x; item < images * tiles.tiles; item += gridDim.x) {
    const auto [image, tile] = batch_tile(item, tiles);
    const int64_t point = tiles.point(tile, static_cast<int>(threadIdx.x));
    const T* plane = planes + image * classes * tiles.points + point;
    Chunk<T>* to = as_chunks(rows) + (item * kTile + threadIdx.x) * chunks;
    for (int c = 0; c < chunks; ++c) {
      Chunk<T> x = Chunk<T>::zero();
      for (int i = 0; i < kChunk<T>; ++i) {
        const int64_t label = int64_t{c} * kChunk<T> + i;
        if (point < 0 || label >= classes) continue;
        const T value = plane[label * tiles.points];
        x.value[i] = exponentials ? power_of_two(value * kLog2E<T>) : value;
      }
      to[c] = x;
    }
  }
}

// Rows [images, tiles, 256, stride] all, stride counted in T.
template <typename T>
struct SoftmaxGradient {
  T* h;              // dL/dQ', or of log Q' if `logarithm`; becomes a H where there is damping
  const T* after;    // Q'
  const T* earlier;  // Q, or null where Q' is S itself
  T* g;
  T* logits;  // g is added
  int64_t rows;
  int64_t classes;
  int64_t stride;
  T damping;
  bool logarithm;
  bool fresh;  // `logits` holds nothing yet
};

// S = (Q' - a Q) / (1 - a), the softmax that an update came from. Points have 1 ... 32 lanes.
template <typename T>
__global__ void __launch_bounds__(kTile, 2)
    differentiate_softmax(const __grid_constant__ SoftmaxGradient<T> a, int lanes) {
  const int at_once = kTile / lanes, lane = static_cast<int>(threadIdx.x) % lanes;
  const bool damped = a.earlier != nullptr;
  const T share = damped ? T(1) - a.damping : T(1);
  for (int64_t first = int64_t{blockIdx.x} * at_once; first < a.rows;
       first += int64_t{gridDim.x} * at_once) {
    const int64_t row = (first + static_cast<int>(threadIdx.x) / lanes) * a.stride;
    const auto softmax = [&](int64_t c) {
      const T q = a.after[row + c];
      return damped ? (q - a.damping * a.earlier[row + c]) / share : q;
    };
    // Of log Q' the product (1 - a) S / Q' dL/dlog Q' = dL/dlog Q' - a Q / Q' dL/dlog Q' keeps its
    // meaning where both vanish.
    const auto part = [&](int64_t c) {
      return damped ? a.damping / larger(a.after[row + c], kSmallest<T>) : T(0);
    };
    T dot = T(0);
    for (int64_t c = lane; c < a.classes; c += lanes) {
      const T h = a.h[row + c];
      if (a.logarithm) {
        dot += damped ? h * (T(1) - part(c) * a.earlier[row + c]) : h;
      } else {
        dot += share * softmax(c) * h;
      }
    }
    dot = sum_of_lanes(dot, lanes);
    for (int64_t c = lane; c < a.stride; c += lanes) {
      T g = T(0);
      if (c < a.classes) {
        const T h = a.h[row + c];
        if (a.logarithm) {
          g = (damped ? h * (T(1) - part(c) * a.earlier[row + c]) : h) - softmax(c) * dot;
          if (damped) a.h[row + c] = part(c) * h;
        } else {
          g = softmax(c) * (share * h - dot);
          if (damped) a.h[row + c] = a.damping * h;
        }
      }
      a.g[row + c] = g;
      a.logits[row + c] = a.fresh ? g : a.logits[row + c] + g;
    }
  }
}

// h <- h + factor m, rows as above; factor [1] (step 0) or [classes] (step 1). Without `adds`, h
// holds nothing yet.
template <typename T>
__global__ void __launch_bounds__(kTile, kResident)
    add_attraction(const T* m, const T* factor, int step, T* h, int64_t rows, int64_t classes,
                   int64_t stride, bool adds) {
  for (int64_t i = thread_of_grid(); i < rows * classes; i += threads_of_grid()) {
    const int64_t row = i / classes, c = i - row * classes, at = row * stride + c;
    h[at] = (adds ? h[at] : T(0)) + factor[c * step] * m[at];
  }
}

// What all points' products m_c q_o sum to: of the diagonal [classes] or of a matrix
// [classes, classes], times `unit`. First every block sums the points of tiles of its own, then a
// warp for each number the blocks, in an order that follows from their numbers alone.
struct WeightSums {
  int64_t classes;
  int64_t stride;
  bool matrix;
  double unit;
  int64_t count() const { return matrix ? classes * classes : classes; }
};

template <typename T>
__global__ void __launch_bounds__(kTile, kResident)
    sum_products(const T* m, const T* q, int64_t tiles, const __grid_constant__ WeightSums sums,
                 double* partial) {
  struct Shared {
    double total[kTile];
  };
  auto& shared = shared_memory<Shared>();
  const int64_t count = sums.matrix ? sums.classes * sums.classes : sums.classes;
  // Few numbers have several threads each, which take every so manieth point.
  const auto thread = static_cast<int>(threadIdx.x);
  const int width = count < kTile ? static_cast<int>(count) : kTile;
  const int shares = kTile / width, share = thread / width;
  for (int64_t first = 0; first < count; first += width) {
    const int64_t i = first + thread % width;
    const int64_t c = sums.matrix ? i / sums.classes : i;
    const int64_t o = sums.matrix ? i - c * sums.classes : i;
    double total = 0.0;
    if (i < count && share < shares) {
      for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const T* left = m + tile * kTile * sums.stride + c;
        const T* right = q + tile * kTile * sums.stride + o;
        T sum = T(0);
        for (int p = share; p < kTile; p += shares) {
          sum += left[p * sums.stride] * right[p * sums.stride];
        }
        total += static_cast<double>(sum);
      }
    }
    shared.total[thread] = total;
    __syncthreads();
    if (thread < width && i < count) {
      for (int s = 1; s < shares; ++s) total += shared.total[s * width + thread];
      partial[blockIdx.x * count + i] = total;
    }
    __syncthreads();  // the next numbers' totals go where these are
  }
}

template <typename T>
__global__ void __launch_bounds__(kTile, kResident)
    add_sums(const double* partial, int64_t blocks, const __grid_constant__ WeightSums sums,
             double* total) {
  const int64_t count = sums.matrix ? sums.classes * sums.classes : sums.classes;
  const int64_t lane = threadIdx.x % kWarp;
  for (int64_t i = thread_of_grid() / kWarp; i < count; i += threads_of_grid() / kWarp) {
    double sum = 0.0;
    for (int64_t b = lane; b < blocks; b += kWarp) sum += partial[b * count + i];
    sum = sum_of_lanes(sum, kWarp);
    if (lane == 0) total[i] += sums.unit * sum;
  }
}

// One block: to <- the totals, or their sum where one weight serves all labels; NaN after failure.
template <typename T>
__global__ void __launch_bounds__(kTile, kResident)
    write_weights(const double* total, int64_t count, bool one, const int32_t* failed, T* to) {
  if (one) {
    if (threadIdx.x > 0) return;
    double sum = 0.0;
    for (int64_t i = 0; i < count; ++i) sum += total[i];
    to[0] = static_cast<T>(*failed != 0 ? NAN : sum);
    return;
  }
  for (int64_t i = threadIdx.x; i < count; i += kTile) {
    to[i] = static_cast<T>(*failed != 0 ? NAN : total[i]);
  }
}

}  // namespace densecrf::cuda
