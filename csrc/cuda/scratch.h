// Scratch memory of a call, cut from a few blocks. A call needs dozens of pieces, and to ask torch
// for one costs the host about as much as to launch a kernel.
#pragma once

#include <algorithm>
#include <cstddef>

namespace densecrf::cuda {

class ScratchBlocks {
 public:
  // Two lines of the L2 cache: no two pieces share one.
  static constexpr size_t kAlign = 256;
  static constexpr size_t kSmallestBlock = size_t{2} << 20;
  // A larger piece is a block of its own.
  static constexpr size_t kLargestBlock = size_t{64} << 20;

  // A piece of `bytes` bytes that overlaps no other. allocate(bytes) makes a block, at an address
  // that is a multiple of kAlign; blocks grow with what has been taken, so that there are few.
  template <typename Allocate>
  [[nodiscard]] void* take(size_t bytes, const Allocate& allocate) {
    bytes = (bytes + kAlign - 1) / kAlign * kAlign;
    const size_t block = std::clamp(taken_, kSmallestBlock, kLargestBlock);
    taken_ += bytes;
    if (bytes > left_ && bytes >= block) return allocate(bytes);  // what is left stays of use
    if (bytes > left_) {
      next_ = static_cast<char*>(allocate(block));
      left_ = block;
    }
    void* piece = next_;
    next_ += bytes;
    left_ -= bytes;
    return piece;
  }

 private:
  char* next_ = nullptr;
  size_t left_ = 0;
  size_t taken_ = 0;
};

}  // namespace densecrf::cuda
