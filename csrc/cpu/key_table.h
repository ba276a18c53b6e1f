// Open addressing with linear probing from vertex keys to row numbers.
//
// A slot holds the key itself when keys are one word long; of longer keys it holds a fingerprint,
// and the words of the row it names decide. Empty slots are all ones.
#pragma once

#include <cstdint>

#include "../portable.h"
#include "memory.h"

namespace densecrf::inline DENSECRF_ISA {

constexpr uint32_t kNoRow = 0xffffffffu;
constexpr uint64_t kNoKey = ~uint64_t{0};

struct Slot {
  uint64_t key;
  uint32_t row;
  uint32_t unused;
};

HOST_DEVICE uint64_t fingerprint(const uint64_t* key, int words) {
  if (words == 1) return key[0];
  uint64_t mixed = 0;
  for (int w = 0; w < words; ++w) {
    mixed = (mixed ^ key[w]) * 0xff51afd7ed558ccdull;
    mixed ^= mixed >> 32;
  }
  return mixed >> 1;  // never all ones
}

HOST_DEVICE bool same_words(const uint64_t* a, const uint64_t* b, int words) {
  for (int w = 0; w < words; ++w) {
    if (a[w] != b[w]) return false;
  }
  return true;
}

struct KeyTable {
  Slot* slots;
  int bits;

  HOST_DEVICE uint64_t size() const { return uint64_t{1} << bits; }
  HOST_DEVICE uint64_t mask() const { return size() - 1; }
  HOST_DEVICE uint64_t home(uint64_t print) const {
    return (print * 0x9E3779B97F4A7C15ull) >> (64 - bits);
  }
  HOST_DEVICE void clear() const { __builtin_memset(slots, 0xff, size() * sizeof(Slot)); }

  // The slot that holds the key of fingerprint `print`, or the empty one where it belongs.
  // words_of(row) gives the full key of a row; it is asked only when keys have several words.
  template <typename WordsOf>
  HOST_DEVICE uint64_t probe(uint64_t print, const uint64_t* key, int words,
                             const WordsOf& words_of) const {
    uint64_t at = home(print);
    for (;;) {
      const Slot& slot = slots[at];
      if (slot.key == print && (words == 1 || same_words(words_of(slot.row), key, words))) {
        return at;
      }
      if (slot.key == kNoKey) return at;
      at = (at + 1) & mask();
    }
  }

  // Claims or finds the slot of a one-word key and keeps the smallest row offered for it; any
  // number of threads at once. What a later find returns does not depend on their order.
  HOST_DEVICE uint64_t offer(uint64_t key, uint32_t row) const {
    uint64_t at = home(key);
    for (;;) {
      uint64_t seen = __atomic_load_n(&slots[at].key, __ATOMIC_RELAXED);
      if (seen == kNoKey && __atomic_compare_exchange_n(&slots[at].key, &seen, key, false,
                                                        __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
        seen = key;
      }
      if (seen == key) break;
      at = (at + 1) & mask();
    }
    uint32_t lowest = __atomic_load_n(&slots[at].row, __ATOMIC_RELAXED);
    while (row < lowest && !__atomic_compare_exchange_n(&slots[at].row, &lowest, row, false,
                                                        __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return at;
  }
};

// Bits of a table that `keys` keys fill at most half.
HOST_DEVICE int table_bits(int64_t keys) {
  int bits = 4;
  while ((int64_t{1} << bits) < 2 * keys) ++bits;
  return bits;
}

}  // namespace densecrf::inline DENSECRF_ISA
