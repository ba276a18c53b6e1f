// What all passes of a mean field share: the kernels' buffers and folded weights, the cut of the
// points into spans for the threads, and the blur between passes.
#pragma once

#include "blur.h"
#include "fold.h"
#include "memory.h"
#include "tile.h"

namespace densecrf::inline DENSECRF_ISA {

// Of a workspace, the first buffers belong to the passes, the plan's follow.
constexpr size_t kPassBuffers = 8;

template <typename T>
struct KernelState {
  LatticeView<T> lattice;
  Normalization normalization;
  Compatibility compatibility;
  bool folded;
  T response;
  T* from;  // [rows, stride]: splatted, then blurred in place and sliced
  T* to;    // [rows, stride]: splatted into meanwhile
  uint32_t* offset;
  T* weight;
  T* scale;
  T* label_weight;
};

// Points [first_block, last_block) * 64, in one band of every lattice.
struct Span {
  int64_t first_block;
  int64_t last_block;

  HOST_DEVICE int64_t first_point() const { return first_block * kBlock; }
  HOST_DEVICE int64_t groups() const { return (last_block - first_block) * (kBlock / kGroup); }
};

// Forward, messages are those of Q, in units of ln 2; Potts weights that never change are part of
// them. Backward, they are those of the adjoint filter, without the compatibility.
enum class Direction { kForward, kBackward };

struct PlanArguments {
  int64_t points;
  int64_t classes;
  int64_t stride;
  const cpu::Kernel* kernels;
  int kernel_count;
  Direction direction;
  bool varying;  // the weights change between iterations
};

// Spans that no two tasks share rows in are tasks of their own; lattices built with different
// thread counts overlap in other ways and are then passed by one task.
template <typename T, int kWidth>
class Plan {
  // Above it, logits leave the range of the fast exponential.
  static constexpr T kMaxFolded = T(1e6);
  enum : size_t { kScratch = kPassBuffers, kLists, kKernels };
  enum : size_t { kRowsA, kRowsB, kOffsets, kWeights, kScale, kBuffersPerKernel };

 public:
  Plan(const PlanArguments& arguments, const cpu::Executor& executor, cpu::Workspace& workspace)
      : arguments_(arguments),
        executor_(executor),
        workspace_(workspace),
        blocks_((arguments.points + kBlock - 1) / kBlock) {
    allocate();
    for (int k = 0; k < arguments.kernel_count; ++k) prepare_kernel(k);
    image_crf_ = kWidth > 0 && arguments.kernel_count == 2 &&
                 kernels_[0].lattice.vertices_per_point == 3 &&
                 kernels_[1].lattice.vertices_per_point == 6;
    cut_spans();
  }

  // Every kernel's compatibility is in the point weights.
  bool all_folded() const { return all_folded_; }
  // A Gaussian kernel and a bilateral one of three channels.
  bool is_image_crf() const { return image_crf_; }
  int span_count() const { return span_count_; }
  int64_t padded_points() const { return blocks_ * kBlock; }
  Compatibility compatibility(int k) const { return kernels_[k].compatibility; }

  // [stride] 0 for a label, kPadding beyond the last.
  const T* padding() const { return padding_; }

  // A buffer of one value per point and label. A pass prefetches beyond the end.
  T* point_rows(size_t index) {
    const auto values = static_cast<size_t>(padded_points() * arguments_.stride);
    return static_cast<T*>(workspace_.buffer(index).reserve(values * sizeof(T) + 4096, 0));
  }

  // body(index, span, scratch) for all spans.
  template <typename Body>
  void for_each_span(const Body& body) {
    const int tasks = same_bands_ ? span_count_ : 1;
    parallel(executor_, tasks, [&](int task) {
      T* scratch = scratch_ + scratch_size_ * static_cast<size_t>(task);
      if (same_bands_) {
        body(task, spans_[task], scratch);
      } else {
        for (int s = 0; s < span_count_; ++s) body(s, spans_[s], scratch);
      }
    });
  }

  Segment<T> segment(int index, Span span) {
    PassKernel<T>* list = pass_kernels_ + static_cast<int64_t>(index) * arguments_.kernel_count;
    for (int k = 0; k < arguments_.kernel_count; ++k) {
      const KernelState<T>& kernel = kernels_[k];
      const LatticeView<T>& lattice = kernel.lattice;
      const int band = band_of(lattice, span.first_block);
      const int64_t record = span.first_point() * lattice.vertices_per_point;
      const int64_t base = lattice.row_base[band] * arguments_.stride;
      list[k] = {kernel.offset + record,
                 kernel.weight + record,
                 kernel.scale == nullptr ? nullptr : kernel.scale + span.first_point(),
                 kernel.from + base,
                 kernel.to + base,
                 lattice.first_rows + span.first_block + band,
                 lattice.vertices_per_point,
                 kernel.compatibility,
                 kernel.label_weight};
    }
    return {span.first_point(), span.groups(), list, arguments_.kernel_count};
  }

