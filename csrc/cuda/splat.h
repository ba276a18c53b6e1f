// Splat: from the values of points to partial rows by tile, and from these to rows of vertices.
// There are no floating-point atomics: every sum has one owner and one order.
#pragma once

#include "pass_list.h"
#include "sums.h"

namespace densecrf::cuda {

template <typename T>
struct WeightedPoint {
  T weight;
  int place;  // within the tile
};

// The partial rows of one tile in a round, by a block of 256 threads. values [256, stride]: in
// shared or global memory.
template <typename T>
__device__ __forceinline__ void splat_tile(const PassLattice<T>& pass, int round, int64_t image,
                                           int64_t tile, const Chunk<T>* values, int64_t stride,
                                           int chunks) {
  const LatticeView<T>& lattice = pass.lattice;
  const int64_t at = pass.tile_of(image, tile);
  const int64_t incidences = at * lattice.vertices_per_point * kTile;
  const uint16_t* entry = lattice.entry + incidences;
  const T* weight = pass.weight + incidences;
  const LaneGroups mine = group_lanes(chunks);
  const int64_t first = pass.copy_of(image) * lattice.tile_row_capacity + lattice.tile_first[at];
  Chunk<T>* partial = as_chunks(pass.partial(round)) + first * chunks + mine.chunk;
  sum_runs<Chunk<T>>(
      runs_of_tile(lattice, at, tile), mine,
      [&](int e) {
        const int incidence = entry[e];
        return WeightedPoint<T>{weight[incidence], incidence % kTile};
      },
      [&](Chunk<T>& sum, const WeightedPoint<T>& point) {
        sum.add_scaled(point.weight, values[point.place * stride + mine.chunk]);
      },
      [&](int row, const Chunk<T>& sum) { partial[int64_t{row} * chunks] = sum; });
}

// source [images, tiles, 256, stride]: of its rows the chunks from `first` on are splatted. A block
// of 256 threads for every tile of every image.
template <typename T>
__global__ void __launch_bounds__(kTile, kResident)
    splat_tiles(const __grid_constant__ PassList<T> list, const T* source, int64_t stride,
                int64_t first) {
  if (list.is_over()) return;
  for (int64_t item = blockIdx.x; item < list.images * list.tiles.tiles; item += gridDim.x) {
    const auto [image, tile] = batch_tile(item, list.tiles);
    const Chunk<T>* values = as_chunks(source) + item * kTile * stride + first;
    for (int k = 0; k < list.count; ++k) {
      splat_tile(list.lattice[k], list.round, image, tile, values, stride, list.chunks);
    }
  }
}

// Lists of up to so many partial rows are added one after another by one group of lanes; for the
// others, which flat regions have, a block adds up.
constexpr int kShortSum = 32;

// rows[v] = the sum of the partial rows of vertex v in a round, in an order fixed by their number.
template <typename T, int kLanes>
__device__ __forceinline__ void gather_partial_rows(const PassLattice<T>& pass, int round,
                                                    int chunks, BlockPlace place,
                                                    LongListSums<Chunk<T>, kLanes>& shared) {
  const LatticeView<T>& lattice = pass.lattice;
  const Chunk<T>* source = as_chunks(pass.partial(round));
  Chunk<T>* target = as_chunks(pass.rows(round, 0));
  const int64_t vertices = pass.vertices(), items = vertices * pass.copies;
  const auto copy_of = [&](int64_t i) { return pass.copies == 1 ? 0 : i / vertices; };
  const auto length_of = [&](int64_t i) {
    const int32_t* first = lattice.vertex_first + (i - copy_of(i) * vertices);
    return first[1] - first[0];
  };
  const LongLists lists{place, items, kShortSum};
  const bool found = lists.finds(0, length_of);  // loads travel while short lists are added

  const RowShare mine = share_rows(chunks);
  const int64_t stride = place.count * mine.rows, none = mine.row < mine.rows ? 0 : items;
  for (int64_t i = none + place.number * mine.rows + mine.row; i < items; i += stride) {
    const int64_t copy = copy_of(i), v = i - copy * vertices;
    const int32_t begin = lattice.vertex_first[v], end = lattice.vertex_first[v + 1];
    if (end - begin > kShortSum) continue;
    const Chunk<T>* from = source + copy * lattice.tile_row_capacity * chunks + mine.chunk;
    Chunk<T> sum = Chunk<T>::zero();
#pragma unroll 4
    for (int32_t j = begin; j < end; ++j) {
      sum.add(from[static_cast<int64_t>(lattice.tile_row[j]) * chunks]);
    }
    target[(copy * lattice.capacity + v) * chunks + mine.chunk] = sum;
  }

  const LaneGroups lanes = group_lanes(chunks);
  lists.for_each(shared, found, length_of, [&](int64_t i, int turn) {
    const int64_t copy = copy_of(i), v = i - copy * vertices;
    const int32_t begin = lattice.vertex_first[v];
    const Chunk<T>* from = source + copy * lattice.tile_row_capacity * chunks + lanes.chunk;
    sum_long_list(
        shared, lanes, turn, lattice.vertex_first[v + 1] - begin,
        [&](int j) { return from[static_cast<int64_t>(lattice.tile_row[begin + j]) * chunks]; },
        [&](const Chunk<T>& sum) {
          target[(copy * lattice.capacity + v) * chunks + lanes.chunk] = sum;
        });
  });
}

template <typename T>
__global__ void __launch_bounds__(kTile, kResident + 1)
    add_partial_rows(const __grid_constant__ PassList<T> list,
                     const __grid_constant__ BlockShares shares) {
  if (list.is_over()) return;
  const int k = shares.lattice_of(blockIdx.x);
  gather_partial_rows(list.lattice[k], list.round, list.chunks, shares.place(k, blockIdx.x),
                      shared_memory<LongListSums<Chunk<T>, kMostChunks<T>>>());
}

}  // namespace densecrf::cuda
