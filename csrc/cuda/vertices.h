// From the tile rows to the vertices of the batch: numbers equal keys alike and joins neighbours.
#pragma once

#include "block.h"
#include "keys.h"
#include "lattice_view.h"

namespace densecrf::cuda {

struct VertexArguments {
  int64_t batch;
  int64_t tiles;  // of one image
  int vertices_per_point;
  int64_t max_vertices;  // of one image
  int64_t capacity;
  KeyArray keys;         // of the incidences
  const int32_t* words;  // of a key
  const uint64_t* step;  // [V, step_stride] from a vertex to the next along each axis
  int step_stride;
  uint32_t* slot;         // [B, slots]: a table for each image, so that images never meet
  uint32_t slot_mask;     // slots of an image, less one
  const uint16_t* entry;  // [B * tiles, V * 256]
  const uint16_t* tile_entry_first;  // [B * tiles, V * 256] first entry of each of a tile's rows
  const int32_t* tile_first;         // [B * tiles + 1]
  uint16_t* entry_first;             // [tile rows] out
  uint32_t* place;  // [tile rows] slot of its key, and whether it heads its vertex; then the vertex
  int32_t* heads;   // [B * tiles] tile rows that are a vertex's first
  int32_t* head_first;   // [B * tiles + 1] sums of the above: the first vertex each tile heads
  KeyArray vertex_keys;  // of the vertices
  int32_t* vertex_rows;  // [capacity] tile rows of each vertex
  int32_t* row;          // [B, tiles, V, 256] tile row within the tile; then the vertex
  int32_t* image_count;
  int32_t* image_first;
  int32_t* neighbour;
  int32_t* failure;