  const FoldKernel<T>* folds(int index, Span span) {
    FoldKernel<T>* list = fold_kernels_ + static_cast<int64_t>(index) * arguments_.kernel_count;
    for (int k = 0; k < arguments_.kernel_count; ++k) {
      const KernelState<T>& kernel = kernels_[k];
      const LatticeView<T>& lattice = kernel.lattice;
      const int band = band_of(lattice, span.first_block);
      const int64_t record = span.first_point() * lattice.vertices_per_point;
      list[k] = {lattice.row + record,
                 kernel.offset + record,
                 lattice.weight + record,
                 lattice.ones + lattice.row_base[band],
                 kernel.weight + record,
                 kernel.scale == nullptr ? nullptr : kernel.scale + span.first_point(),
                 lattice.vertices_per_point,
                 kernel.normalization,
                 kernel.folded,
                 response_scale<T>(lattice.vertices_per_point - 1),
                 kernel.response};
    }
    return list;
  }

  // Exchanges the roles of both buffers, then blurs what was splatted.
  void blur_all() {
    const bool reverse = arguments_.direction == Direction::kBackward;
    for (int k = 0; k < arguments_.kernel_count; ++k) {
      KernelState<T>& kernel = kernels_[k];
      T* splatted = kernel.to;
      kernel.to = kernel.from;
      kernel.from = splatted;
      constexpr int kChunk = Labels<T, kWidth>::kChunk;
      for (int64_t c = 0; c < arguments_.stride; c += kChunk) {
        blur<T, kChunk>(kernel.lattice, kernel.from + c, arguments_.stride, reverse, executor_);
      }
    }
  }

  // Takes a kernel's weights for the passes to come: per class [stride], Potts included; a penalty
  // matrix negative, forward by columns, backward by rows [classes, stride].
  void load_weights(int k, const void* weights) {
    const int64_t classes = arguments_.classes, stride = arguments_.stride;
    const T* from = static_cast<const T*>(weights);
    T* to = kernels_[k].label_weight;
    const bool potts = arguments_.kernels[k].compatibility == Compatibility::kPotts;
    if (kernels_[k].compatibility != Compatibility::kMatrix) {
      for (int64_t c = 0; c < stride; ++c) to[c] = c >= classes ? T(0) : from[potts ? 0 : c];
      return;
    }
    const bool forward = arguments_.direction == Direction::kForward;
    for (int64_t row = 0; row < classes; ++row) {
      for (int64_t c = 0; c < classes; ++c) {
        to[row * stride + c] = -(forward ? from[c * classes + row] : from[row * classes + c]);
      }
      for (int64_t c = classes; c < stride; ++c) to[row * stride + c] = T(0);
    }
  }

 private:
  void allocate() {
    const auto stride = static_cast<size_t>(arguments_.stride);
    const auto kernels = static_cast<size_t>(arguments_.kernel_count);
    const size_t spans = span_bound();
    scratch_size_ = static_cast<size_t>(Labels<T, kWidth>::scratch(arguments_.stride)) + 64;
    scratch_ =
        static_cast<T*>(workspace_.buffer(kScratch).reserve(scratch_size_ * spans * sizeof(T), 0));
    const size_t label_weights =
        (1 + kernels * static_cast<size_t>(arguments_.classes + 1)) * stride * sizeof(T);
    char* lists = static_cast<char*>(workspace_.buffer(kLists).reserve(
        label_weights + kernels * sizeof(KernelState<T>) + spans * sizeof(Span) +
            spans * kernels * (sizeof(PassKernel<T>) + sizeof(FoldKernel<T>)) + 256,
        0));
    padding_ = reinterpret_cast<T*>(lists);
    for (int64_t c = 0; c < arguments_.stride; ++c) {
      padding_[c] = c < arguments_.classes ? T(0) : kPadding<T>;
    }
    kernels_ = reinterpret_cast<KernelState<T>*>(lists + label_weights);
    spans_ = reinterpret_cast<Span*>(kernels_ + kernels);
    pass_kernels_ = reinterpret_cast<PassKernel<T>*>(spans_ + spans);
    fold_kernels_ = reinterpret_cast<FoldKernel<T>*>(pass_kernels_ + spans * kernels);
  }

  // At most so many spans: every lattice cuts the points into its bands.
  size_t span_bound() const {
    size_t sum = 1;
    for (int k = 0; k < arguments_.kernel_count; ++k) {
      const auto& sections = arguments_.kernels[k].lattice;
      sum += static_cast<size_t>(static_cast<const VertexHeader*>(sections.vertices)->bands);
    }
    return sum;
  }

