// Launches whose blocks are all resident at once, so that they can wait for each other: several
// steps in one kernel, a grid barrier where there would be the end of a kernel.
//
// What one block writes before a barrier, others may read behind it. They must read it with plain
// loads: those through the read-only cache (__ldg, and what nvcc makes of a pointer that is both
// const and __restrict__) are not ordered by the barrier. Bodies of such kernels therefore use
// neither.
#pragma once

#include "device.h"

#if defined(__CUDACC__)
#include <cooperative_groups.h>
#endif

namespace densecrf::cuda {

#if defined(__CUDACC__)

// Every thread of the grid takes part. The driver keeps the barrier's counter, one for each launch,
// also of a graph that is replayed; nothing has to be linked with relocatable device code.
__device__ __forceinline__ void grid_barrier() { cooperative_groups::this_grid().sync(); }

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

// At most cooperative_blocks. Streams that are being captured take it like any launch: graphs have
// had cooperative kernels since CUDA 11.0 (cudaLaunchAttributeCooperative is valid for graph
// nodes).
template <typename... Parameters, typename... Arguments>
void launch_cooperative(Stream stream, void (*kernel)(Parameters...), int64_t blocks, int threads,
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
  require_success(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...),
                  "cooperative launch");
}

#else

inline void grid_barrier() { emulator::grid_barrier(); }

template <typename... Parameters>
int64_t cooperative_blocks(void (*)(Parameters...), int) {
  return emulator::resident_blocks();
}

template <typename... Parameters, typename... Arguments>
void launch_cooperative(Stream, void (*kernel)(Parameters...), int64_t blocks, int threads,
                        const Arguments&... arguments) {
  auto body = [&] { kernel(static_cast<Parameters>(arguments)...); };
  emulator::run_grid(
      static_cast<unsigned>(blocks), static_cast<unsigned>(threads),
      [](void* context) { (*static_cast<decltype(body)*>(context))(); }, &body, true);
}

#endif

}  // namespace densecrf::cuda
