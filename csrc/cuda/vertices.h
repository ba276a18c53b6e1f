// From the tile rows to the vertices of the batch: what does not depend on how vertices are found
// and numbered. That is a Numbering's matter: a hash table (key_numbering.h) or a bitmap
// (cell_numbering.h), with
//
//   int32_t vertex(int64_t image, uint32_t place)  the vertex of a tile row with that place
//   int32_t next(const VertexArguments&, int64_t vertex, int axis)  its next neighbour, or -1
#pragma once

#include "block.h"
#include "keys.h"
#include "lattice_view.h"
#include "tile_rows.h"

namespace densecrf::cuda {

struct VertexArguments {
  int64_t batch;
  int64_t tiles;  // of one image
  int vertices_per_point;
  int64_t max_vertices;  // of one image
  int64_t capacity;
  KeyArray keys;                     // of the incidences
  const uint16_t* entry;             // [B * tiles, V * 256]
  const uint16_t* tile_entry_first;  // [B * tiles, V * 256] first entry of each of a tile's rows
  const int32_t* tile_first;         // [B * tiles + 1]
  uint16_t* entry_first;             // [tile rows] out
  uint32_t* place;       // [tile rows] what tells the Numbering its vertex; then the vertex
  int64_t parts;         // of one image, by which its vertices are counted
  int32_t* part_count;   // [B * parts]
  int32_t* part_first;   // [B * parts + 1] sums of the above: the first vertex of each part
  int32_t* vertex_rows;  // [capacity] tile rows of each vertex
  int32_t* row;          // [B, tiles, V, 256] tile row within the tile; then the vertex
  int32_t* image_count;
  int32_t* image_first;
  int32_t* neighbour;
  int32_t* failure;
  // Counters of the steps to come.
  int32_t* chain_count;    // [V]
  int32_t* longest_chain;  // [V]
  int32_t* long_lists;     // [1]

  // The first incidence of row j of a tile.
  __device__ __forceinline__ int64_t first_incidence(int64_t tile, int j) const {
    const int64_t base = tile * vertices_per_point * kTile;
    return base + entry[base + tile_entry_first[base + j]];
  }

  // A vertex without tile rows or neighbours.
  __device__ __forceinline__ void open(int64_t vertex) const {
    vertex_rows[vertex] = 0;
    for (int axis = 0; axis < vertices_per_point; ++axis) {
      neighbour[2 * axis * capacity + vertex] = -1;
    }
  }
};

// Numbers the parts' vertices, counts those of each image and sees whether they fit; clears the
// counters. Runs as one block.
static __global__ void __launch_bounds__(kScanThreads) bound_images(VertexArguments a) {
  scan_in_block(a.part_count, a.batch * a.parts, a.part_first);
  for (int axis = static_cast<int>(threadIdx.x); axis < a.vertices_per_point;
       axis += kScanThreads) {
    a.chain_count[axis] = a.longest_chain[axis] = 0;
  }
  if (threadIdx.x == 0) *a.long_lists = 0;
  __syncthreads();
  for (int64_t b = threadIdx.x; b < a.batch; b += kScanThreads) {
    const int32_t count = a.part_first[(b + 1) * a.parts] - a.part_first[b * a.parts];
    a.image_count[b] = count;
    if (count > a.max_vertices) atomicMax(a.failure, static_cast<int32_t>(kTooManyVertices));
  }
  __syncthreads();
  const bool failed = load_relaxed(a.failure) != kSound;
  for (int64_t b = threadIdx.x; b <= a.batch; b += kScanThreads) {
    a.image_first[b] = failed ? 0 : a.part_first[b * a.parts];
  }
}

// Replaces tile rows by vertices, and counts the tile rows of each vertex. A block owns a tile.
template <typename Numbering>
__device__ __forceinline__ void link_points(const VertexArguments& a, const Numbering& numbering) {
  const int n = a.vertices_per_point * kTile;
  const bool failed = *a.failure != kSound;
  for (int64_t tile = blockIdx.x; tile < a.batch * a.tiles; tile += gridDim.x) {
    const int64_t base = tile * n, image = tile / a.tiles;
    const int32_t first_row = a.tile_first[tile], rows = a.tile_first[tile + 1] - first_row;
    for (int j = static_cast<int>(threadIdx.x); !failed && j < rows; j += kTile) {
      const int32_t vertex = numbering.vertex(image, a.place[first_row + j]);
      a.place[first_row + j] = static_cast<uint32_t>(vertex);
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
template <typename Numbering>
__device__ __forceinline__ void link_neighbours(const VertexArguments& a,
                                                const Numbering& numbering) {
  const int64_t vertices = a.image_first[a.batch];
  for (int64_t i = thread_of_grid(); i < vertices * a.vertices_per_point; i += threads_of_grid()) {
    const int64_t axis = i / vertices, vertex = i - axis * vertices;
    const int32_t next = numbering.next(a, vertex, static_cast<int>(axis));
    int32_t* along = a.neighbour + 2 * axis * a.capacity;  // [2, capacity]
    along[a.capacity + vertex] = next;
    if (next >= 0) along[next] = static_cast<int32_t>(vertex);
  }
}

// Neither of the two needs what the other writes.
template <typename Numbering>
__global__ void __launch_bounds__(kTile) link(VertexArguments a, Numbering numbering) {
  link_points(a, numbering);
  link_neighbours(a, numbering);
}

}  // namespace densecrf::cuda
