// Vertices found by a hash table of keys, whatever their range, and numbered in order of first
// touch by (tile, incidence).
#pragma once

#include "vertices.h"

namespace densecrf::cuda {

struct KeyNumbering {
  const int32_t* words;  // of a key
  const uint64_t* step;  // [V, step_stride] from a vertex to the next along each axis
  int step_stride;
  uint32_t* slot;        // [B, slots]: a table for each image, so that images never meet
  uint32_t slot_mask;    // slots of an image, less one
  KeyArray vertex_keys;  // [words, capacity]

  static constexpr uint32_t kHead = uint32_t{1} << 31;  // of a place: it is its vertex' first

  __device__ __forceinline__ SlotTable table(int64_t image) const {
    return {slot + image * (int64_t{slot_mask} + 1), slot_mask};
  }

  __device__ __forceinline__ int32_t vertex(int64_t image, uint32_t place) const {
    return static_cast<int32_t>(table(image).slot[place & ~kHead]);
  }

  __device__ __forceinline__ int32_t next(const VertexArguments& a, int64_t vertex,
                                          int axis) const {
    int64_t image = 0, beyond = a.batch;  // image_first[image] <= vertex < image_first[beyond]
    while (beyond - image > 1) {
      const int64_t middle = (image + beyond) / 2;
      (a.image_first[middle] <= vertex ? image : beyond) = middle;
    }
    const int count = *words;
    const uint64_t* to_next = step + axis * step_stride;
    const auto word = [&](int w) { return vertex_keys.at(vertex, w) + to_next[w]; };
    const uint32_t found = table(image).find(hash_words(count, word), [&](uint32_t other) {
      return same_words(count, vertex_keys, other, word);
    });
    return static_cast<int32_t>(found);  // kFree is -1
  }
};

// Offers the first incidence of every tile row to the table of its image. A block owns a tile.
static __global__ void __launch_bounds__(kTile)
    offer_tile_rows(VertexArguments a, KeyNumbering numbering) {
  const int64_t n = int64_t{a.vertices_per_point} * kTile;
  const int words = *numbering.words;
  for (int64_t tile = blockIdx.x; tile < a.batch * a.tiles; tile += gridDim.x) {
    const int32_t first_row = a.tile_first[tile], rows = a.tile_first[tile + 1] - first_row;
    const SlotTable table = numbering.table(tile / a.tiles);
    for (int j = static_cast<int>(threadIdx.x); j < rows; j += kTile) {
      const int64_t incidence = a.first_incidence(tile, j);
      const auto word = [&](int w) { return a.keys.at(incidence, w); };
      a.entry_first[first_row + j] = a.tile_entry_first[tile * n + j];
      a.place[first_row + j] =
          table.offer(hash_words(words, word), static_cast<uint32_t>(incidence),
                      [&](uint32_t other) { return same_words(words, a.keys, other, word); });
    }
  }
}

// Marks and counts the tile rows that own their slot: the first of their vertex. A block owns a
// tile, the part of an image.
static __global__ void __launch_bounds__(kTile)
    count_heads(VertexArguments a, KeyNumbering numbering) {
  auto& scan = shared_memory<BlockScan>();
  for (int64_t tile = blockIdx.x; tile < a.batch * a.tiles; tile += gridDim.x) {
    const int32_t first_row = a.tile_first[tile], rows = a.tile_first[tile + 1] - first_row;
    const SlotTable table = numbering.table(tile / a.tiles);
    int heads = 0;
    for (int j = static_cast<int>(threadIdx.x); j < rows; j += kTile) {
      const uint32_t place = a.place[first_row + j];
      if (table.slot[place] != static_cast<uint32_t>(a.first_incidence(tile, j))) continue;
      a.place[first_row + j] = place | KeyNumbering::kHead;
      ++heads;
    }
    const Scanned sum = scan_block(scan, heads);
    if (threadIdx.x == 0) a.part_count[tile] = sum.total;
  }
}

// Gives every head its number, writes it to the slot of its key, and opens the vertex. A block owns
// a tile.
static __global__ void __launch_bounds__(kTile, 4)
    number_heads(VertexArguments a, KeyNumbering numbering) {
  auto& scan = shared_memory<BlockScan>();
  if (*a.failure != kSound) return;
  const int words = *numbering.words;
  for (int64_t tile = blockIdx.x; tile < a.batch * a.tiles; tile += gridDim.x) {
    const int32_t first_row = a.tile_first[tile], rows = a.tile_first[tile + 1] - first_row;
    const SlotTable table = numbering.table(tile / a.tiles);
    int32_t next = a.part_first[tile];
    for (int from = 0; from < rows; from += kTile) {
      const int j = from + static_cast<int>(threadIdx.x);
      const uint32_t place = j < rows ? a.place[first_row + j] : 0;
      const bool head = (place & KeyNumbering::kHead) != 0;
      const Scanned heads = scan_block(scan, head ? 1 : 0);
      if (head) {
        const int32_t vertex = next + heads.before;
        const int64_t incidence = a.first_incidence(tile, j);
        table.slot[place & ~KeyNumbering::kHead] = static_cast<uint32_t>(vertex);
        for (int w = 0; w < words; ++w) {
          numbering.vertex_keys.at(vertex, w) = a.keys.at(incidence, w);
        }
        a.open(vertex);
      }
      next += heads.total;
    }
  }
}

}  // namespace densecrf::cuda
