// What a call of the CUDA backend works with: a stream of the current device, and memory that is
// its own until the stream has done the call's work.
#pragma once

#include <cstddef>

#include "launch.h"

namespace densecrf::cuda {

// How a blur goes along an axis: by what it costs, or one way for tests, chains longer than
// kLongestChain excepted. Results have the same bits.
enum class BlurWay : int { kAutomatic, kTwoBuffers, kInPlace };

struct Context {
  Stream stream;
  void* (*allocate)(void* self, size_t bytes);  // at addresses that are multiples of 16, or throws
  void* self;
  BlurWay blur = BlurWay::kAutomatic;

  // Not initialised. A kernel may be given its address even where `count` is 0.
  template <typename T>
  [[nodiscard]] T* scratch(int64_t count) const {
    return static_cast<T*>(allocate(self, static_cast<size_t>(count < 1 ? 1 : count) * sizeof(T)));
  }
};

}  // namespace densecrf::cuda
