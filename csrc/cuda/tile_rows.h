// Finds the distinct vertices of every tile and sorts the tile's incidences by them.
#pragma once

#include "block.h"
#include "features.h"
#include "keys.h"
#include "tile_map.h"

namespace densecrf::cuda {

// Up to so many vertices a point, a tile is sorted in shared memory, else in global scratch.
constexpr int kSharedVertices = 8;

HOST_DEVICE int tile_slots(int vertices_per_point) {
  int slots = 2 * kTile;
  while (slots < 2 * kTile * vertices_per_point) slots *= 2;
  return slots;
}

struct TileRowArguments {
  int64_t tiles;  // of the batch
  int vertices_per_point;
  KeyArray keys;         // of the incidences
  const int32_t* words;  // of a key
  int32_t* row;          // [tiles, V, 256] out: tile row, counted within the tile; -1 without point
  uint16_t* entry;       // [tiles, V * 256] out
  uint16_t* first;       // [tiles, V * 256] out: first entry of each of the tile's rows
  int32_t* count;        // [tiles] out: rows of the tile
  uint32_t* scratch;     // [blocks, tile_slots + V * 256], or null where shared memory will do
};

struct TileRowsShared {
  BlockScan scan;
  uint32_t slot[2 * kTile * kSharedVertices];
  uint32_t entry[kTile * kSharedVertices];
};

// Numbers the distinct keys of a tile in order of first incidence. order[i] becomes
// row << 16 | i, and all ones where lane has no point. Returns the number of rows.
__device__ __forceinline__ int number_rows(const TileRowArguments& a, int64_t tile,
                                           const SlotTable& table, uint32_t* order,
                                           BlockScan& scan) {
  const int n = a.vertices_per_point * kTile, lane = static_cast<int>(threadIdx.x);
  const int64_t base = tile * n;
  const int words = *a.words;
  for (uint32_t i = threadIdx.x; i <= table.mask; i += kTile) table.slot[i] = kFree;
  __syncthreads();
  for (int i = lane; i < n; i += kTile) {
    if (a.keys.at(base + i, 0) == kNoKey) {
      order[i] = kFree;
      continue;
    }
    const auto word = [&](int w) { return a.keys.at(base + i, w); };
    order[i] = table.offer(hash_words(words, word), static_cast<uint32_t>(i), [&](uint32_t other) {
      return same_words(words, a.keys, base + other, word);
    });
  }
  __syncthreads();
  int rows = 0;
  for (int i = lane; i < n; i += kTile) {
    const bool first =
        order[i] != kFree && load_relaxed(table.slot + order[i]) == static_cast<uint32_t>(i);
    const Scanned heads = scan_block(scan, first ? 1 : 0);
    if (first) a.row[base + i] = rows + heads.before;
    rows += heads.total;
  }
  __syncthreads();
  for (int i = lane; i < n; i += kTile) {
    if (order[i] == kFree) {
      a.row[base + i] = -1;
      continue;
    }
    const uint32_t first = load_relaxed(table.slot + order[i]);
    const int32_t row = a.row[base + first];
    if (first != static_cast<uint32_t>(i)) a.row[base + i] = row;
    order[i] = static_cast<uint32_t>(row) << 16 | static_cast<uint32_t>(i);
  }
  __syncthreads();
  return rows;
}

// A block owns a tile.
template <bool kInShared>
__global__ void __launch_bounds__(kTile, 2) find_tile_rows(TileRowArguments a) {
  const int n = a.vertices_per_point * kTile;
  const int slots = tile_slots(a.vertices_per_point);
  uint32_t *slot = nullptr, *order = nullptr;
  BlockScan* scan = nullptr;
  if constexpr (kInShared) {
    auto& shared = shared_memory<TileRowsShared>();
    slot = shared.slot;
    order = shared.entry;
    scan = &shared.scan;
  } else {
    scan = &shared_memory<BlockScan>();
    slot = a.scratch + int64_t{blockIdx.x} * (slots + n);
    order = slot + slots;
  }
  const SlotTable table{slot, static_cast<uint32_t>(slots - 1)};
  for (int64_t tile = blockIdx.x; tile < a.tiles; tile += gridDim.x) {
    const int rows = number_rows(a, tile, table, order, *scan);
    sort_block(order, n);
    const int64_t base = tile * n;
    for (int i = static_cast<int>(threadIdx.x); i < n && order[i] != kFree; i += kTile) {
      a.entry[base + i] = static_cast<uint16_t>(order[i] & 0xffff);
      const uint32_t row = order[i] >> 16;
      if (i == 0 || order[i - 1] >> 16 != row) a.first[base + row] = static_cast<uint16_t>(i);
    }
    if (threadIdx.x == 0) a.count[tile] = rows;
    __syncthreads();
  }
}

constexpr int kScanThreads = 512;
constexpr int kScanItems = 8;

// first[i] = count[0] + ... + count[i - 1] for 0 <= i <= n. Of one block of kScanThreads.
__device__ __forceinline__ void scan_in_block(const int32_t* count, int64_t n, int32_t* first) {
  auto& scan = shared_memory<BlockScan>();
  int before = 0;
  for (int64_t base = 0; base < n; base += kScanThreads * kScanItems) {
    const int64_t mine = base + int64_t{threadIdx.x} * kScanItems;
    int value[kScanItems];
    int sum = 0;
    UNROLL
    for (int k = 0; k < kScanItems; ++k) {
      value[k] = mine + k < n ? count[mine + k] : 0;
      sum += value[k];
    }
    const Scanned scanned = scan_block(scan, sum);
    int at = before + scanned.before;
    UNROLL
    for (int k = 0; k < kScanItems; ++k) {
      if (mine + k < n) first[mine + k] = at;
      at += value[k];
    }
    before += scanned.total;
  }
  if (threadIdx.x == 0) first[n] = before;
}

static __global__ void __launch_bounds__(kScanThreads)
    scan_counts(const int32_t* count, int64_t n, int32_t* first) {
  scan_in_block(count, n, first);
}

}  // namespace densecrf::cuda
