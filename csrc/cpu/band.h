// One band of points: embeds them and numbers the vertices they touch, in order of first touch.
#pragma once

#include "../embedding.h"
#include "features.h"
#include "key_table.h"
#include "vector.h"

namespace densecrf::inline DENSECRF_ISA {

// The vertices of one band, in memory that outlives the call (buffers of a workspace).
template <typename T>
class BandVertices {
 public:
  static constexpr int kBuffers = 4;

  BandVertices() = default;
  BandVertices(cpu::Workspace& workspace, size_t first_buffer, int words)
      : slots_(&workspace.buffer(first_buffer)),
        keys_(&workspace.buffer(first_buffer + 1)),
        ones_(&workspace.buffer(first_buffer + 2)),
        scratch_(&workspace.buffer(first_buffer + 3)),
        words_(words) {
    resize_table(kFirstBits);
  }

  HOST_DEVICE int64_t count() const { return count_; }
  HOST_DEVICE const uint64_t* keys() const { return key_; }
  HOST_DEVICE const uint64_t* key(int64_t row) const { return key_ + row * words_; }
  HOST_DEVICE T* ones() const { return one_; }
  HOST_DEVICE const KeyTable& table() const { return table_; }
  HOST_DEVICE cpu::Buffer& scratch() const { return *scratch_; }

  HOST_DEVICE uint32_t find_or_add(const uint64_t* key, int words) {
    const uint64_t print = fingerprint(key, words);
    const uint64_t at =
        table_.probe(print, key, words, [this](uint32_t row) { return this->key(row); });
    const uint32_t row = table_.slots[at].row;
    return __builtin_expect(row != kNoRow, 1) ? row : add(print, key, at);
  }

 private:
  static constexpr int kFirstBits = 14;

  uint32_t add(uint64_t print, const uint64_t* key, uint64_t at) {
    const int64_t row = count_++;
    if (row >= kMaxRows) cpu::fail_too_many_vertices(row);
    if (count_ > capacity_) {
      capacity_ = 2 * count_ + 1024;
      const auto kept = static_cast<size_t>(row);
      key_ = static_cast<uint64_t*>(
          keys_->reserve(static_cast<size_t>(capacity_) * words_ * 8, kept * words_ * 8));
      one_ = static_cast<T*>(
          ones_->reserve(static_cast<size_t>(capacity_) * sizeof(T), kept * sizeof(T)));
    }
    for (int w = 0; w < words_; ++w) key_[row * words_ + w] = key[w];
    one_[row] = T(0);
    table_.slots[at] = {print, static_cast<uint32_t>(row), 0};
    if (2 * count_ > static_cast<int64_t>(table_.size())) resize_table(table_.bits + 2);
    return static_cast<uint32_t>(row);
  }

  void resize_table(int bits) {
    const size_t bytes = sizeof(Slot) << bits;
    table_ = {static_cast<Slot*>(slots_->reserve(bytes, 0)), bits};
    table_.clear();
    for (int64_t row = 0; row < count_; ++row) {
      const uint64_t print = fingerprint(key(row), words_);
      uint64_t at = table_.home(print);
      while (table_.slots[at].key != kNoKey) at = (at + 1) & table_.mask();
      table_.slots[at] = {print, static_cast<uint32_t>(row), 0};
    }
  }

  static constexpr int64_t kMaxRows = (int64_t{1} << 31) - 1;

