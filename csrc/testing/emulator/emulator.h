// Runs CUDA kernels on the CPU, a fiber per thread, so that an ordinary compiler and its sanitizers
// can test block-cooperative code where there is no GPU. Not for speed.
//
// It has what this file declares. Several blocks are resident at once, of a cooperative launch all
// of them, and fibers change places at barriers, warp operations and atomics only, in an order that
// the schedule sets: code that leans on one order fails under another. Shared memory starts as the
// schedule's garbage. Under TSAN every fiber is a thread of its own and only barriers order them,
// so that TSAN finds data races in global and shared memory; under ASAN shared memory ends where
// its struct ends.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

// Of the running fiber; blocks and grids have one dimension.
extern dim3 threadIdx, blockIdx, blockDim, gridDim;

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)

namespace densecrf::emulator {

enum class Order : int { kForward, kReverse, kShuffled };

struct Schedule {
  Order order = Order::kForward;
  uint64_t seed = 0;
  int resident_blocks = 2;
  unsigned char garbage = 0xff;  // every byte of memory that nobody has written: here NaN, -1
};

// Mistakes to be made on purpose, so that tests can show that they would notice them.
struct Faults {
  int64_t skipped_barrier = -1;       // the so manieth __syncthreads of every thread does nothing
  int64_t skipped_grid_barrier = -1;  // the so manieth grid barrier of every thread does nothing
  bool split_atomics = false;         // an atomic is a load, a change of fibers and a store
};

// What kernels run from now on with.
void set_schedule(const Schedule& schedule);
void set_faults(const Faults& faults);
unsigned char garbage();

struct Statistics {
  int64_t launches;
  // The most __syncthreads and grid barriers of any thread since the last reset.
  int64_t barriers, grid_barriers;
  int64_t memsets, copies, copied_bytes;
};
Statistics statistics();
void count_memset();
void count_copy(size_t bytes);
void reset_statistics();

// body(context) once for every thread of the grid. Throws std::runtime_error when a barrier is not
// reached by every thread of its block or grid, a warp operation not by every lane it names, the
// block asks for more shared memory than every GPU has, or the blocks of a cooperative launch are
// more than can be resident.
void run_grid(unsigned blocks, unsigned threads, void (*body)(void*), void* context,
              bool cooperative = false);
int resident_blocks();

void* shared_memory(const void* tag, size_t bytes);
void block_barrier();
// Of a cooperative launch.
void grid_barrier();
void warp_barrier(unsigned mask);
uint64_t exchange(unsigned mask, uint64_t value, unsigned source_lane);
unsigned ballot(unsigned mask, bool predicate);
int lane();
// Where another fiber may go on.
void preempt();
bool splits_atomics();

template <typename T, typename Change>
T atomic(T* at, const Change& change) {
  static_assert(std::is_integral_v<T>, "the default path has no floating-point atomics");
  preempt();
  if (splits_atomics()) {
    const T old = *at;
    preempt();
    *at = change(old);
    return old;
  }
  T old = __atomic_load_n(at, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(at, &old, change(old), false, __ATOMIC_RELAXED,
                                      __ATOMIC_RELAXED)) {
  }
  return old;
}

template <typename T>
T shuffle(unsigned mask, T value, unsigned source_lane) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  __builtin_memcpy(&bits, &value, sizeof(T));
  bits = exchange(mask, bits, source_lane);
  __builtin_memcpy(&value, &bits, sizeof(T));
  return value;
}

template <typename T>
inline constexpr char kTag = 0;

}  // namespace densecrf::emulator

inline void __syncthreads() { densecrf::emulator::block_barrier(); }
inline void __syncwarp(unsigned mask = ~0u) { densecrf::emulator::warp_barrier(mask); }
inline void __threadfence() {}

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const int lane = densecrf::emulator::lane();
  return densecrf::emulator::shuffle(mask, value, lane / width * width + source % width);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32) {
  const int lane = densecrf::emulator::lane(), source = lane ^ lanes;
  const bool inside = source / width <= lane / width;
  return densecrf::emulator::shuffle(mask, value, inside ? source : lane);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const int lane = densecrf::emulator::lane(), source = lane - static_cast<int>(delta);
  return densecrf::emulator::shuffle(mask, value, source < lane / width * width ? lane : source);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const int lane = densecrf::emulator::lane(), source = lane + static_cast<int>(delta);
  return densecrf::emulator::shuffle(mask, value,
                                     source >= lane / width * width + width ? lane : source);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  return densecrf::emulator::ballot(mask, predicate != 0);
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) {
  return __ballot_sync(mask, predicate) == mask;
}

template <typename T>
T atomicAdd(T* at, std::type_identity_t<T> value) {
  return densecrf::emulator::atomic(at, [=](T old) { return static_cast<T>(old + value); });
}
template <typename T>
T atomicMin(T* at, std::type_identity_t<T> value) {
  return densecrf::emulator::atomic(at, [=](T old) { return old < value ? old : value; });
}
template <typename T>
T atomicMax(T* at, std::type_identity_t<T> value) {
  return densecrf::emulator::atomic(at, [=](T old) { return old > value ? old : value; });
}
template <typename T>
T atomicOr(T* at, std::type_identity_t<T> value) {
  return densecrf::emulator::atomic(at, [=](T old) { return static_cast<T>(old | value); });
}
template <typename T>
T atomicAnd(T* at, std::type_identity_t<T> value) {
  return densecrf::emulator::atomic(at, [=](T old) { return static_cast<T>(old & value); });
}
template <typename T>
T atomicExch(T* at, std::type_identity_t<T> value) {
  return densecrf::emulator::atomic(at, [=](T) { return value; });
}
template <typename T>
T atomicCAS(T* at, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  return densecrf::emulator::atomic(at, [=](T old) { return old == expected ? value : old; });
}

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
template <typename T>
T __ldg(const T* at) {
  return *at;
}
