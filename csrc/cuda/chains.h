// The chains that neighbours form along every axis, for the blur in place (blur.h).
#pragma once

#include "block.h"
#include "lattice_view.h"

namespace densecrf::cuda {

struct ChainArguments {
  int64_t batch;
  int vertices_per_point;
  int64_t capacity;
  const int32_t* image_first;
  const int32_t* neighbour;  // [V, 2, capacity]
  int32_t* chain_count;      // [V] bound_images has set it to 0, and the next
  int32_t* longest_chain;    // [V]
  int32_t* chain_head;       // [V, capacity / 2]
};

// Vertices of the chain that `next` leads on from `head`, or kLongestChain + 1 where there are
// more.
__device__ __forceinline__ int chain_length(const int32_t* next, int32_t head) {
  int length = 1;
  for (int32_t v = next[head]; v >= 0 && length <= kLongestChain; v = next[v]) ++length;
  return length;
}

// Lists the heads of each axis: vertices with a next one, but none before. Where in the list a head
// stands depends on which block comes first, and no result does. A thread takes a vertex at a time.
__device__ __forceinline__ void list_chains(const ChainArguments& a) {
  struct Shared {
    BlockScan scan;
    int32_t first;
  };
  auto& shared = shared_memory<Shared>();
  const int64_t vertices = a.image_first[a.batch], blocks = (vertices + kTile - 1) / kTile;
  for (int64_t i = blockIdx.x; i < blocks * a.vertices_per_point; i += gridDim.x) {
    const int64_t axis = i / blocks, vertex = (i - axis * blocks) * kTile + threadIdx.x;
    const int32_t* previous = a.neighbour + 2 * axis * a.capacity;
    const int32_t* next = previous + a.capacity;
    const bool head = vertex < vertices && previous[vertex] < 0 && next[vertex] >= 0;
    const Scanned heads = scan_block(shared.scan, head ? 1 : 0);
    if (threadIdx.x == 0) shared.first = atomicAdd(a.chain_count + axis, heads.total);
    __syncthreads();
    if (!head) continue;
    const auto first = static_cast<int32_t>(vertex);
    a.chain_head[axis * (a.capacity / 2) + shared.first + heads.before] = first;
    atomicMax(a.longest_chain + axis, static_cast<int32_t>(chain_length(next, first)));
  }
}

}  // namespace densecrf::cuda
