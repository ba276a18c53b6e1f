// The arithmetic of a key layout (key_layout.h), for host and device: which range every coordinate
// of a vertex can take, and which bits of which word it gets.
#pragma once

#include <cmath>
#include <cstdint>

#include "portable.h"

namespace densecrf {

// A word keeps one bit free, so that all ones never is a key and can mark an empty slot.
constexpr int kWordBits = 63;

struct CoordinateRange {
  double low;
  double high;
  HOST_DEVICE double reach() const {
    const double a = low < 0 ? -low : low, b = high < 0 ? -high : high;
    return a > b || a != a ? a : b;  // NaN, if either is
  }
};

struct KeyField {
  int64_t low;
  int32_t width;  // 0: the coordinate that is left out
  int32_t word;
  int32_t shift;

  HOST_DEVICE uint64_t factor(int of_word) const {
    return width > 0 && word == of_word ? uint64_t{1} << shift : 0;
  }
};

// Where coordinate j of the points in a box [low, high] of scaled features c_1 .. c_d lies:
// elevated_j = sum_{m > j} c_m - j c_j.
HOST_DEVICE CoordinateRange coordinate_range(int j, int d, const double* low, const double* high) {
  CoordinateRange range{0.0, 0.0};
  for (int m = j; m < d; ++m) {
    range.low += low[m];
    range.high += high[m];
  }
  if (j > 0) {
    range.low -= j * high[j - 1];
    range.high -= j * low[j - 1];
  }
  return range;
}

// Lays out fields [d + 1] for points in a box and returns the number of words. Every field has room
// for a simplex around the point and one neighbour query beyond. The ranges must be finite.
HOST_DEVICE int plan_fields(int d, const double* low, const double* high, KeyField* field) {
  const double guard = 2.0 * (d + 1) + 2.0;
  int widest = 0;
  for (int j = 0; j <= d; ++j) {
    const CoordinateRange range = coordinate_range(j, d, low, high);
    field[j].low = static_cast<int64_t>(std::floor(range.low - guard));
    const auto last = static_cast<int64_t>(std::ceil(range.high + guard));
    int width = 1;
    while ((last - field[j].low + 1) >> width != 0) ++width;
    field[j].width = width;
    if (width > field[widest].width) widest = j;
  }
  field[widest].width = 0;
  int words = 1, used = 0;
  for (int j = 0; j <= d; ++j) {
    if (used + field[j].width > kWordBits) {
      ++words;
      used = 0;
    }
    field[j].word = words - 1;
    field[j].shift = used;
    used += field[j].width;
  }
  return words;
}

}  // namespace densecrf