  __device__ __forceinline__ SlotTable table(int64_t image) const {
    return {slot + image * (int64_t{slot_mask} + 1), slot_mask};
  }
};

constexpr uint32_t kHead = uint32_t{1} << 31;

// Offers the first incidence of every tile row to the table of its image. A block owns a tile.
static __global__ void __launch_bounds__(kTile) offer_tile_rows(VertexArguments a) {
  const int n = a.vertices_per_point * kTile;
  const int words = *a.words;
  for (int64_t tile = blockIdx.x; tile < a.batch * a.tiles; tile += gridDim.x) {
    const int64_t base = tile * n;
    const int32_t first_row = a.tile_first[tile], rows = a.tile_first[tile + 1] - first_row;
    const SlotTable table = a.table(tile / a.tiles);
    for (int j = static_cast<int>(threadIdx.x); j < rows; j += kTile) {
      const uint16_t first = a.tile_entry_first[base + j];
      const int64_t incidence = base + a.entry[base + first];
      const auto word = [&](int w) { return a.keys.at(incidence, w); };
      a.entry_first[first_row + j] = first;
      a.place[first_row + j] =
          table.offer(hash_words(words, word), static_cast<uint32_t>(incidence),
                      [&](uint32_t other) { return same_words(words, a.keys, other, word); });
    }
  }
}

// Marks and counts the tile rows that own their slot: the first of their vertex. A block owns a
// tile.
static __global__ void __launch_bounds__(kTile) count_heads(VertexArguments a) {
  auto& scan = shared_memory<BlockScan>();
  const int n = a.vertices_per_point * kTile;
  for (int64_t tile = blockIdx.x; tile < a.batch * a.tiles; tile += gridDim.x) {
    const int64_t base = tile * n;
    const int32_t first_row = a.tile_first[tile], rows = a.tile_first[tile + 1] - first_row;
    const SlotTable table = a.table(tile / a.tiles);
    int heads = 0;
    for (int j = static_cast<int>(threadIdx.x); j < rows; j += kTile) {
      const uint32_t place = a.place[first_row + j];
      const int64_t incidence = base + a.entry[base + a.tile_entry_first[base + j]];
      if (table.slot[place] != static_cast<uint32_t>(incidence)) continue;
      a.place[first_row + j] = place | kHead;
      ++heads;
    }
    const Scanned sum = scan_block(scan, heads);
    if (threadIdx.x == 0) a.heads[tile] = sum.total;
  }
}

// Counts the vertices of each image and sees whether they fit. Runs as one block.
static __global__ void __launch_bounds__(kTile) bound_images(VertexArguments a) {
  for (int64_t b = threadIdx.x; b < a.batch; b += kTile) {
    const int32_t count = a.head_first[(b + 1) * a.tiles] - a.head_first[b * a.tiles];
    a.image_count[b] = count;
    if (count > a.max_vertices) atomicMax(a.failure, static_cast<int32_t>(kTooManyVertices));
  }
  __syncthreads();
  const bool failed = load_relaxed(a.failure) != kSound;
  for (int64_t b = threadIdx.x; b <= a.batch; b += kTile) {
    a.image_first[b] = failed ? 0 : a.head_first[b * a.tiles];
  }
}

// See count_vertices. Runs as one block.
static __global__ void __launch_bounds__(kTile)
    write_sizes(int64_t batch, const int32_t* image_count, const int32_t* failure, int64_t* sizes) {
  for (int64_t b = threadIdx.x; b < batch; b += kTile) {
    const int64_t count = image_count[b];
    sizes[b] = *failure == kSound ? count : *failure == kOutOfRange ? -1 : -1 - count;
  }
}

// Gives every head its number, writes it to the slot of its key, and opens the vertex. A block owns
// a tile.
static __global__ void __launch_bounds__(kTile, 4) number_vertices(VertexArguments a) {
  auto& scan = shared_memory<BlockScan>();
  if (*a.failure != kSound) return;
  const int n = a.vertices_per_point * kTile;
  const int words = *a.words;
  for (int64_t tile = blockIdx.x; tile < a.batch * a.tiles; tile += gridDim.x) {
    const int64_t base = tile * n;
    const int32_t first_row = a.tile_first[tile], rows = a.tile_first[tile + 1] - first_row;
    const SlotTable table = a.table(tile / a.tiles);
    int32_t next = a.head_first[tile];
    for (int from = 0; from < rows; from += kTile) {
      const int j = from + static_cast<int>(threadIdx.x);
      const uint32_t place = j < rows ? a.place[first_row + j] : 0;
      const bool head = (place & kHead) != 0;
      const Scanned heads = scan_block(scan, head ? 1 : 0);
      if (head) {
        const int32_t vertex = next + heads.before;
        const int64_t incidence = base + a.entry[base + a.tile_entry_first[base + j]];
        table.slot[place & ~kHead] = static_cast<uint32_t>(vertex);
        for (int w = 0; w < words; ++w) a.vertex_keys.at(vertex, w) = a.keys.at(incidence, w);
        a.vertex_rows[vertex] = 0;
        for (int axis = 0; axis < a.vertices_per_point; ++axis) {
          a.neighbour[2 * axis * a.capacity + vertex] = -1;
        }
      }
      next += heads.total;
    }
  }
}

// Replaces tile rows by vertices, and counts the tile rows of each vertex. A block owns a tile.
static __global__ void __launch_bounds__(kTile) link_points(VertexArguments a) {
  const int n = a.vertices_per_point * kTile;
  const bool failed = *a.failure != kSound;
  for (int64_t tile = blockIdx.x; tile < a.batch * a.tiles; tile += gridDim.x) {
    const int64_t base = tile * n;
    const int32_t first_row = a.tile_first[tile], rows = a.tile_first[tile + 1] - first_row;
    const SlotTable table = a.table(tile / a.tiles);
    for (int j = static_cast<int>(threadIdx.x); !failed && j < rows; j += kTile) {
      const uint32_t vertex = table.slot[a.place[first_row + j] & ~kHead];
      a.place[first_row + j] = vertex;
      atomicAdd(a.vertex_rows + vertex, 1);
    }
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < n; i += kTile) {
      const int32_t local = a.row[base + i];
      a.row[base + i] = failed || local < 0 ? 0 : static_cast<int32_t>(a.place[first_row + local]);
    }
    __syncthreads();
  }
}

// Joins each vertex with the next along every axis. A thread takes one of them at a time.
static __global__ void __launch_bounds__(kTile) link_neighbours(VertexArguments a) {
  const int64_t vertices = a.image_first[a.batch];
  const int words = *a.words;
  for (int64_t i = thread_of_grid(); i < vertices * a.vertices_per_point; i += threads_of_grid()) {
    const int64_t axis = i / vertices, vertex = i - axis * vertices;
    int64_t image = 0, beyond = a.batch;  // image_first[image] <= vertex < image_first[beyond]
    while (beyond - image > 1) {
      const int64_t middle = (image + beyond) / 2;
      (a.image_first[middle] <= vertex ? image : beyond) = middle;
    }
    const uint64_t* step = a.step + axis * a.step_stride;
    const auto word = [&](int w) { return a.vertex_keys.at(vertex, w) + step[w]; };
    const uint32_t next = a.table(image).find(hash_words(words, word), [&](uint32_t other) {
      return same_words(words, a.vertex_keys, other, word);
    });
    int32_t* along = a.neighbour + 2 * axis * a.capacity;     // [2, capacity]
    along[a.capacity + vertex] = static_cast<int32_t>(next);  // kFree is -1
    if (next != kFree) along[next] = static_cast<int32_t>(vertex);
  }
}

}  // namespace densecrf::cuda
