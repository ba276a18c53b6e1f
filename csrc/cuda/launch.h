// What the code that launches kernels needs of CUDA: the other half of device.h.
#pragma once

#include <stdexcept>
#include <string>

#include "device.h"

namespace densecrf::cuda {

#if defined(__CUDACC__)

using Stream = cudaStream_t;

inline void require_success(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  static_cast<void>(cudaGetLastError());  // else the next launch would report it as its own
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

// To the host, which has it once it has waited for the stream.
inline void read_bytes(Stream stream, void* to, const void* from, size_t bytes) {
  require_success(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream), "read back");
}

inline void wait(Stream stream) { require_success(cudaStreamSynchronize(stream), "synchronize"); }

// How many blocks of so many threads the current device can run at once, were it for threads alone.
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

// How many blocks of a kernel the current device runs at once; 0: it has no cooperative launches.
template <typename... Parameters>
int64_t cooperative_blocks(void (*kernel)(Parameters...), int threads) {
  int device = 0, able = 0, processors = 0, each = 0;
  require_success(cudaGetDevice(&device), "get device");
  require_success(cudaDeviceGetAttribute(&able, cudaDevAttrCooperativeLaunch, device),
                  "ask for cooperative launches");
  if (able == 0) return 0;
  require_success(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device),
                  "count processors");
  require_success(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, kernel, threads, 0),
                  "count resident blocks");
  return static_cast<int64_t>(processors) * each;
}

// At most cooperative_blocks; false where they cannot be resident at once after all: of a part of a
// GPU (MPS, green contexts) cooperative_blocks knows the whole. Streams that are being captured
// take it like any launch: graphs have had cooperative kernels since CUDA 11.0
// (cudaLaunchAttributeCooperative is valid for graph nodes).
template <typename... Parameters, typename... Arguments>
bool launch_cooperative(Stream stream, void (*kernel)(Parameters...), int64_t blocks, int threads,
                        const Arguments&... arguments) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeCooperative;
  attribute.val.cooperative = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  const cudaError_t status =
      cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
  if (status == cudaErrorCooperativeLaunchTooLarge || status == cudaErrorNotSupported) {
    static_cast<void>(cudaGetLastError());
    return false;
  }
  require_success(status, "cooperative launch");
  return true;
}

#else

struct Stream {};

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

inline void read_bytes(Stream, void* to, const void* from, size_t bytes) {
  std::memcpy(to, from, bytes);
}

inline void wait(Stream) {}

// Few, so that a thread of a grid-stride loop goes round more than once.
inline int64_t resident_blocks(int) { return 3; }

template <typename... Parameters>
int64_t cooperative_blocks(void (*)(Parameters...), int) {
  return emulator::resident_blocks();
}

template <typename... Parameters, typename... Arguments>
bool launch_cooperative(Stream, void (*kernel)(Parameters...), int64_t blocks, int threads,
                        const Arguments&... arguments) {
  auto body = [&] { kernel(static_cast<Parameters>(arguments)...); };
  emulator::run_grid(
      static_cast<unsigned>(blocks), static_cast<unsigned>(threads),
      [](void* context) { (*static_cast<decltype(body)*>(context))(); }, &body, true);
  return true;
}

#endif

// Blocks for a grid-stride loop over `items` with `per_block` items a block and round: no more than
// the device has threads for.
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
