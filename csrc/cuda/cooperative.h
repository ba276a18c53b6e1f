// Kernels whose blocks are all resident at once, so that they can wait for each other: several
// steps in one kernel, a grid barrier where there would be the end of a kernel. launch.h launches
// them.
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

#else

inline void grid_barrier() { emulator::grid_barrier(); }

#endif

}  // namespace densecrf::cuda
