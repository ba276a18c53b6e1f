// For each vertex the tile rows that add to it, in the order of tiles: sums over them are then the
// same from run to run.
#pragma once

#include "block.h"
#include "chains.h"
#include "lattice_view.h"

namespace densecrf::cuda {

struct ListArguments {
  int64_t batch;
  int64_t tiles;  // of the batch
  int64_t runs;   // of kListRun vertices, for as many as there is room for
  const int32_t* failure;
  const int32_t* image_first;
  const uint32_t* place;  // [tile rows] vertex
  int32_t* tile_first;    // [tiles + 1]
  int32_t* vertex_rows;   // [capacity] tile rows of each vertex; then where the next goes
  int32_t* listed;        // [runs] tile rows of a run's vertices
  int32_t* list_first;    // [runs + 1] sums of the above
  int32_t* vertex_first;  // [capacity + 1] out
  int32_t* tile_row;      // [tile rows] out
  int32_t* long_list;     // [long_lists] vertices with lists too long for a warp
  int32_t* long_lists;    // [1] bound_images has set it to 0
};

constexpr int kShortList = kWarp;
constexpr int64_t kListRun = 4 * kTile;  // vertices whose lists one block opens

HOST_DEVICE int64_t run_end(int64_t run, int64_t vertices) {
  return (run + 1) * kListRun < vertices ? (run + 1) * kListRun : vertices;
}

// A block owns a run of vertices.
__device__ __forceinline__ void count_listed(const ListArguments& a) {
  auto& scan = shared_memory<BlockScan>();
  const int64_t vertices = a.image_first[a.batch];
  for (int64_t run = blockIdx.x; run < a.runs; run += gridDim.x) {
    const int64_t end = run_end(run, vertices);
    int sum = 0;
    for (int64_t v = run * kListRun + threadIdx.x; v < end; v += kTile) sum += a.vertex_rows[v];
    const Scanned listed = scan_block(scan, sum);
    if (threadIdx.x == 0) a.listed[run] = listed.total;
  }
}

// Chains and lists, of which neither needs the other.
static __global__ void __launch_bounds__(kTile) begin_lists(ChainArguments c, ListArguments l) {
  list_chains(c);
  count_listed(l);
}

// Opens the lists. A block owns a run of vertices.
static __global__ void __launch_bounds__(kTile) open_lists(ListArguments a) {
  auto& scan = shared_memory<BlockScan>();
  const int64_t vertices = a.image_first[a.batch];
  for (int64_t run = blockIdx.x; run < a.runs; run += gridDim.x) {
    const int64_t end = run_end(run, vertices);
    int at = a.list_first[run];
    for (int64_t from = run * kListRun; from < end; from += kTile) {
      const int64_t v = from + threadIdx.x;
      const int rows = v < end ? a.vertex_rows[v] : 0;
      const Scanned scanned = scan_block(scan, rows);
      if (v < end) a.vertex_first[v] = a.vertex_rows[v] = at + scanned.before;
      if (rows > kShortList) a.long_list[atomicAdd(a.long_lists, 1)] = static_cast<int32_t>(v);
      at += scanned.total;
    }
  }
  if (thread_of_grid() == 0) a.vertex_first[vertices] = a.list_first[a.runs];
}

// Fills the lists in any order; a lattice that has failed is left without tile rows.
static __global__ void __launch_bounds__(kTile) fill_lists(ListArguments a) {
  const bool failed = *a.failure != kSound;
  for (int64_t t = thread_of_grid(); failed && t <= a.tiles; t += threads_of_grid()) {
    a.tile_first[t] = 0;
  }
  if (failed) return;
  const int64_t rows = a.tile_first[a.tiles];
  for (int64_t t = thread_of_grid(); t < rows; t += threads_of_grid()) {
    a.tile_row[atomicAdd(a.vertex_rows + a.place[t], 1)] = static_cast<int32_t>(t);
  }
}

// A warp owns a vertex.
__device__ __forceinline__ void sort_short_lists(const ListArguments& a) {
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
__device__ __forceinline__ void sort_long_lists(const ListArguments& a) {
  const int lists = *a.long_lists;
  for (int i = static_cast<int>(blockIdx.x); i < lists; i += static_cast<int>(gridDim.x)) {
    const int32_t v = a.long_list[i], first = a.vertex_first[v];
    sort_block(a.tile_row + first, a.vertex_first[v + 1] - first);
  }
}

// Every list is either short or long.
static __global__ void __launch_bounds__(kTile) sort_lists(ListArguments a) {
  sort_long_lists(a);
  sort_short_lists(a);
}

}  // namespace densecrf::cuda