  cpu::Buffer *slots_ = nullptr, *keys_ = nullptr, *ones_ = nullptr, *scratch_ = nullptr;
  int words_ = 1;
  int64_t count_ = 0;
  int64_t capacity_ = 0;
  uint64_t* key_ = nullptr;  // [count, words]
  T* one_ = nullptr;         // [count]: splat of ones
  KeyTable table_{};
};

// Embeds the points of a block, a vector at a time: weights to the records, remainders and axes to
// scratch, where the key walk finds them.
template <int kD, typename T>
HOST_DEVICE void embed_block(int d, const T* features, T* remainder, int32_t* axis, T* weight,
                             T* scratch) {
  constexpr int kLanes = kNativeLanes<T>;
  using Lanes = VectorLanes<T, kLanes>;
  using V = typename Lanes::V;
  using I = typename Lanes::I;
  constexpr int kFixed = kD >= 0 ? kD + 1 : 1;
  V fixed[4][kFixed];
  I fixed_int[2][kFixed];
  V* work = kD >= 0 ? nullptr : reinterpret_cast<V*>(scratch);
  const int vertices = d + 1;
  V* c = kD >= 0 ? fixed[0] : work;
  V* elevated = kD >= 0 ? fixed[1] : work + vertices;
  V* rest = kD >= 0 ? fixed[2] : work + 2 * vertices;
  V* w = kD >= 0 ? fixed[3] : work + 3 * vertices;
  I* rank = kD >= 0 ? fixed_int[0] : reinterpret_cast<I*>(work + 4 * vertices);
  I* which = kD >= 0 ? fixed_int[1] : reinterpret_cast<I*>(work + 5 * vertices);

  for (int q = 0; q < kBlock; q += kLanes) {
#pragma GCC unroll 8
    for (int m = 0; m < d; ++m) c[m] = load<V>(features + m * kBlock + q);
    embed_point<kD, Lanes>(d, c, elevated, rest, rank, which, w);
    T* record = weight + (q / kGroup) * kGroup * vertices + q % kGroup;
#pragma GCC unroll 9
    for (int r = 0; r <= d; ++r) {
      store(remainder + r * kBlock + q, rest[r]);
      store(record + r * kGroup, w[r]);
      using Narrow = Vec<int32_t, kLanes>;
      store(axis + r * kBlock + q, __builtin_convertvector(which[r], Narrow));
    }
  }
}

// The keys [n, d+1, words] of the simplices of a block's points: from the vertex of remainder 0 on,
// each next by a step along the axis of the next lower rank.
template <int kD, bool kWide, typename T>
HOST_DEVICE void walk_keys(const KeyView& keys, int d, int n, const T* remainder,
                           const int32_t* axis, uint64_t* key) {
  const int words = kWide ? keys.words : 1;
  for (int q = 0; q < n; ++q) {
    for (int w = 0; w < words; ++w) {
      uint64_t sum = 0;
#pragma GCC unroll 9
      for (int i = 0; i <= d; ++i) {
        sum += static_cast<uint64_t>(static_cast<int64_t>(remainder[i * kBlock + q])) *
               keys.factor[i * words + w];
      }
      key[w] = sum - keys.origin[w];
    }
#pragma GCC unroll 9
    for (int r = 0; r < d; ++r) {
      const uint64_t* step = keys.step + axis[(d - r) * kBlock + q] * words;
      for (int w = 0; w < words; ++w) key[words + w] = key[w] + step[w];
      key += words;
    }
    key += words;
  }
}

// Brings the slots of a block's keys [n, vertices] nearer, but for those of the point before: large
// tables lie far away.
HOST_DEVICE void prefetch_slots(const KeyTable& table, int n, int vertices, const uint64_t* key) {
  constexpr int kNearBits = 15;  // a table of half a megabyte needs no help
  if (table.bits <= kNearBits) return;
  for (int i = vertices; i < n * vertices; ++i) {
    if (key[i] != key[i - vertices]) prefetch(table.slots + table.home(key[i]));
  }
}

// Embeds points [kBlock * first_block, ...) of the band. Fills its records (from group
// first_block * kBlock / kGroup on) and first_rows[block - first_block], and splats ones.
template <int kD, bool kWide, typename T>
void embed_band(const ScaledFeatures<T>& features, const KeyView& keys, int dimensions,
                int64_t points, int64_t first_block, int64_t last_block, BandVertices<T>& band,
                uint32_t* row, T* weight, uint32_t* first_rows) {
  const int d = kD >= 0 ? kD : dimensions;
  const int vertices = d + 1;
  const int words = kWide ? keys.words : 1;
  // Scratch: features [d, 64], remainders [d+1, 64], axes [d+1, 64], embed_block's vectors,
  // the block's keys [64, d+1, words], and keys and rows of the point before.
  const size_t embed_bytes = static_cast<size_t>(vertices) * 6 * 64;
  char* scratch = static_cast<char*>(band.scratch().reserve(
      embed_bytes + static_cast<size_t>(vertices) *
                        (kBlock * (2 * sizeof(T) + sizeof(int32_t) + words * 8) + words * 8 + 16),
      0));
  T* work = reinterpret_cast<T*>(scratch);
  T* c = reinterpret_cast<T*>(scratch + embed_bytes);
  T* remainder = c + d * kBlock;
  int32_t* axis = reinterpret_cast<int32_t*>(remainder + vertices * kBlock);
  uint64_t* last_key = reinterpret_cast<uint64_t*>(axis + vertices * kBlock);
  uint64_t* key = last_key + vertices * words;
  uint32_t* last_row = reinterpret_cast<uint32_t*>(key + kBlock * vertices * words);
  for (int i = 0; i < vertices * words; ++i) last_key[i] = kNoKey;
  for (int r = 0; r <= d; ++r) last_row[r] = 0;

  for (int64_t block = first_block; block < last_block; ++block) {
    first_rows[block - first_block] = static_cast<uint32_t>(band.count());
    const int64_t first = block * kBlock;
    const int n = points - first < kBlock ? static_cast<int>(points - first) : kBlock;
    T* block_weight = weight + first * vertices;
    uint32_t* block_row = row + first * vertices;
    features.fill(first, n, c);
    embed_block<kD>(d, c, remainder, axis, block_weight, work);

    walk_keys<kD, kWide>(keys, d, n, remainder, axis, key);
    if constexpr (!kWide) prefetch_slots(band.table(), n, vertices, key);
    for (int q = 0; q < n; ++q) {
      const int64_t record = static_cast<int64_t>(q / kGroup) * kGroup * vertices + q % kGroup;
#pragma GCC unroll 9
      for (int r = 0; r <= d; ++r) {
        const uint64_t* here = key + (q * vertices + r) * words;
        uint64_t* last = last_key + r * words;
        if (!same_words(last, here, words)) {
          last_row[r] = band.find_or_add(here, words);
          for (int w = 0; w < words; ++w) last[w] = here[w];
        }
        block_row[record + r * kGroup] = last_row[r];
        band.ones()[last_row[r]] += block_weight[record + r * kGroup];
      }
    }
    for (int q = n; q < kBlock; ++q) {
      const int64_t record = static_cast<int64_t>(q / kGroup) * kGroup * vertices + q % kGroup;
      for (int r = 0; r <= d; ++r) {
        block_row[record + r * kGroup] = 0;
        block_weight[record + r * kGroup] = T(0);
      }
    }
  }
  first_rows[last_block - first_block] = static_cast<uint32_t>(band.count());
}

}  // namespace densecrf::inline DENSECRF_ISA
