// What kernels and the code that launches them need of CUDA. nvcc gives them the real thing; any
// other compiler the emulator (testing/emulator), which runs the same kernels on the CPU.
//
// Kernels have one-dimensional blocks and grids and keep their shared memory in structs:
// `auto& shared = shared_memory<Shared>()`. They read what other threads of the same launch write
// atomically through load_relaxed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#else
#include "testing/emulator/emulator.h"
#endif

namespace densecrf::cuda {

constexpr int kWarp = 32;
constexpr unsigned kFullWarp = 0xffffffffu;

#if defined(__CUDACC__)

using Stream = cudaStream_t;

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

inline void require_success(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  throw std::runtime_error(std::string("CUDA: ") + what + ": " + cudaGetErrorString(status));
}

// kernel<<<blocks, threads>>>(arguments...), checked.
template <typename... Parameters, typename... Arguments>
void launch(Stream stream, void (*kernel)(Parameters...), int64_t blocks, int threads,
            const Arguments&... arguments) {
  kernel<<<static_cast<unsigned>(blocks), static_cast<unsigned>(threads), 0, stream>>>(
      static_cast<Parameters>(arguments)...);
  require_success(cudaGetLastError(), "launch");
}

inline void set_bytes(Stream stream, void* at, int value, size_t bytes) {
  require_success(cudaMemsetAsync(at, value, bytes, stream), "memset");
}

inline void copy_bytes(Stream stream, void* to, const void* from, size_t bytes) {
  require_success(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream), "copy");
}

// How many blocks of so many threads the current device can run at once, at least.
inline int64_t resident_blocks(int threads) {
  int device = 0, processors = 0, per_processor = 0;
  require_success(cudaGetDevice(&device), "get device");
  require_success(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device),
                  "count processors");
  require_success(
      cudaDeviceGetAttribute(&per_processor, cudaDevAttrMaxThreadsPerMultiProcessor, device),
      "count threads");
  return static_cast<int64_t>(processors) * (per_processor / threads);
}

#else

struct Stream {};

template <typename S>
S& shared_memory() {
  return *static_cast<S*>(emulator::shared_memory(&emulator::kTag<S>, sizeof(S)));
}

template <typename T>
T load_relaxed(const T* at) {
  emulator::preempt();
  return __atomic_load_n(at, __ATOMIC_RELAXED);
}

template <typename... Parameters, typename... Arguments>
void launch(Stream, void (*kernel)(Parameters...), int64_t blocks, int threads,
            const Arguments&... arguments) {
  auto body = [&] { kernel(static_cast<Parameters>(arguments)...); };
  emulator::run_grid(
      static_cast<unsigned>(blocks), static_cast<unsigned>(threads),
      [](void* context) { (*static_cast<decltype(body)*>(context))(); }, &body);
}

inline void set_bytes(Stream, void* at, int value, size_t bytes) {
  emulator::count_memset();
  std::memset(at, value, bytes);
}

inline void copy_bytes(Stream, void* to, const void* from, size_t bytes) {
  emulator::count_copy(bytes);
  std::memcpy(to, from, bytes);
}

// Few, so that a thread of a grid-stride loop goes round more than once.
inline int64_t resident_blocks(int) { return 3; }

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

// Blocks for a grid-stride loop over `items` with `per_block` items a block and round: no more than
// run at once.
inline int64_t grid_blocks(int64_t items, int64_t per_block, int threads) {
  const int64_t wanted = (items + per_block - 1) / per_block;
  const int64_t most = resident_blocks(threads);
  return wanted < 1 ? 1 : wanted < most ? wanted : most;
}

// Blocks for a loop over tiles, each a block's work: more than run at once, so that the last ones
// fill the gaps.
inline int64_t tile_blocks(int64_t tiles, int threads) {
  const int64_t most = 4 * resident_blocks(threads);
  return tiles < most ? tiles : most;
}

}  // namespace densecrf::cuda