  void prepare_kernel(int k) {
    const cpu::Kernel& given = arguments_.kernels[k];
    KernelState<T>& kernel = kernels_[k];
    kernel.lattice = LatticeView<T>(given.lattice.points, given.lattice.vertices);
    require_addressable(kernel.lattice);
    kernel.response = response_scale<T>(kernel.lattice.vertices_per_point - 1);
    const bool same_sides = given.normalization == Normalization::kSymmetric ||
                            given.normalization == Normalization::kNone;
    const bool potts = given.compatibility == Compatibility::kPotts;
    const bool constant = potts && !arguments_.varying;
    kernel.compatibility = potts ? Compatibility::kPerClass : given.compatibility;
    if (arguments_.direction == Direction::kForward) {
      const T attraction = constant ? *static_cast<const T*>(given.weights) : T(1);
      kernel.normalization = given.normalization;
      kernel.response *= attraction * kLog2E<T>;
      kernel.folded = constant && same_sides && attraction > T(0) && attraction < kMaxFolded;
      if (constant) kernel.compatibility = Compatibility::kPotts;
    } else {
      kernel.normalization = transposed(given.normalization);
      kernel.folded = same_sides;
    }
    all_folded_ = all_folded_ && kernel.folded;
    kernel.label_weight =
        padding_ + arguments_.stride * (1 + static_cast<int64_t>(k) * (arguments_.classes + 1));
    if (kernel.compatibility != Compatibility::kPotts && !arguments_.varying) {
      load_weights(k, given.weights);
    }
    prepare_buffers(k, kernel);
  }

  void prepare_buffers(int k, KernelState<T>& kernel) {
    // Buffers of one size start on huge pages, all at the same offset modulo 4096; staggered, their
    // rows do not compete for the same sets of the cache.
    const auto row_bytes =
        static_cast<size_t>(kernel.lattice.rows * arguments_.stride) * sizeof(T) + 8192;
    const size_t base = kKernels + static_cast<size_t>(k) * kBuffersPerKernel;
    const auto rows = [&](size_t which) {
      char* data = static_cast<char*>(workspace_.buffer(base + which).reserve(row_bytes, 0));
      return reinterpret_cast<T*>(data + (3 * static_cast<size_t>(k) + which) % 16 * 256);
    };
    kernel.from = rows(kRowsA);
    kernel.to = rows(kRowsB);
    const auto points = static_cast<size_t>(padded_points());
    const size_t records = points * static_cast<size_t>(kernel.lattice.vertices_per_point);
    kernel.offset = static_cast<uint32_t*>(
        workspace_.buffer(base + kOffsets).reserve(records * sizeof(uint32_t), 0));
    kernel.weight =
        static_cast<T*>(workspace_.buffer(base + kWeights).reserve(records * sizeof(T), 0));
    kernel.scale = nullptr;
    if (!kernel.folded) {
      kernel.scale =
          static_cast<T*>(workspace_.buffer(base + kScale).reserve(points * sizeof(T), 0));
    }
  }

  // The offsets of a band's rows fit 32 bits: at most 32 GiB of them.
  void require_addressable(const LatticeView<T>& lattice) const {
    const auto row_units = static_cast<uint64_t>(arguments_.stride) * sizeof(T) / kOffsetUnit;
    for (int band = 0; band < lattice.bands; ++band) {
      const auto rows = static_cast<uint64_t>(lattice.row_base[band + 1] - lattice.row_base[band]);
      if (rows * row_units > 0xffffffffu) cpu::fail_too_many_vertices(static_cast<int64_t>(rows));
    }
  }

  // The spans between the band limits of all lattices.
  void cut_spans() {
    if (arguments_.kernel_count == 0) {
      spans_[span_count_++] = {0, blocks_};
      return;
    }
    int64_t at = 0;
    while (at < blocks_) {
      int64_t next = blocks_;
      for (int k = 0; k < arguments_.kernel_count; ++k) {
        const LatticeView<T>& lattice = kernels_[k].lattice;
        const int64_t end = lattice.first_block[band_of(lattice, at) + 1];
        same_bands_ = same_bands_ && (k == 0 || end == next);
        next = end < next ? end : next;
      }
      spans_[span_count_++] = {at, next};
      at = next;
    }
  }

  static int band_of(const LatticeView<T>& lattice, int64_t block) {
    int band = 0;
    while (block >= lattice.first_block[band + 1]) ++band;
    return band;
  }

  const PlanArguments arguments_;
  const cpu::Executor& executor_;
  cpu::Workspace& workspace_;
  int64_t blocks_;
  bool all_folded_ = true;
  bool image_crf_ = false;
  bool same_bands_ = true;
  int span_count_ = 0;
  size_t scratch_size_ = 0;
  T* scratch_ = nullptr;
  T* padding_ = nullptr;
  KernelState<T>* kernels_ = nullptr;
  Span* spans_ = nullptr;
  PassKernel<T>* pass_kernels_ = nullptr;
  FoldKernel<T>* fold_kernels_ = nullptr;
};

// Calls run<T, kWidth>(): rows of up to 32 float labels have code of their own (see label_stride).
template <typename Run>
void with_row_width(Scalar scalar, int64_t classes, const Run& run) {
  if (scalar == Scalar::kFloat64) return run.template operator()<double, 0>();
  switch (label_stride(sizeof(float), classes)) {
    case 4:
      return run.template operator()<float, 4>();
    case 8:
      return run.template operator()<float, 8>();
    case 16:
      return run.template operator()<float, 16>();
    case 24:
      return run.template operator()<float, 24>();
    case 32:
      return run.template operator()<float, 32>();
    default:
      return run.template operator()<float, 0>();
  }
}

}  // namespace densecrf::inline DENSECRF_ISA
