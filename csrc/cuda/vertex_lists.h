// For each vertex the tile rows that add to it, in the order of tiles: sums over them are then the
// same from run to run.
#pragma once

#include "block.h"
#include "lattice_view.h"

namespace densecrf::cuda {

struct ListArguments {
  int64_t batch;
  int64_t tiles;  // of the batch
  const int32_t* failure;
  const int32_t* image_first;
  const int32_t* head_first;  // [tiles + 1] first vertex that each tile heads
  const uint32_t* place;      // [tile rows] vertex
  int32_t* tile_first;        // [tiles + 1]
  int32_t* vertex_rows;       // [capacity] tile rows of each vertex; then where the next goes
  int32_t* listed;            // [tiles] tile rows of the vertices that the tile heads
  int32_t* list_first;        // [tiles + 1] sums of the above
  int32_t* vertex_first;      // [capacity + 1] out
  int32_t* tile_row;          // [tile rows] out
  int32_t* long_list;         // [long_lists] vertices with lists too long for a warp
  int32_t* long_lists;        // [1] 0 at the start
};

constexpr int kShortList = kWarp;

// A block owns the vertices that a tile heads.
static __global__ void __launch_bounds__(kTile) count_listed(ListArguments a) {
  auto& scan = shared_memory<BlockScan>();
  const bool failed = *a.failure != kSound;
  for (int64_t tile = blockIdx.x; tile < a.tiles; tile += gridDim.x) {
    const int32_t end = failed ? 0 : a.head_first[tile + 1];
    int sum = 0;
    for (int32_t v = a.head_first[tile] + static_cast<int>(threadIdx.x); v < end; v += kTile) {
      sum += a.vertex_rows[v];
    }
    const Scanned listed = scan_block(scan, sum);
    if (threadIdx.x == 0) a.listed[tile] = listed.total;
  }
}

// Opens the lists. A block owns the vertices that a tile heads.
static __global__ void __launch_bounds__(kTile) open_lists(ListArguments a) {
  auto& scan = shared_memory<BlockScan>();
  const bool failed = *a.failure != kSound;
  for (int64_t tile = blockIdx.x; tile < a.tiles; tile += gridDim.x) {
    const int32_t end = failed ? 0 : a.head_first[tile + 1];
    int at = a.list_first[tile];
    for (int32_t from = a.head_first[tile]; from < end; from += kTile) {
      const int32_t v = from + static_cast<int>(threadIdx.x);
      const int rows = v < end ? a.vertex_rows[v] : 0;
      const Scanned scanned = scan_block(scan, rows);
      if (v < end) a.vertex_first[v] = a.vertex_rows[v] = at + scanned.before;
      if (rows > kShortList) a.long_list[atomicAdd(a.long_lists, 1)] = v;
      at += scanned.total;
    }
    if (threadIdx.x == 0 && failed) a.tile_first[tile] = 0;
  }
  if (thread_of_grid() != 0) return;
  a.vertex_first[a.image_first[a.batch]] = a.list_first[a.tiles];
  if (failed) a.tile_first[a.tiles] = 0;
}

static __global__ void __launch_bounds__(kTile) fill_lists(ListArguments a) {
  if (*a.failure != kSound) return;
  const int64_t rows = a.tile_first[a.tiles];
  for (int64_t t = thread_of_grid(); t < rows; t += threads_of_grid()) {
    a.tile_row[atomicAdd(a.vertex_rows + a.place[t], 1)] = static_cast<int32_t>(t);
  }
}

// A warp owns a vertex.
static __global__ void __launch_bounds__(kTile) sort_short_lists(ListArguments a) {
  const int64_t vertices = a.image_first[a.batch];
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int64_t v = thread_of_grid() / kWarp; v < vertices; v += threads_of_grid() / kWarp) {
    const int32_t first = a.vertex_first[v], length = a.vertex_first[v + 1] - first;
    if (length < 2 || length > kShortList) continue;
    const int32_t mine = lane < length ? a.tile_row[first + lane] : 0;
    int rank = 0;
    for (int other = 0; other < length; ++other) {
      rank += __shfl_sync(kFullWarp, mine, other) < mine ? 1 : 0;
    }
    if (lane < length) a.tile_row[first + rank] = mine;
  }
}

// A block owns a vertex.
static __global__ void __launch_bounds__(kTile) sort_long_lists(ListArguments a) {
  const int lists = *a.long_lists;
  for (int i = static_cast<int>(blockIdx.x); i < lists; i += static_cast<int>(gridDim.x)) {
    const int32_t v = a.long_list[i], first = a.vertex_first[v];
    sort_block(a.tile_row + first, a.vertex_first[v + 1] - first);
  }
}

}  // namespace densecrf::cuda
