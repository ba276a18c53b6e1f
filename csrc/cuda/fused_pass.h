// The fast way through a mean-field iteration: one block takes a tile of points from the blurred
// rows of all lattices to the partial rows of the next splat. Logits stay in registers, Q in shared
// memory.
#pragma once

#include "slice.h"
#include "softmax.h"
#include "splat.h"

namespace densecrf::cuda {

// kFirst: there are no messages yet. kLast: the result is handed out instead of splatted.
enum class Stage : int { kFirst, kMiddle, kLast };

// How rows of so many chunks are shared: a point has kLanes threads, which take every kLanes-th
// chunk, up to kChunks each. Where that is more than there are, the last ones have one less.
template <int kWidth>
struct RowSplit {
  static constexpr int kLanes = kWidth == 1 ? 1 : kWidth <= 6 ? 2 : 4;
  static constexpr int kChunks = (kWidth + kLanes - 1) / kLanes;

  // The chunks of the thread whose first one is `first`.
  static __device__ __forceinline__ int chunks_from(int first) {
    if constexpr (kLanes * kChunks == kWidth) return kChunks;
    return first < kWidth - kLanes * (kChunks - 1) ? kChunks : kChunks - 1;
  }
};

template <typename T>
struct FusedArguments {
  const T* unary;  // [images, tiles, 256, kWidth chunks]
  int64_t classes;
  const T* per_class[kListed];  // [classes], or null: 1
  Output output;
  void* result;
};

// x <- x + sum_k message_k, blurred in a round, of the point in `place` of a tile; of its row this
// thread has the chunks from `first` on.
template <int kWidth, typename T>
__device__ __forceinline__ void add_messages(const PassList<T>& list, int round,
                                             const FusedArguments<T>& a, int64_t image,
                                             int64_t tile, int place, int first, Chunk<T>* x) {
  constexpr int kLanes = RowSplit<kWidth>::kLanes, kChunks = RowSplit<kWidth>::kChunks;
  const int mine = RowSplit<kWidth>::chunks_from(first);
  for (int k = 0; k < list.count; ++k) {
    const PassLattice<T>& pass = list.lattice[k];
    const int64_t at = pass.tile_of(image, tile);
    const T scale = pass.scale[at * kTile + place];
    Chunk<T> sum[kChunks];
    for (int i = 0; i < kChunks; ++i) sum[i] = Chunk<T>::zero();
    slice_point<kChunks>(pass, round, at, pass.copy_of(image), place, kWidth, first, kLanes, mine,
                         sum);
    for (int i = 0; i < kChunks; ++i) {
      if (a.per_class[k] != nullptr) {
        for (int j = 0; j < kChunk<T>; ++j) {
          const int64_t label = int64_t{first + i * kLanes} * kChunk<T> + j;
          if (label < a.classes) sum[i].value[j] *= a.per_class[k][label];
        }
      }
      x[i].add_scaled(scale, sum[i]);
    }
  }
}

// x <- softmax(x ln 2) or its logarithm, over the chunks of kLanes lanes.
template <int kLanes, int kChunks, typename T>
__device__ __forceinline__ void softmax_of_lanes(Chunk<T>* x, bool logarithm) {
  T highest = kPadding<T>;
  for (int i = 0; i < kChunks; ++i) {
    for (int j = 0; j < kChunk<T>; ++j) highest = larger(highest, x[i].value[j]);
  }
  highest = maximum_of_lanes(highest, kLanes);
  T sum = T(0);
  Chunk<T> power[kChunks];
  for (int i = 0; i < kChunks; ++i) {
    for (int j = 0; j < kChunk<T>; ++j) {
      power[i].value[j] = power_of_two(x[i].value[j] - highest);
      sum += power[i].value[j];
    }
  }
  sum = sum_of_lanes(sum, kLanes);
  const T inverse = T(1) / sum, log_sum = logarithm ? log_of(sum) : T(0);
  for (int i = 0; i < kChunks; ++i) {
    for (int j = 0; j < kChunk<T>; ++j) {
      x[i].value[j] =
          logarithm ? (x[i].value[j] - highest) * kLn2<T> - log_sum : power[i].value[j] * inverse;
    }
  }
}

template <typename T, int kWidth>
union FusedShared {
  Chunk<T> values[kTile * kWidth];
  LongListSums<Chunk<T>, kWidth> sums;  // for a kernel that adds up partial rows besides
};

// Slices what was blurred in a round, where there is something, and splats into the next. Rows have
// kWidth chunks.
template <int kWidth, typename T>
__device__ __forceinline__ void fuse_tiles(const PassList<T>& list, const FusedArguments<T>& a,
                                           Stage stage, int round, BlockPlace block) {
  constexpr int kLanes = RowSplit<kWidth>::kLanes, kChunks = RowSplit<kWidth>::kChunks;
  auto& shared = shared_memory<FusedShared<T, kWidth>>();
  const bool last = stage == Stage::kLast;
  const bool labels = a.output == Output::kLabels, failed = last && has_failed(list);
  const int first = static_cast<int>(threadIdx.x) % kLanes;
  const int mine = RowSplit<kWidth>::chunks_from(first);
  for (int64_t item = block.number; item < list.images * list.tiles.tiles; item += block.count) {
    const auto [image, tile] = batch_tile(item, list.tiles);
    const Chunk<T>* unary = as_chunks(a.unary) + item * kTile * kWidth;
    for (int place = static_cast<int>(threadIdx.x) / kLanes; place < kTile;
         place += kTile / kLanes) {
      Chunk<T> x[kChunks];
      for (int i = 0; i < kChunks; ++i) {
        x[i] = i < mine ? unary[place * kWidth + first + i * kLanes] : Chunk<T>::all(kPadding<T>);
      }
      if (stage != Stage::kFirst) {
        add_messages<kWidth>(list, round, a, image, tile, place, first, x);
      }
      if (!last || !labels) {
        softmax_of_lanes<kLanes, kChunks>(x, last && a.output == Output::kLogits);
      }
      for (int i = 0; i < kChunks; ++i) {
        if (i < mine) shared.values[place * kWidth + first + i * kLanes] = x[i];
      }
    }
    __syncthreads();
    if (last) {
      emit_tile(shared.values[0].value, kWidth * kChunk<T>, image, tile, list.tiles, a.classes,
                labels, failed, a.result);
    } else {
      for (int k = 0; k < list.count; ++k) {
        splat_tile(list.lattice[k], 1 - round, image, tile, shared.values, kWidth, kWidth);
      }
    }
    __syncthreads();  // the next tile's values go where these are
  }
}

template <typename T, int kWidth, Stage kStage>
__global__ void __launch_bounds__(kTile, kResident)
    fused_pass(const __grid_constant__ PassList<T> list,
               const __grid_constant__ FusedArguments<T> a) {
  fuse_tiles<kWidth>(list, a, kStage, list.round, place_in_grid());
}

template <typename T, int kWidth>
void launch_fused(const Context& context, Stage stage, const PassList<T>& list,
                  const FusedArguments<T>& a) {
  const auto kernel = stage == Stage::kFirst    ? fused_pass<T, kWidth, Stage::kFirst>
                      : stage == Stage::kMiddle ? fused_pass<T, kWidth, Stage::kMiddle>
                                                : fused_pass<T, kWidth, Stage::kLast>;
  launch(context.stream, kernel, tile_blocks(list.images * list.tiles.tiles, kTile), kTile, list,
         a);
}

// The width in chunks of rows that fused_pass can take `chunks` chunks in; 0: none. Seven, of 25 to
// 28 labels, are not worth kernels of their own, nor any odd number in double precision.
template <typename T>
constexpr int fused_width(int64_t chunks) {
  if (chunks > 8) return 0;
  const bool rounded = chunks == 7 || (sizeof(T) == 8 && chunks > 1);
  return static_cast<int>(rounded ? (chunks + 1) / 2 * 2 : chunks);
}

// Calls `use` for rows of `width` chunks, one that fused_width gave:
// use.template operator()<kWidth>().
template <typename T, typename Use>
auto with_fused_width(int width, const Use& use) {
  if constexpr (sizeof(T) == 4) {
    if (width == 3) return use.template operator()<3>();
    if (width == 5) return use.template operator()<5>();
  }
  switch (width) {
    case 1:
      return use.template operator()<1>();
    case 2:
      return use.template operator()<2>();
    case 4:
      return use.template operator()<4>();
    case 6:
      return use.template operator()<6>();
    default:
      return use.template operator()<8>();
  }
}

// The fused pass over rows of list.chunks chunks.
template <typename T>
void run_fused(const Context& context, Stage stage, const PassList<T>& list,
               const FusedArguments<T>& a) {
  with_fused_width<T>(list.chunks,
                      [&]<int kWidth>() { launch_fused<T, kWidth>(context, stage, list, a); });
}

}  // namespace densecrf::cuda
