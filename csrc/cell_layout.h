// How a lattice vertex becomes a number from a small range, where the points' range allows: a bit
// of a bitmap instead of a key in a hash table.
//
// The d+1 coordinates of a vertex are congruent modulo d+1 and sum to zero, so the common residue r
// and d of the quotients q_j = floor(coordinate_j / (d+1)) identify it: cell = r + (d+1) sum_j
// (q_j - low_j) stride_j, r the fastest digit of a mixed radix. Like a key (key_layout.h) it is
// linear in the coordinates of the vertices of remainder 0, and the vertices of a simplex are steps
// apart. Two steps lead to the next neighbour along an axis (every coordinate grows by 1, the axis'
// shrinks by d): r grows and the axis' quotient shrinks, or r wraps and all other quotients grow.
//
// A next neighbour's quotient is at most one beyond the vertices' range. Every digit has one value
// above the range, which no vertex takes; what falls below the range borrows from the slower digits
// and ends at that same value. The slowest digit, which has none to borrow from, has another value
// at the bottom. A neighbour that is not there is thus an empty cell, and within the bitmap.
#pragma once

#include <cmath>
#include <cstdint>

#include "key_plan.h"

namespace densecrf {

// 16 MiB of bits, which are cleared and read whole, and stay in the second-level cache meanwhile.
constexpr int64_t kMostCells = int64_t{1} << 27;
// With d = 12 even points that all lie in one place take more: 13 * 5 * 4^11.
constexpr int kMostCellDimensions = 11;

struct CellLayout {
  int dimensions;
  int64_t cells;                            // 0 .. cells - 1, neighbours included
  int64_t stride[kMostCellDimensions + 1];  // of a coordinate's quotient; 0: left out
  int64_t origin;  // what sum_j coordinate_j stride_j is where the cell is 0

  // From a vertex of a simplex to the next, whose residue is greater by 1, along an axis.
  HOST_DEVICE int64_t step(int axis) const { return 1 - (dimensions + 1) * stride[axis]; }
  // The same from a vertex of residue d, to the residue 0.
  HOST_DEVICE int64_t wrap(int axis) const {
    int64_t all = 0;
    for (int j = 0; j <= dimensions; ++j) all += stride[j];
    return (dimensions + 1) * (all - stride[axis]) - dimensions;
  }
  // Of a vertex of residue 0.
  HOST_DEVICE int64_t cell(const int64_t* coordinate) const {
    int64_t sum = -origin;
    for (int j = 0; j <= dimensions; ++j) sum += coordinate[j] * stride[j];
    return sum;
  }
};

// Lays out cells for points in a box [low, high] of scaled features c_1 .. c_d. Returns whether no
// more than `most_cells` do; `layout` is of no use otherwise.
inline bool plan_cells(int d, const double* low, const double* high, int64_t most_cells,
                       CellLayout& layout) {
  if (d > kMostCellDimensions) return false;
  const int n = d + 1;
  int64_t first[kMostCellDimensions + 1] = {}, values[kMostCellDimensions + 1] = {};
  int widest = 0;
  for (int j = 0; j <= d; ++j) {
    // The vertices of a simplex lie within d of its points; one more is for rounding.
    const CoordinateRange range = coordinate_range(j, d, low, high);
    const double begin = std::floor((range.low - n) / n), end = std::floor((range.high + n) / n);
    if (!(end - begin < static_cast<double>(most_cells))) return false;  // nor if it is NaN
    first[j] = static_cast<int64_t>(begin);
    values[j] = static_cast<int64_t>(end - begin) + 1;
    if (values[j] > values[widest]) widest = j;
  }
  const int slowest = widest == d ? d - 1 : d;
  --first[slowest];
  ++values[slowest];
  layout = {};
  layout.dimensions = d;
  int64_t stride = 1;
  for (int j = 0; j <= d; ++j) {
    if (j == widest) continue;
    layout.stride[j] = stride;
    layout.origin += n * first[j] * stride;
    stride *= values[j] + 1;
    if (n * stride > most_cells) return false;
  }
  layout.cells = n * stride;
  return true;
}

}  // namespace densecrf
