// Sums of unequal lengths, shared evenly by groups of lanes. Which lane adds what follows from
// lengths and from the width of a row alone, and partial sums are added in one order: a sum has the
// same bits whichever block made it, when, and beside which others.
#pragma once

#include "lattice_view.h"
#include "rows.h"

namespace densecrf::cuda {

// A warp's lanes in groups, a lane for every chunk of a row.
struct LaneGroups {
  int lanes;   // of a group
  int groups;  // of the warp
  int group;   // of this lane; `groups`: of none
  int chunk;   // of this lane
};

__device__ __forceinline__ int lane_of_warp() { return static_cast<int>(threadIdx.x) % kWarp; }
__device__ __forceinline__ int warp_of_block() { return static_cast<int>(threadIdx.x) / kWarp; }
__device__ __forceinline__ int warps_of_block() { return static_cast<int>(blockDim.x) / kWarp; }

// `chunks`: of a row, at most 32.
__device__ __forceinline__ LaneGroups group_lanes(int chunks) {
  const int lane = lane_of_warp(), groups = kWarp / chunks, group = lane / chunks;
  return {chunks, groups, group < groups ? group : groups, lane % chunks};
}

// What the lane in the same place of a later group has; every lane of the warp takes part.
template <typename T>
__device__ __forceinline__ T from_group(T x, const LaneGroups& mine, int later) {
  return __shfl_sync(kFullWarp, x, (lane_of_warp() + later * mine.lanes) % kWarp);
}
template <typename T>
__device__ __forceinline__ Chunk<T> from_group(Chunk<T> x, const LaneGroups& mine, int later) {
  for (int i = 0; i < kChunk<T>; ++i) x.value[i] = from_group(x.value[i], mine, later);
  return x;
}

template <typename T>
__device__ __forceinline__ void add_to(T& sum, T x) {
  sum += x;
}
template <typename T>
__device__ __forceinline__ void add_to(Chunk<T>& sum, const Chunk<T>& x) {
  sum.add(x);
}

// The tile rows of a tile: consecutive runs of its entries.
struct EntryRuns {
  const uint16_t* first;  // [rows] of every row its first entry
  int rows;
  int entries;

  __device__ __forceinline__ int end_of(int row) const {
    return row + 1 < rows ? first[row + 1] : entries;
  }

  // The first row that does not begin before an entry; `rows`: there is none. A warp asks as one.
  __device__ __forceinline__ int from(int entry) const {
    int low = 0, high = rows;
    while (low < high) {
      const int step = (high - low + kWarp - 1) / kWarp, at = low + lane_of_warp() * step;
      const bool before = at < high && first[at] < entry;
      const int count = __popc(__ballot_sync(kFullWarp, before ? 1 : 0));
      if (count == 0) return low;
      const int beyond = low + count * step;
      low = beyond - step + 1;
      high = beyond < high ? beyond : high;
    }
    return low;
  }

  // The last of the rows low ... high - 1 that begins at or before an entry; row `low` does.
  __device__ __forceinline__ int holding(int entry, int low, int high) const {
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (first[middle] <= entry ? low : high) = middle;
    }
    return low;
  }
};

// Of tile number `at` of the batch, number `tile` of its image.
template <typename T>
__device__ __forceinline__ EntryRuns runs_of_tile(const LatticeView<T>& lattice, int64_t at,
                                                  int64_t tile) {
  const int32_t begin = lattice.tile_first[at];
  return {lattice.entry_first + begin, lattice.tile_first[at + 1] - begin,
          lattice.tiles.points_in(tile) * lattice.vertices_per_point};
}

