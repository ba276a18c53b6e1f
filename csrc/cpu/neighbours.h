// From the bands' vertices to one lattice: which rows are copies of one vertex, and the chains of
// neighbours along every axis that the blur walks.
#pragma once

#include "band.h"
#include "parallel.h"

namespace densecrf::inline DENSECRF_ISA {

// All bands' rows in one table.
template <typename T>
struct Assembly {
  BandVertices<T>* bands;
  int band_count;
  const int64_t* row_base;  // [band_count + 1]
  KeyView keys;
  KeyTable table;     // key -> primary row
  uint32_t* slot_of;  // [rows], or null with one band
  cpu::Copy* copies;  // by primary row
  int64_t copy_count;

  HOST_DEVICE int64_t rows() const { return row_base[band_count]; }

  HOST_DEVICE const uint64_t* words_of(int64_t row) const {
    int b = 0;
    while (row >= row_base[b + 1]) ++b;
    return bands[b].key(row - row_base[b]);
  }

  HOST_DEVICE uint32_t find(const uint64_t* key) const {
    const uint64_t at = table.probe(fingerprint(key, keys.words), key, keys.words,
                                    [this](uint32_t row) { return words_of(row); });
    return table.slots[at].row;
  }
};

// Enters every row into the common table; a key's smallest row becomes its primary.
template <typename T>
void enter_rows(Assembly<T>& lattice, const cpu::Executor& executor, cpu::Buffer& slot_memory,
                cpu::Buffer& slot_of_memory) {
  if (lattice.band_count == 1) {
    lattice.table = lattice.bands[0].table();
    lattice.slot_of = nullptr;
    return;
  }
  const int64_t rows = lattice.rows();
  const int bits = table_bits(rows);
  lattice.table = {static_cast<Slot*>(slot_memory.reserve(sizeof(Slot) << bits, 0)), bits};
  lattice.slot_of = static_cast<uint32_t*>(
      slot_of_memory.reserve(static_cast<size_t>(rows) * sizeof(uint32_t), 0));
  const KeyTable table = lattice.table;
  parallel(executor, lattice.band_count, [&](int b) {
    const Share part = share(static_cast<int64_t>(table.size()), lattice.band_count, b);
    __builtin_memset(table.slots + part.begin, 0xff,
                     static_cast<size_t>(part.end - part.begin) * sizeof(Slot));
  });
  if (lattice.keys.words == 1) {
    parallel(executor, lattice.band_count, [&](int b) {
      const uint64_t* keys = lattice.bands[b].keys();
      const int64_t base = lattice.row_base[b], count = lattice.bands[b].count();
      constexpr int64_t kAhead = 8;
      for (int64_t i = 0; i < count; ++i) {
        if (i + kAhead < count) prefetch(table.slots + table.home(keys[i + kAhead]));
        lattice.slot_of[base + i] =
            static_cast<uint32_t>(table.offer(keys[i], static_cast<uint32_t>(base + i)));
      }
    });
    return;
  }
  // Long keys are compared through the row a slot names, so slots are filled by one thread.
  for (int b = 0; b < lattice.band_count; ++b) {
    for (int64_t i = 0; i < lattice.bands[b].count(); ++i) {
      const uint64_t* key = lattice.bands[b].key(i);
      const uint64_t print = fingerprint(key, lattice.keys.words);
      const uint64_t at = table.probe(print, key, lattice.keys.words,
                                      [&](uint32_t row) { return lattice.words_of(row); });
      const auto row = static_cast<uint32_t>(lattice.row_base[b] + i);
      if (table.slots[at].row == kNoRow) table.slots[at] = {print, row, 0};
      lattice.slot_of[row] = static_cast<uint32_t>(at);
    }
  }
}

HOST_DEVICE uint32_t primary_of(const KeyTable& table, const uint32_t* slot_of, int64_t row) {
  return slot_of == nullptr ? static_cast<uint32_t>(row) : table.slots[slot_of[row]].row;
}

// Lists the rows that are not their key's primary.
template <typename T>
void list_copies(Assembly<T>& lattice, const cpu::Executor& executor, cpu::Buffer& memory) {
  lattice.copies = nullptr;
  lattice.copy_count = 0;
  const int bands = lattice.band_count;
  if (bands == 1) return;
  // Every band writes its copies from its own row base on; then they are moved together.
  const int64_t rows = lattice.rows();
  const size_t list_bytes = static_cast<size_t>(rows) * sizeof(cpu::Copy);
  char* data = static_cast<char*>(memory.reserve(list_bytes + bands * sizeof(int64_t), 0));
  auto* list = reinterpret_cast<cpu::Copy*>(data);
  auto* found = reinterpret_cast<int64_t*>(data + list_bytes);
  parallel(executor, bands, [&](int b) {
    int64_t n = 0;
    for (int64_t row = lattice.row_base[b]; row < lattice.row_base[b + 1]; ++row) {
      const uint32_t primary = primary_of(lattice.table, lattice.slot_of, row);
      if (primary == row) continue;
      list[lattice.row_base[b] + n++] = {primary, static_cast<uint32_t>(row)};
    }
    found[b] = n;
  });
  int64_t count = 0;
  for (int b = 0; b < bands; ++b) {
    __builtin_memmove(list + count, list + lattice.row_base[b],
                      static_cast<size_t>(found[b]) * sizeof(cpu::Copy));
    count += found[b];
  }
  // With two bands a primary has one copy at most and any order will do.
  if (bands > 2) cpu::sort_by_primary(list, count);
  lattice.copies = list;
  lattice.copy_count = count;
}

// next[axis * rows + row]: the primary row that follows `row` along the axis, or kNoRow;
// has_previous likewise as a flag. Copies have neither.
template <bool kWide, typename T>
void link_neighbours(const Assembly<T>& lattice, int axes, const cpu::Executor& executor,
                     uint32_t* next, uint8_t* has_previous) {
  const int64_t rows = lattice.rows();
  const int words = kWide ? lattice.keys.words : 1;
  parallel(executor, lattice.band_count, [&](int b) {
    const int64_t base = lattice.row_base[b], count = lattice.bands[b].count();
    for (int axis = 0; axis < axes; ++axis) {
      __builtin_memset(has_previous + axis * rows + base, 0, static_cast<size_t>(count));
    }
  });
  const KeyTable table = lattice.table;
  parallel(executor, lattice.band_count, [&](int b) {
    const int64_t base = lattice.row_base[b], count = lattice.bands[b].count();
    const uint64_t* keys = lattice.bands[b].keys();
    constexpr int64_t kAhead = 8;
    uint64_t narrow_key[1];
    for (int64_t i = 0; i < count; ++i) {
      if (!kWide && i + kAhead < count) {
        for (int axis = 0; axis < axes; ++axis) {
          prefetch(table.slots + table.home(keys[i + kAhead] + lattice.keys.step[axis]));
        }
      }
      const int64_t row = base + i;
      const bool primary = primary_of(table, lattice.slot_of, row) == row;
      for (int axis = 0; axis < axes; ++axis) {
        uint32_t found = kNoRow;
        if (primary) {
          if constexpr (kWide) {
            // A key of several words needs scratch; this path is rare, so the band's will do.
            auto* key = static_cast<uint64_t*>(lattice.bands[b].scratch().data());
            for (int w = 0; w < words; ++w) {
              key[w] = keys[i * words + w] + lattice.keys.step[axis * words + w];
            }
            found = lattice.find(key);
          } else {
            narrow_key[0] = keys[i] + lattice.keys.step[axis];
            found = lattice.find(narrow_key);
          }
        }
        next[axis * rows + row] = found;
        if (found != kNoRow) has_previous[axis * rows + found] = 1;
      }
    }
  });
}

// Writes one axis' chains one after another (2 * row, plus 1 at a chain's end; vertices without
// neighbours are left out) and cuts the list into parts at chain ends.
HOST_DEVICE void list_chains(int64_t rows, const uint32_t* next, const uint8_t* has_previous,
                             uint32_t* chain, int64_t stride, int parts, int64_t* cuts) {
  int64_t n = 0;
  for (int64_t head = 0; head < rows; ++head) {
    if (has_previous[head] != 0 || next[head] == kNoRow) continue;
    auto row = static_cast<uint32_t>(head);
    for (uint32_t after; (after = next[row]) != kNoRow; row = after) chain[n++] = 2 * row;
    chain[n++] = 2 * row + 1;
  }
  // What follows is read ahead, and no byte of a lattice is left to chance.
  for (int64_t i = n; i < stride; ++i) chain[i] = 1;
  cuts[0] = 0;
  for (int p = 1; p <= parts; ++p) {
    int64_t cut = n * p / parts;
    while (cut > cuts[p - 1] && cut < n && (chain[cut - 1] & 1) == 0) ++cut;
    cuts[p] = cut < cuts[p - 1] ? cuts[p - 1] : cut;
  }
}

}  // namespace densecrf::inline DENSECRF_ISA
