// Vertices found by a bitmap of cells (cell_layout.h) and numbered in the order of these. Keys of
// incidences are cells here. An image's cells are numbered from a multiple of kRunCells, so that
// a number in the bitmap of the batch, which fits 32 bits, names image and vertex.
#pragma once

#include "../cell_layout.h"
#include "plan.h"
#include "vertices.h"

namespace densecrf::cuda {

constexpr uint32_t kWordCells = 32;
constexpr uint32_t kPairCells = 2 * kWordCells;  // for each of these, 16 bits of `before`
constexpr uint32_t kThreadPairs = 4;             // what a thread counts: a sector of 32 bytes
constexpr uint32_t kRunCells = kTile * kThreadPairs * kPairCells;  // 2^16: ranks within fit 16 bits
constexpr uint32_t kRunBytes = kRunCells / 8 + kRunCells / kPairCells * sizeof(uint16_t);

// Of the batch's bitmap: places, which are cells of the batch, then have a bit to spare.
constexpr int64_t kMostCellsOfBatch = int64_t{1} << 30;

HOST_DEVICE int64_t runs_of_image(int64_t cells) { return (cells + kRunCells - 1) / kRunCells; }

struct CellNumbering {
  uint32_t image_cells;      // a multiple of kRunCells
  const uint64_t* step;      // [2, V] to the next cell along each axis: of residues below d, of d
  uint32_t* bits;            // [B, image_cells / 32] 0 at the start
  uint16_t* before;          // [B, image_cells / 64] set cells of the run before each pair of words
  const int32_t* run_first;  // [B * runs + 1] set cells before each run
  uint32_t* vertex_cell;     // [capacity]

  __device__ __forceinline__ bool holds(uint32_t cell) const {
    return (bits[cell / kWordCells] >> (cell % kWordCells) & 1) != 0;
  }

  // Set cells before this one.
  __device__ __forceinline__ int32_t rank(uint32_t cell) const {
    const uint32_t word = cell / kWordCells;
    const uint32_t lower = (uint32_t{1} << (cell % kWordCells)) - 1;
    const uint32_t even = bits[word & ~1u] & (word % 2 == 0 ? lower : ~0u);
    const uint32_t odd = word % 2 == 0 ? 0 : bits[word] & lower;
    return run_first[cell / kRunCells] + before[cell / kPairCells] + __popc(even) + __popc(odd);
  }

  __device__ __forceinline__ int32_t vertex(int64_t, uint32_t place) const { return rank(place); }

  __device__ __forceinline__ int32_t next(const VertexArguments& a, int64_t vertex,
                                          int axis) const {
    const uint32_t cell = vertex_cell[vertex];
    const auto n = static_cast<uint32_t>(a.vertices_per_point);
    const uint32_t residue = cell % image_cells % n;
    // Steps are added modulo 2^32.
    const auto to = cell + static_cast<uint32_t>(step[(residue == n - 1 ? n : 0) + axis]);
    return holds(to) ? rank(to) : -1;
  }
};

// What the embedding and CellNumbering read. `plan.step` has room for [2, V]. Runs as one block.
template <typename T>
__global__ void __launch_bounds__(kPlanThreads)
    write_cell_plan(const __grid_constant__ CellLayout layout,
                    const __grid_constant__ Sigmas sigmas, Plan<T> plan, int32_t* failure) {
  const int d = layout.dimensions, thread = static_cast<int>(threadIdx.x);
  if (thread < d) {
    plan.sigma[thread] = static_cast<T>(sigmas.value[thread]);
    plan.scale[thread] = feature_scale<T>(thread, d);
  }
  if (thread <= d) {
    plan.factor[thread] = static_cast<uint64_t>(layout.stride[thread]);
    plan.step[thread] = static_cast<uint64_t>(layout.step(thread));
    plan.step[d + 1 + thread] = static_cast<uint64_t>(layout.wrap(thread));
  }
  if (thread > 0) return;
  plan.origin[0] = static_cast<uint64_t>(layout.origin);
  *plan.words = 1;
  *failure = kSound;
}

// Sets the cells of all tile rows. A block owns a tile.
static __global__ void __launch_bounds__(kTile)
    mark_cells(VertexArguments a, CellNumbering numbering) {
  const int64_t n = int64_t{a.vertices_per_point} * kTile;
  for (int64_t tile = blockIdx.x; tile < a.batch * a.tiles; tile += gridDim.x) {
    const int32_t first_row = a.tile_first[tile], rows = a.tile_first[tile + 1] - first_row;
    const auto first_cell = static_cast<uint32_t>(tile / a.tiles) * numbering.image_cells;
    for (int j = static_cast<int>(threadIdx.x); j < rows; j += kTile) {
      const uint32_t cell =
          first_cell + static_cast<uint32_t>(a.keys.at(a.first_incidence(tile, j), 0));
      a.entry_first[first_row + j] = a.tile_entry_first[tile * n + j];
      a.place[first_row + j] = cell;
      uint32_t* word = numbering.bits + cell / kWordCells;
      const uint32_t bit = uint32_t{1} << (cell % kWordCells);
      // Most have been set by another tile: a read costs less than an atomic.
      if ((load_relaxed(word) & bit) == 0) atomicOr(word, bit);
    }
  }
}

// Counts the set cells of every run, and those before each of its pairs of words. A block owns a
// run, the part of an image.
static __global__ void __launch_bounds__(kTile)
    count_cells(VertexArguments a, CellNumbering numbering) {
  auto& scan = shared_memory<BlockScan>();
  for (int64_t run = blockIdx.x; run < a.batch * a.parts; run += gridDim.x) {
    const int64_t pair = (run * kTile + threadIdx.x) * kThreadPairs;
    const uint32_t* bits = numbering.bits + 2 * pair;
    int before[kThreadPairs + 1] = {};
    UNROLL
    for (uint32_t p = 0; p < kThreadPairs; ++p) {
      before[p + 1] = before[p] + __popc(bits[2 * p]) + __popc(bits[2 * p + 1]);
    }
    const Scanned cells = scan_block(scan, before[kThreadPairs]);
    UNROLL
    for (uint32_t p = 0; p < kThreadPairs; ++p) {
      numbering.before[pair + p] = static_cast<uint16_t>(cells.before + before[p]);
    }
    if (threadIdx.x == 0) a.part_count[run] = cells.total;
  }
}

// Opens the vertices of all set cells. A block owns a run.
static __global__ void __launch_bounds__(kTile)
    open_cells(VertexArguments a, CellNumbering numbering) {
  if (*a.failure != kSound) return;
  for (int64_t run = blockIdx.x; run < a.batch * a.parts; run += gridDim.x) {
    if (a.part_first[run] == a.part_first[run + 1]) continue;
    const int64_t end = (run + 1) * kRunCells;
    for (int64_t at = run * kRunCells + threadIdx.x * kWordCells; at < end;
         at += kTile * kWordCells) {
      const auto first = static_cast<uint32_t>(at);
      uint32_t left = numbering.bits[first / kWordCells];
      for (int32_t vertex = left == 0 ? 0 : numbering.rank(first); left != 0; ++vertex) {
        numbering.vertex_cell[vertex] =
            first + static_cast<uint32_t>(__ffs(static_cast<int>(left)) - 1);
        a.open(vertex);
        left &= left - 1;
      }
    }
  }
}

}  // namespace densecrf::cuda