// store(row, sum) for every row of a tile: the sum to which add(sum, load(entry)) adds each of its
// entries. Every warp has an equal share of the entries, prolonged to the next row, of which every
// group has an equal share, to the entry. A row that is cut is the sum of its parts in order, which
// consecutive groups of one warp have: shuffles join them, and nobody waits for another warp.
template <typename Sum, typename Load, typename Add, typename Store>
__device__ __forceinline__ void sum_runs(const EntryRuns& runs, const LaneGroups& mine,
                                         const Load& load, const Add& add, const Store& store) {
  using Item = decltype(load(0));
  constexpr int kAtOnce = sizeof(Item) <= 8 ? 4 : 2;  // loads under way together
  const int warp = warp_of_block(), warps = warps_of_block();
  const int low = runs.from(runs.entries * warp / warps);
  const int high = warp + 1 == warps ? runs.rows : runs.from(runs.entries * (warp + 1) / warps);
  if (low == high) return;
  const int first = runs.first[low], last = runs.end_of(high - 1);
  const int share = (last - first + mine.groups - 1) / mine.groups;
  const int begin = first + mine.group * share;
  const int end = begin + share < last ? begin + share : last;
  Sum head{}, sum{};       // of a row that began in an earlier share; of the row at hand
  bool inherits = true;    // the row at hand is such a one, or there is none
  int row = 0, parts = 0;  // the row at hand, and how many later shares have parts of it
  if (begin < end) {
    row = runs.holding(begin, low, high);
    inherits = runs.first[row] < begin;
    int row_end = runs.end_of(row), next_end = row + 1 < high ? runs.end_of(row + 1) : last;
    for (int e = begin; e < end; e += kAtOnce) {
      Item item[kAtOnce];
      UNROLL
      for (int i = 0; i < kAtOnce; ++i) item[i] = load(e + i < end ? e + i : end - 1);
      UNROLL
      for (int i = 0; i < kAtOnce; ++i) {
        if (e + i >= end) break;
        if (e + i == row_end) {
          if (inherits) {
            head = sum;
          } else {
            store(row, sum);
          }
          inherits = false;
          sum = Sum{};
          ++row;
          row_end = next_end;
          next_end = row + 1 < high ? runs.end_of(row + 1) : last;
        }
        add(sum, item[i]);
      }
    }
    if (inherits) {
      head = sum;
    } else {
      parts = (row_end - end + share - 1) / share;
    }
  }
  for (int i = 1; __any_sync(kFullWarp, parts >= i ? 1 : 0) != 0; ++i) {
    const Sum part = from_group(head, mine, i);
    if (i <= parts) add_to(sum, part);
  }
  if (!inherits) store(row, sum);
}

// What the threads of a block share while they sum long lists.
template <typename Sum, int kLanes>
struct LongListSums {
  unsigned long_lists[kTile / kWarp];  // a bit for every thread
  Sum part[2][kTile / kWarp][kLanes];  // of every warp, for one list and the next
};

// store(sum) of load(0) + ... + load(length - 1), by the whole block. Its groups take every so
// manieth; first the groups of a warp add up, then the warps. `turn`: the number of this call among
// those that nothing parts but their own barriers.
template <typename Sum, int kLanes, typename Load, typename Store>
__device__ __forceinline__ void sum_long_list(LongListSums<Sum, kLanes>& shared,
                                              const LaneGroups& mine, int turn, int length,
                                              const Load& load, const Store& store) {
  const int warp = warp_of_block(), warps = warps_of_block();
  Sum sum{};
  if (mine.group < mine.groups) {
    for (int j = warp * mine.groups + mine.group; j < length; j += warps * mine.groups) {
      add_to(sum, load(j));
    }
  }
  for (int half = kWarp / 2; half > 0; half /= 2) {
    if (half >= mine.groups) continue;
    const Sum other = from_group(sum, mine, half);
    if (mine.group + half < mine.groups) add_to(sum, other);
  }
  Sum(&part)[kTile / kWarp][kLanes] = shared.part[turn % 2];
  if (mine.group == 0) part[warp][mine.chunk] = sum;
  __syncthreads();
  if (warp > 0 || mine.group > 0) return;
  for (int w = 1; w < warps; ++w) add_to(sum, part[w][mine.chunk]);
  store(sum);
}

// Which of some lists are long, for the blocks that sum them: a block looks at every so manieth, so
// that long ones side by side become the work of several blocks.
struct LongLists {
  BlockPlace block;
  int64_t lists;
  int longest;  // of the lists that are not long

  __device__ __forceinline__ int64_t list_of(int64_t round, int thread) const {
    return block.number + (round * kTile + thread) * block.count;
  }
  // Whether the list that this thread looks at in a round is long.
  template <typename Length>
  __device__ __forceinline__ bool finds(int64_t round, const Length& length) const {
    const int64_t list = list_of(round, static_cast<int>(threadIdx.x));
    return list < lists && length(list) > longest;
  }

  // work(list, turn) for the long ones, by the whole block; `found`: what round 0 finds.
  template <typename Sum, int kLanes, typename Length, typename Work>
  __device__ __forceinline__ void for_each(LongListSums<Sum, kLanes>& shared, bool found,
                                           const Length& length, const Work& work) const {
    int turn = 0;
    for (int64_t round = 0; list_of(round, 0) < lists; ++round) {
      if (round > 0) {
        found = finds(round, length);
        __syncthreads();  // the last round's have been read
      }
      const unsigned of_warp = __ballot_sync(kFullWarp, found ? 1 : 0);
      if (lane_of_warp() == 0) shared.long_lists[warp_of_block()] = of_warp;
      __syncthreads();
      for (int warp = 0; warp < warps_of_block(); ++warp) {
        for (unsigned left = shared.long_lists[warp]; left != 0; left &= left - 1) {
          const int lane = __ffs(static_cast<int>(left)) - 1;
          work(list_of(round, warp * kWarp + lane), turn++);
        }
      }
    }
  }
};

}  // namespace densecrf::cuda
