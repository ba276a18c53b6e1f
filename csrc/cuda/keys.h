// Vertex keys on the device, and the hash table that finds equal ones.
//
// Keys of any width are compared where they lie, never copied into the table: a slot holds 32 bits
// that name a key, so that one compare-and-swap claims it and one minimum settles who owns it. The
// smallest owner wins whatever the order of threads.
#pragma once

#include "device.h"

namespace densecrf::cuda {

constexpr uint64_t kNoKey = ~uint64_t{0};  // never a first word
constexpr uint32_t kFree = ~uint32_t{0};   // an empty slot

// Keys stored word by word.
struct KeyArray {
  uint64_t* word;  // [words, stride]
  int64_t stride;

  __device__ __forceinline__ uint64_t& at(int64_t key, int w) const {
    return word[w * stride + key];
  }
};

// hash of the words word(0) .. word(words - 1): the finaliser of splitmix64 after each.
template <typename Word>
__device__ __forceinline__ uint32_t hash_words(int words, const Word& word) {
  uint64_t x = 0;
  for (int w = 0; w < words; ++w) {
    x ^= word(w);
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    x ^= x >> 31;
  }
  return static_cast<uint32_t>(x);
}

template <typename Word>
__device__ __forceinline__ bool same_words(int words, const KeyArray& keys, int64_t key,
                                           const Word& word) {
  for (int w = 0; w < words; ++w) {
    if (keys.at(key, w) != word(w)) return false;
  }
  return true;
}

// Open addressing with linear probing. More slots than keys, so that probing ends.
struct SlotTable {
  uint32_t* slot;
  uint32_t mask;  // slots - 1, a power of two less one

  // The slot of a key, which then holds the smallest owner offered for it. same(owner): whether
  // another owner's key is this one.
  template <typename Same>
  __device__ __forceinline__ uint32_t offer(uint32_t hash, uint32_t owner, const Same& same) const {
    for (uint32_t at = hash & mask;; at = (at + 1) & mask) {
      uint32_t seen = load_relaxed(slot + at);
      if (seen == kFree) {
        seen = atomicCAS(slot + at, kFree, owner);
        if (seen == kFree) return at;
      }
      if (same(seen)) {
        if (owner < seen) atomicMin(slot + at, owner);
        return at;
      }
    }
  }

  // What the slot of a key holds, or kFree. For tables that no thread writes to meanwhile.
  template <typename Same>
  __device__ __forceinline__ uint32_t find(uint32_t hash, const Same& same) const {
    for (uint32_t at = hash & mask;; at = (at + 1) & mask) {
      const uint32_t seen = slot[at];
      if (seen == kFree || same(seen)) return seen;
    }
  }
};

}  // namespace densecrf::cuda
