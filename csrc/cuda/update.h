// The general way through a mean-field iteration, for any number of labels, any compatibility,
// damping and tolerance: messages go to memory, then logits, then Q, one kernel after another.
#pragma once

#include "slice.h"
#include "softmax.h"

namespace densecrf::cuda {

// What becomes of the messages of a list's lattices.
template <typename T>
struct MessageTargets {
  const T* from;   // [images, tiles, 256, stride] what the messages are added to
  T* logits;       // [images, tiles, 256, stride] the sums; may be `from`
  int64_t stride;  // in chunks
  int64_t first;   // the chunk of a row that the lattices' first chunk is
  int64_t classes;
  const T* factor[kListed];  // what a message is multiplied by, or null: 1
  int factor_step[kListed];  // 0: one for all labels, 1: [classes]
  T* message[kListed];       // [images, tiles, 256, stride]: not added but put here; or null
};

template <typename T>
__global__ void __launch_bounds__(kTile, kResident)
    slice_messages(const __grid_constant__ PassList<T> list,
                   const __grid_constant__ MessageTargets<T> targets) {
  if (list.is_over()) return;
  const RowShare mine = share_rows(list.chunks);
  if (mine.row >= mine.rows) return;
  for (int64_t item = blockIdx.x; item < list.images * list.tiles.tiles; item += gridDim.x) {
    const auto [image, tile] = batch_tile(item, list.tiles);
    for (int lane = mine.row; lane < kTile; lane += mine.rows) {
      for (int c = mine.chunk; c < list.chunks; c += mine.lanes) {
        const int64_t place = (item * kTile + lane) * targets.stride + targets.first + c;
        Chunk<T> x = as_chunks(targets.from)[place];
        for (int k = 0; k < list.count; ++k) {
          const PassLattice<T>& pass = list.lattice[k];
          const int64_t at = pass.tile_of(image, tile);
          const T scale = pass.scale[at * kTile + lane];
          Chunk<T> sum = Chunk<T>::zero();
          slice_point<1>(pass, list.round, at, pass.copy_of(image), lane, list.chunks, c, 1, 1,
                         &sum);
          for (int i = 0; i < kChunk<T>; ++i) {
            const int64_t label = (targets.first + c) * kChunk<T> + i;
            sum.value[i] *= scale;
            if (targets.factor[k] != nullptr && label < targets.classes) {
              sum.value[i] *= targets.factor[k][label * targets.factor_step[k]];
            }
          }
          if (targets.message[k] != nullptr) {
            as_chunks(targets.message[k])[place] = sum;
          } else {
            x.add(sum);
          }
        }
        as_chunks(targets.logits)[place] = x;
      }
    }
  }
}

// transposed[o, c] = matrix[c, o]
template <typename T>
__global__ void __launch_bounds__(kTile, kResident)
    transpose_matrix(const T* matrix, T* transposed, int64_t classes) {
  for (int64_t i = thread_of_grid(); i < classes * classes; i += threads_of_grid()) {
    transposed[i % classes * classes + i / classes] = matrix[i];
  }
}

// logits <- logits - sum_o penalty[c, o] message[o] for every point; penalties are transposed.
template <typename T>
__global__ void __launch_bounds__(kTile, kResident)
    add_penalties(const T* penalty, const T* message, T* logits, int64_t points, int64_t classes,
                  int64_t stride, const int32_t* running) {
  if (running != nullptr && *running == 0) return;
  const int64_t count = points * classes;
  for (int64_t i = thread_of_grid(); i < count; i += threads_of_grid()) {
    const int64_t point = i / classes, c = i - point * classes;
    const T* from = message + point * stride;
    T sum = T(0);
    for (int64_t o = 0; o < classes; ++o) sum += penalty[o * classes + c] * from[o];
    logits[point * stride + c] -= sum;
  }
}

// Which images still change. Bits of a non-negative number are in the order of the numbers, so the
// largest change is found by integer atomics, in whatever order.
struct Convergence {
  unsigned long long* change;  // [images] bits of the largest |Q - previous Q|
  int32_t* stopped;            // [images]
  int32_t* running;            // [1] images that have not stopped
};

template <typename T>
struct UpdateArguments {
  const T* logits;  // [images, tiles, 256, stride]
  const T* old_q;   // likewise; Q until now, not looked at without damping and convergence
  T* q;             // likewise; Q, or log Q where that is the result of this update
  T* log_q;         // log Q beside Q, or null
  int64_t images;
  TileMap tiles;
  int64_t classes;
  int64_t stride;           // in T
  T damping;                // 0: the old Q is not looked at
  bool logarithm;           // q becomes log Q
  Convergence convergence;  // change: null where nobody asks
};

// Q <- (1 - damping) softmax(logits) + damping Q. Each point has 1 ... 32 lanes of a warp.
template <typename T>
__global__ void __launch_bounds__(kTile, 2)
    update_points(const __grid_constant__ UpdateArguments<T> a, int lanes) {
  const Convergence& convergence = a.convergence;
  if (convergence.running != nullptr && *convergence.running == 0) return;
  const int at_once = kTile / lanes, lane = static_cast<int>(threadIdx.x) % lanes;
  for (int64_t item = blockIdx.x; item < a.images * a.tiles.tiles; item += gridDim.x) {
    const auto [image, tile] = batch_tile(item, a.tiles);
    if (convergence.stopped != nullptr && convergence.stopped[image] != 0) continue;
    T change = T(0);
    for (int first = 0; first < kTile; first += at_once) {
      const int place = first + static_cast<int>(threadIdx.x) / lanes;
      const T* x = a.logits + (item * kTile + place) * a.stride;
      const T* old_q = a.old_q + (item * kTile + place) * a.stride;
      T* q = a.q + (item * kTile + place) * a.stride;
      T* log_q = a.log_q == nullptr ? nullptr : a.log_q + (item * kTile + place) * a.stride;
      T highest = kPadding<T>;
      for (int64_t c = lane; c < a.classes; c += lanes) highest = larger(highest, x[c]);
      highest = maximum_of_lanes(highest, lanes);
      T sum = T(0);
      for (int64_t c = lane; c < a.classes; c += lanes) sum += power_of_two(x[c] - highest);
      sum = sum_of_lanes(sum, lanes);
      const T log_sum = log_of(sum), inverse = T(1) / sum;
      T here = T(0);
      for (int64_t c = lane; c < a.stride; c += lanes) {
        T value = T(0);
        if (c < a.classes) {
          const T log_value = (x[c] - highest) * kLn2<T> - log_sum;
          value = power_of_two(x[c] - highest) * inverse;
          if (log_q != nullptr) {
            log_q[c] = damp_log(a.damping, log_value, log_q[c]);
            value = power_of_two(log_q[c] * kLog2E<T>);
          } else if (a.logarithm) {
            value = log_value;
          } else if (a.damping != T(0)) {
            value += (old_q[c] - value) * a.damping;
          }
          if (convergence.change != nullptr) here = larger(here, std::abs(value - old_q[c]));
        }
        q[c] = value;
      }
      if (a.tiles.point(tile, place) >= 0) change = larger(change, here);
    }
    if (convergence.change == nullptr) continue;
    change = maximum_of_lanes(change, kWarp);
    if (threadIdx.x % kWarp == 0) {
      const auto wide = static_cast<double>(change);
      unsigned long long bits = 0;
      memcpy(&bits, &wide, sizeof(bits));
      atomicMax(convergence.change + image, bits);
    }
  }
}

// Flags of the lattices of all lists in one: [1] whether any has failed.
template <typename T>
__global__ void note_failure(const __grid_constant__ PassList<T> list, int32_t* failed) {
  if (threadIdx.x == 0 && has_failed(list)) *failed = 1;
}

// From rows [images, tiles, 256, stride] to what the caller asked for.
template <typename T>
__global__ void __launch_bounds__(kTile, kResident)
    emit_rows(const T* rows, int64_t stride, int64_t images, const __grid_constant__ TileMap tiles,
              int64_t classes, bool labels, const int32_t* failed, void* result) {
  for (int64_t item = blockIdx.x; item < images * tiles.tiles; item += gridDim.x) {
    const auto [image, tile] = batch_tile(item, tiles);
    emit_tile(rows + item * kTile * stride, stride, image, tile, tiles, classes, labels,
              *failed != 0, result);
  }
}

}  // namespace densecrf::cuda
