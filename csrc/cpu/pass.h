// What the passes over the points share: their arguments, and the labels of one point.
//
// Rows and unaries are padded to `stride` values; padded labels have the unary kNever.
#pragma once

#include "../logits.h"
#include "backend.h"
#include "row.h"
#include "sections.h"

namespace densecrf::inline DENSECRF_ISA {

// Rows are addressed by 32-bit offsets in units of so many bytes.
constexpr uint64_t kOffsetUnit = 8;

// One kernel as a pass sees it; pointers start at the segment's first point, rows at its band's.
template <typename T>
struct PassKernel {
  const uint32_t* offset;      // [groups, vertices, 16] of the vertices' rows
  const T* weight;             // [groups, vertices, 16], what splat and slice multiply by
  const T* scale;              // [points] what the sliced message is multiplied by; null: 1
  const T* from;               // [rows, stride] blurred
  T* to;                       // [rows, stride] splatted
  const uint32_t* first_rows;  // [blocks + 1], from the band's base
  int vertices;
  Compatibility compatibility;
  const T* label_weight;  // per class [stride], or minus the penalty matrix by columns
                          // [classes, stride]; Potts weights are in `weight` or `scale`
};

// Points that lie in one band of every lattice.
template <typename T>
struct Segment {
  int64_t first_point;
  int64_t groups;
  const PassKernel<T>* kernels;
  int kernel_count;
};

template <typename T>
struct PassArguments {
  int64_t points;
  int64_t classes;
  int64_t stride;
  const T* padding;  // [stride] 0 for a label, kPadding beyond the last
  T* unary;          // [padded points, stride], (logits - maximum) / ln 2
  T* kept;           // [padded points, stride] Q of the last iteration, or null
  T* kept_log;       // log Q likewise, where that is the output of a kept Q
  T* state;          // [padded points, stride] where this pass leaves its Q for backward, or null
  T damping;
  Output output;
  void* result;  // [classes, points] or labels [points]
};

// The labels of a point: one Row where their number is fixed at compile time, else (kWidth = 0) a
// list of rows of 16 in scratch memory.
template <typename T, int kWidth>
struct Labels {
  static constexpr int kChunk = kWidth > 0 ? kWidth : 16;
  using Chunk = Row<T, kChunk>;

  int64_t runtime_stride;

  HOST_DEVICE int64_t stride() const { return kWidth > 0 ? kWidth : runtime_stride; }
  HOST_DEVICE int chunks() const {
    return kWidth > 0 ? 1 : static_cast<int>(runtime_stride / kChunk);
  }
  // Values of scratch a pass needs: 16 points by rows and by columns, and four points.
  static HOST_DEVICE int64_t scratch(int64_t stride) { return (2 * kGroup + 4) * stride; }

  HOST_DEVICE void load(Chunk* x, const T* from) const {
    for (int i = 0; i < chunks(); ++i) x[i] = Chunk::load(from + i * kChunk);
  }
  HOST_DEVICE void store(const Chunk* x, T* to) const {
    for (int i = 0; i < chunks(); ++i) x[i].store(to + i * kChunk);
  }
  HOST_DEVICE void copy(const Chunk* from, Chunk* to) const {
    for (int i = 0; i < chunks(); ++i) to[i] = from[i];
  }
  HOST_DEVICE void multiply(Chunk* x, T factor) const {
    for (int i = 0; i < chunks(); ++i) x[i] = x[i] * factor;
  }
};

template <typename T>
HOST_DEVICE T* at_offset(T* rows, uint32_t offset) {
  return reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(rows) + offset * kOffsetUnit);
}

// x <- x + sum_r weight_r * row_r: the message of one kernel to the point of `record`.
template <int kVertices, typename T, int kWidth>
HOST_DEVICE void slice_point(const Labels<T, kWidth>& labels, const PassKernel<T>& kernel,
                             int64_t record, typename Labels<T, kWidth>::Chunk* x) {
  const int vertices = kVertices > 0 ? kVertices : kernel.vertices;
#pragma GCC unroll 6
  for (int r = 0; r < vertices; ++r) {
    const T w = kernel.weight[record + r * kGroup];
    const T* from = at_offset(kernel.from, kernel.offset[record + r * kGroup]);
    for (int i = 0; i < labels.chunks(); ++i) x[i].add_scaled(w, from + i * labels.kChunk);
  }
}

// row_r <- row_r + weight_r * x for every vertex r of the point of `record`.
template <int kVertices, typename T, int kWidth>
HOST_DEVICE void splat_point(const Labels<T, kWidth>& labels, const PassKernel<T>& kernel,
                             int64_t record, const typename Labels<T, kWidth>::Chunk* x) {
  const int vertices = kVertices > 0 ? kVertices : kernel.vertices;
#pragma GCC unroll 6
  for (int r = 0; r < vertices; ++r) {
    const T w = kernel.weight[record + r * kGroup];
    T* to = at_offset(kernel.to, kernel.offset[record + r * kGroup]);
    for (int i = 0; i < labels.chunks(); ++i) x[i].add_scaled_to(w, to + i * labels.kChunk);
  }
}

// Clears the rows that the block at `group` touches first: they are contiguous, and a moment later
// they are splatted into.
template <typename T>
HOST_DEVICE void clear_new_rows(const Segment<T>& segment, int64_t group, int64_t stride) {
  if (group % (kBlock / kGroup) != 0) return;
  const int64_t block = group / (kBlock / kGroup);
  for (int k = 0; k < segment.kernel_count; ++k) {
    const PassKernel<T>& kernel = segment.kernels[k];
    const int64_t begin = kernel.first_rows[block], end = kernel.first_rows[block + 1];
    __builtin_memset(kernel.to + begin * stride, 0,
                     static_cast<size_t>((end - begin) * stride) * sizeof(T));
  }
}

}  // namespace densecrf::inline DENSECRF_ISA
