// The layout of the keys, planned on the device: the range of float features is data, and to read
// it back would make the host wait.
#pragma once

#include "../embedding.h"
#include "../key_plan.h"
#include "device.h"
#include "features.h"
#include "lattice_view.h"

namespace densecrf::cuda {

constexpr int kPlanThreads = 256;
constexpr int kRangeBlocks = kPlanThreads;  // one partial range for each thread that plans

// What the embedding reads, in device memory.
template <typename T>
struct Plan {
  T* sigma;          // [d], 1 for a matrix
  T* scale;          // [d] feature_scale
  int32_t* words;    // [1] of a key, at most `most_words`
  uint64_t* factor;  // [d + 1, most_words], see key_layout.h
  uint64_t* origin;  // [most_words]
  uint64_t* step;    // [d + 1, most_words]
  int most_words;
  // Scratch.
  double* partial;  // [d, 2, kRangeBlocks] lowest and highest raw feature of a part of the points
  double* low;      // [d] of the scaled features
  double* high;     // [d]
  KeyField* field;  // [d + 1]
};

struct RangeOfWarps {
  double low[kPlanThreads / kWarp], high[kPlanThreads / kWarp];
};

// The lowest and highest of all threads' values, for thread 0. A value that is not finite leaves an
// infinity.
__device__ __forceinline__ void reduce_range(RangeOfWarps& shared, double& low, double& high) {
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
    const double l = __shfl_xor_sync(kFullWarp, low, lanes);
    const double h = __shfl_xor_sync(kFullWarp, high, lanes);
    low = l < low ? l : low;
    high = h > high ? h : high;
  }
  __syncthreads();  // the last range has been read
  if (threadIdx.x % kWarp == 0) {
    shared.low[threadIdx.x / kWarp] = low;
    shared.high[threadIdx.x / kWarp] = high;
  }
  __syncthreads();
  for (int w = 0; w < kPlanThreads / kWarp; ++w) {
    low = shared.low[w] < low ? shared.low[w] : low;
    high = shared.high[w] > high ? shared.high[w] : high;
  }
}

template <typename T>
__global__ void __launch_bounds__(kPlanThreads, 4)
    measure_ranges(FeatureSource from, double* partial) {
  auto& shared = shared_memory<RangeOfWarps>();
  const int64_t total = from.batch * from.tiles.points;
  for (int m = 0; m < from.dimensions; ++m) {
    if (!has_data_range(from, m)) continue;
    double low = static_cast<double>(raw_feature<T>(from, 0, 0, m)), high = low;
    for (int64_t i = thread_of_grid(); i < total; i += threads_of_grid()) {
      const int64_t image = i / from.tiles.points;
      const auto value =
          static_cast<double>(raw_feature<T>(from, image, i - image * from.tiles.points, m));
      low = value < low ? value : low;
      high = value <= high ? high : value;  // a NaN moves in, and the next line makes it infinite
      if (high != high) high = HUGE_VAL;
    }
    if (high != high) high = HUGE_VAL;
    reduce_range(shared, low, high);
    if (threadIdx.x == 0) {
      partial[(2 * m) * kRangeBlocks + blockIdx.x] = low;
      partial[(2 * m + 1) * kRangeBlocks + blockIdx.x] = high;
    }
  }
}

// Runs as one block. `blocks` of measure_ranges have left their partial ranges.
template <typename T>
__global__ void __launch_bounds__(kPlanThreads)
    plan_keys(FeatureSource from, Sigmas sigmas, int blocks, Plan<T> plan, int32_t* failure) {
  auto& shared = shared_memory<RangeOfWarps>();
  const int d = from.dimensions, thread = static_cast<int>(threadIdx.x);
  for (int m = 0; m < d; ++m) {
    const double sigma = from.matrix != nullptr ? 1.0 : sigmas.value[m];
    double low = 0.0, high = 255.0;
    if (from.matrix == nullptr && m < from.sides)
      high = static_cast<double>(from.tiles.size[m] - 1);
    if (has_data_range(from, m)) {
      const double* partial = plan.partial + 2 * m * kRangeBlocks;
      low = partial[thread < blocks ? thread : 0];
      high = partial[kRangeBlocks + (thread < blocks ? thread : 0)];
      reduce_range(shared, low, high);
    }
    if (thread == 0) {
      const double scale = feature_scale<double>(m, d);
      plan.low[m] = low / sigma * scale;
      plan.high[m] = high / sigma * scale;
      plan.sigma[m] = static_cast<T>(sigma);
      plan.scale[m] = feature_scale<T>(m, d);
    }
  }
  __syncthreads();
  if (thread == 0) {
    bool resolved = true;
    for (int j = 0; j <= d; ++j) {
      const double reach = coordinate_range(j, d, plan.low, plan.high).reach();
      resolved = resolved && reach < ScalarTraits<T>::kMaxElevated;
    }
    *failure = resolved ? kSound : kOutOfRange;
    *plan.words = resolved ? plan_fields(d, plan.low, plan.high, plan.field) : 0;
  }
  __syncthreads();
  for (int w = 0; w < *plan.words; ++w) {
    uint64_t one_each = 0, origin = 0;
    for (int j = 0; j <= d; ++j) {
      const uint64_t factor = plan.field[j].factor(w);
      one_each += factor;
      origin += static_cast<uint64_t>(plan.field[j].low) * factor;
    }
    if (thread == 0) plan.origin[w] = origin;
    for (int axis = thread; axis <= d; axis += kPlanThreads) {
      const uint64_t factor = plan.field[axis].factor(w);
      plan.factor[axis * plan.most_words + w] = factor;
      plan.step[axis * plan.most_words + w] = one_each - static_cast<uint64_t>(d + 1) * factor;
    }
  }
}

// How many words the keys of d-dimensional points can need, whatever the data.
template <typename T>
int most_words(int d) {
  const double reach = ScalarTraits<T>::kMaxElevated + 2.0 * (d + 1) + 3.0;
  int width = 1;
  while (std::ldexp(1.0, width) <= 2.0 * reach) ++width;
  const int per_word = kWordBits / width;
  return (d + per_word - 1) / per_word;
}

}  // namespace densecrf::cuda
