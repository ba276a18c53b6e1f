// What the threads of one block do together: scans and sorts.
#pragma once

#include "device.h"

namespace densecrf::cuda {

struct BlockScan {
  int of_warp[kWarp];
};

struct Scanned {
  int before;  // sum of the values of the threads before this one
  int total;   // of all threads of the block
};

// All threads of the block take part; their number is a multiple of 32.
__device__ __forceinline__ Scanned scan_block(BlockScan& shared, int value) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  int sum = value;
  for (int delta = 1; delta < kWarp; delta *= 2) {
    const int other = __shfl_up_sync(kFullWarp, sum, static_cast<unsigned>(delta));
    if (lane >= delta) sum += other;
  }
  __syncthreads();  // the last scan has been read
  if (lane == kWarp - 1) shared.of_warp[warp] = sum;
  __syncthreads();
  Scanned result{sum - value, 0};
  for (int w = 0; w < warps; ++w) {
    if (w < warp) result.before += shared.of_warp[w];
    result.total += shared.of_warp[w];
  }
  return result;
}

// Sorts n distinct numbers in ascending order, by a bitonic network whose comparators all point
// upwards: what lies beyond the end counts as infinite and never moves. The whole block takes part
// and sees the result on return.
template <typename T>
__device__ __forceinline__ void sort_block(T* data, int n) {
  int size = 1;
  while (size < n) size *= 2;
  const auto order = [=](int low, int high) {
    if (high >= n) return;
    const T a = data[low], b = data[high];
    if (a > b) {
      data[low] = b;
      data[high] = a;
    }
  };
  const int threads = static_cast<int>(blockDim.x), thread = static_cast<int>(threadIdx.x);
  for (int run = 2; run <= size; run *= 2) {
    for (int p = thread; p < size / 2; p += threads) {
      const int in_run = p & (run / 2 - 1), start = (p - in_run) * 2;
      order(start + in_run, start + run - 1 - in_run);
    }
    __syncthreads();
    for (int step = run / 4; step > 0; step /= 2) {
      for (int p = thread; p < size / 2; p += threads) {
        const int low = p * 2 - (p & (step - 1));
        order(low, low + step);
      }
      __syncthreads();
    }
  }
}

}  // namespace densecrf::cuda
