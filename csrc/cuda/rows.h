// Rows of channels in pieces of 16 bytes, what one thread loads at once.
#pragma once

#include <cstdint>

#include "../portable.h"
#include "device.h"

namespace densecrf::cuda {

// Blocks of 256 threads that a processor shall hold of each kernel: without a word ptxas spills
// some registers to hold more.
constexpr int kResident = 3;

template <typename T>
constexpr int kChunk = 16 / static_cast<int>(sizeof(T));

template <typename T>
struct alignas(16) Chunk {
  T value[kChunk<T>];

  static __device__ __forceinline__ Chunk all(T number) {
    Chunk x;
    for (int i = 0; i < kChunk<T>; ++i) x.value[i] = number;
    return x;
  }
  static __device__ __forceinline__ Chunk zero() { return all(T(0)); }
  // By value: behind a reference nvcc loads one member after another, not 16 bytes at once.
  __device__ __forceinline__ void add(Chunk other) {
    for (int i = 0; i < kChunk<T>; ++i) value[i] += other.value[i];
  }
  __device__ __forceinline__ void add_scaled(T factor, Chunk other) {
    for (int i = 0; i < kChunk<T>; ++i) value[i] += factor * other.value[i];
  }
};

template <typename T>
HOST_DEVICE Chunk<T>* as_chunks(T* rows) {
  return reinterpret_cast<Chunk<T>*>(rows);
}
template <typename T>
HOST_DEVICE const Chunk<T>* as_chunks(const T* rows) {
  return reinterpret_cast<const Chunk<T>*>(rows);
}

template <typename T>
constexpr int64_t chunks_for(int64_t channels) {
  return (channels + kChunk<T> - 1) / kChunk<T>;
}

constexpr int kWidest = 32;  // channels that go through a lattice at a time
template <typename T>
constexpr int kMostChunks = kWidest / kChunk<T>;

// How the threads of a block share rows of `chunks` chunks: each row has the `lanes` threads that
// load it side by side.
struct RowShare {
  int lanes;
  int rows;   // at a time; threads beyond have none
  int row;    // of this thread, from 0; at least `rows` where it has none
  int chunk;  // the first of this thread; the others follow every `lanes`
};

__device__ __forceinline__ RowShare share_rows(int chunks) {
  RowShare share;
  const auto threads = static_cast<int>(blockDim.x), thread = static_cast<int>(threadIdx.x);
  share.lanes = chunks < kWarp ? chunks : kWarp;
  share.rows = threads / share.lanes;
  share.row = thread / share.lanes;
  share.chunk = thread % share.lanes;
  return share;
}

}  // namespace densecrf::cuda
