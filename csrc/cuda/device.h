// What kernels need of CUDA. nvcc gives them the real thing; any other compiler the emulator
// (testing/emulator), which runs the same kernels on the CPU.
//
// Kernels have one-dimensional blocks and grids and keep their shared memory in structs:
// `auto& shared = shared_memory<Shared>()`. They read what other threads of the same launch write
// atomically through load_relaxed.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#else
#include "testing/emulator/emulator.h"
#endif

namespace densecrf::cuda {

constexpr int kWarp = 32;
constexpr unsigned kFullWarp = 0xffffffffu;

#if defined(__CUDACC__)

// The block's one S, not initialised.
template <typename S>
__device__ __forceinline__ S& shared_memory() {
  __shared__ alignas(16) unsigned char memory[sizeof(S)];
  return *reinterpret_cast<S*>(memory);
}

template <typename T>
__device__ __forceinline__ T load_relaxed(const T* at) {
  return *const_cast<const volatile T*>(at);
}

#else

template <typename S>
S& shared_memory() {
  return *static_cast<S*>(emulator::shared_memory(&emulator::kTag<S>, sizeof(S)));
}

template <typename T>
T load_relaxed(const T* at) {
  emulator::preempt();
  return __atomic_load_n(at, __ATOMIC_RELAXED);
}

#endif

// The number of this thread in the grid, and of all its threads.
__device__ __forceinline__ int64_t thread_of_grid() {
  return int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
}
__device__ __forceinline__ int64_t threads_of_grid() { return int64_t{gridDim.x} * blockDim.x; }

// A block's number among those that share a piece of work: the whole grid, or a part of it. Bodies
// of kernels take their place as an argument, so that several can run one after another in one
// launch.
struct BlockPlace {
  int64_t number, count;
};
__device__ __forceinline__ BlockPlace place_in_grid() { return {blockIdx.x, gridDim.x}; }

}  // namespace densecrf::cuda
