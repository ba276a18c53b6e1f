// All iterations of few labels over few points in one launch, with a grid barrier where one kernel
// would end and the next begin. The same bodies add the same numbers in the same order as the
// launches do, so the results have the same bits.
#pragma once

#include <algorithm>

#include "blur.h"
#include "cooperative.h"
#include "fused_pass.h"

namespace densecrf::cuda {

// Blocks a processor that the loop shall hold. It has the pass over the points, the sums and the
// blur in one kernel, whose common registers, some 120, leave room for no more.
constexpr int kLoopResident = 2;

// Rows have kWidth chunks. `steps`: of the blur of the lattice with most axes.
template <typename T, int kWidth>
__global__ void __launch_bounds__(kTile, kLoopResident)
    run_iterations(const __grid_constant__ PassList<T> list,
                   const __grid_constant__ FusedArguments<T> a, int64_t iterations, int steps) {
  auto& sums = shared_memory<FusedShared<T, kWidth>>().sums;
  // Every other lattice is taken from the other end: blocks that have a row more of one have none
  // more of the next.
  const BlockPlace place = place_in_grid();
  const auto place_for = [&](int k) {
    return k % 2 == 0 ? place : BlockPlace{place.count - 1 - place.number, place.count};
  };
  for (int64_t i = 0;; ++i) {
    const Stage stage = i == 0 ? Stage::kFirst : i < iterations ? Stage::kMiddle : Stage::kLast;
    const auto round = static_cast<int>(i % 2);
    fuse_tiles<kWidth>(list, a, stage, 1 - round, place);
    if (i == iterations) return;
    grid_barrier();
    for (int k = 0; k < list.count; ++k) {
      if (k > 0) __syncthreads();  // the last lattice's sums lay where this one's will
      gather_partial_rows(list.lattice[k], round, kWidth, place_for(k), sums);
    }
    grid_barrier();
    for (int step = 0; step < steps; ++step) {
      for (int k = 0; k < list.count; ++k) {
        blur_step(list.lattice[k], round, step, false, kWidth, place_for(k));
      }
      grid_barrier();
    }
  }
}

// Whether it has been done: not where the device cannot, nor, unless `always`, where there are too
// many tiles.
template <typename T, int kWidth>
bool launch_loop(const Context& context, const PassList<T>& list, const FusedArguments<T>& a,
                 int64_t iterations, int steps, bool always) {
  const auto kernel = run_iterations<T, kWidth>;
  const int64_t resident = cooperative_blocks(kernel, kTile);
  const int64_t tiles = list.images * list.tiles.tiles;
  if (resident == 0 || (!always && tiles > kLoopTiles * resident)) return false;
  int64_t wanted = tiles;
  for (int k = 0; k < list.count; ++k) {
    const PassLattice<T>& pass = list.lattice[k];
    const int64_t per_block = kTile / kWidth;
    wanted = std::max(wanted, (pass.copies * pass.lattice.capacity + per_block - 1) / per_block);
  }
  return launch_cooperative(context.stream, kernel, std::min(wanted, resident), kTile, list, a,
                            iterations, steps);
}

}  // namespace densecrf::cuda
