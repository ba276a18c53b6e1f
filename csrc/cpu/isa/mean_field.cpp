// Mean-field inference (Kraehenbuehl and Koltun 2011, algorithm 1) over built lattices. Compiled
// once per instruction set, with contraction of a*b+c.
//
//   Q <- softmax(logits);  repeat: Q <- softmax(logits - sum_k C_k(F_k(Q)))
#include "../blur.h"
#include "../folded_pass.h"
#include "../general_pass.h"
#include "../memory.h"
#include "tier.h"

namespace densecrf::inline DENSECRF_ISA {

namespace {

// Numbers of the workspace's buffers; those of a kernel follow one another from kKernels on.
enum : size_t { kUnary, kKept, kKeptLog, kScratch, kLists, kKernels };
enum : size_t { kRowsA, kRowsB, kOffsets, kWeights, kScale, kBuffersPerKernel };

template <typename T>
struct KernelState {
  LatticeView<T> lattice;
  cpu::Normalization normalization;
  cpu::Compatibility compatibility;
  bool folded;
  T attraction;
  T alpha;
  T* from;  // [rows, stride]: splatted, then blurred in place and sliced
  T* to;    // [rows, stride]: splatted into meanwhile
  uint32_t* offset;
  T* weight;
  T* scale;
  const T* label_weight;
};

// Points [first_block, last_block) * 64, in one band of every lattice.
struct Span {
  int64_t first_block;
  int64_t last_block;
};

// One inference. Spans that no two tasks share rows in are tasks of their own; lattices built with
// different thread counts overlap in other ways and are then passed by one task.
template <typename T, int kWidth>
class MeanField {
  // Above it, logits leave the range of the fast exponential.
  static constexpr T kMaxFolded = T(1e6);

 public:
  MeanField(const cpu::MeanFieldArguments& arguments, const cpu::Executor& executor, int64_t stride)
      : arguments_(arguments),
        executor_(executor),
        blocks_((arguments.points + kBlock - 1) / kBlock),
        keeps_(arguments.damping != 0.0 || arguments.tolerance > 0.0 || arguments.iterations == 0 ||
               arguments.kernel_count == 0),
        pass_{} {
    pass_.points = arguments.points;
    pass_.classes = arguments.classes;
    pass_.stride = stride;
    pass_.damping = static_cast<T>(arguments.damping);
    pass_.output = arguments.output;
    pass_.result = arguments.result;
    allocate();
    for (int k = 0; k < arguments.kernel_count; ++k) prepare_kernel(k);
    image_crf_ = kWidth > 0 && arguments.kernel_count == 2 &&
                 kernels_[0].lattice.vertices_per_point == 3 &&
                 kernels_[1].lattice.vertices_per_point == 6;
    cut_spans();
  }

  void run() {
    const T* logits = static_cast<const T*>(arguments_.logits);
    for_each_span([&](int task, Span span, T* scratch) {
      const Segment<T> here = segment(task, span);
      const FoldKernel<T>* fold = folds(task, span);
      if (!is_folded()) {
        general_init_pass<T, kWidth>(pass_, here, fold, logits, arguments_.iterations > 0, scratch);
      } else if (image_crf_) {
        folded_init_pass<T, kWidth, 3, 6>(pass_, here, fold, logits, scratch);
      } else {
        folded_init_pass<T, kWidth, 0, 0>(pass_, here, fold, logits, scratch);
      }
    });
    for (int64_t i = 0; i < arguments_.iterations; ++i) {
      blur_all();
      const bool last = i + 1 == arguments_.iterations;
      if (is_folded()) {
        last ? update_folded<false>() : update_folded<true>();
      } else {
        const T change = last ? update_general<false>() : update_general<true>();
        if (static_cast<double>(change) < arguments_.tolerance) break;
      }
    }
    if (!keeps_) return;
    for_each_span([&](int, Span span, T* scratch) {
      write_kept<T>(pass_, span.first_block * kBlock, groups(span), scratch);
    });
  }

 private:
  bool is_folded() const { return all_folded_ && !keeps_; }

  static int64_t groups(Span span) {
    return (span.last_block - span.first_block) * (kBlock / kGroup);
  }

  void allocate() {
    const auto padded = static_cast<size_t>(blocks_) * kBlock * pass_.stride;
    // A pass prefetches beyond the end.
    const size_t bytes = padded * sizeof(T) + 4096;
    pass_.unary = static_cast<T*>(workspace_.buffer(kUnary).reserve(bytes, 0));
    if (keeps_) pass_.kept = static_cast<T*>(workspace_.buffer(kKept).reserve(bytes, 0));
    if (keeps_ && arguments_.output == cpu::Output::kLogits) {
      pass_.kept_log = static_cast<T*>(workspace_.buffer(kKeptLog).reserve(bytes, 0));
    }
    const auto kernels = static_cast<size_t>(arguments_.kernel_count);
    const size_t spans = span_bound();
    scratch_size_ = static_cast<size_t>(Labels<T, kWidth>::scratch(pass_.stride)) + 64;
    scratch_ =
        static_cast<T*>(workspace_.buffer(kScratch).reserve(scratch_size_ * spans * sizeof(T), 0));
    const size_t label_weights =
        (1 + kernels * static_cast<size_t>(arguments_.classes + 1)) * pass_.stride * sizeof(T);
    char* lists = static_cast<char*>(workspace_.buffer(kLists).reserve(
        label_weights + kernels * sizeof(KernelState<T>) + spans * (sizeof(Span) + sizeof(T)) +
            spans * kernels * (sizeof(PassKernel<T>) + sizeof(FoldKernel<T>)) + 256,
        0));
    T* padding = reinterpret_cast<T*>(lists);
    for (int64_t c = 0; c < pass_.stride; ++c) {
      padding[c] = c < pass_.classes ? T(0) : kPadding<T>;
    }
    pass_.padding = padding;
    label_weights_ = padding + pass_.stride;
    kernels_ = reinterpret_cast<KernelState<T>*>(lists + label_weights);
    spans_ = reinterpret_cast<Span*>(kernels_ + kernels);
    pass_kernels_ = reinterpret_cast<PassKernel<T>*>(spans_ + spans);
    fold_kernels_ = reinterpret_cast<FoldKernel<T>*>(pass_kernels_ + spans * kernels);
    changes_ = reinterpret_cast<T*>(fold_kernels_ + spans * kernels);
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
    kernel.normalization = given.normalization;
    kernel.compatibility = given.compatibility;
    kernel.alpha = response_scale<T>(kernel.lattice.vertices_per_point - 1);
    const T* weights = static_cast<const T*>(given.weights);
    const bool potts = given.compatibility == cpu::Compatibility::kPotts;
    kernel.attraction = potts ? weights[0] : T(1);
    kernel.folded = potts && kernel.attraction > T(0) && kernel.attraction < kMaxFolded &&
                    (given.normalization == cpu::Normalization::kSymmetric ||
                     given.normalization == cpu::Normalization::kNone);
    all_folded_ = all_folded_ && kernel.folded;
    require_addressable(kernel.lattice);
    kernel.label_weight = potts ? nullptr : prepare_label_weights(k, given);

    // Buffers of one size start on huge pages, all at the same offset modulo 4096; staggered, their
    // rows do not compete for the same sets of the cache.
    const auto row_bytes =
        static_cast<size_t>(kernel.lattice.rows) * pass_.stride * sizeof(T) + 8192;
    const size_t base = kKernels + static_cast<size_t>(k) * kBuffersPerKernel;
    const auto rows = [&](size_t which) {
      char* data = static_cast<char*>(workspace_.buffer(base + which).reserve(row_bytes, 0));
      return reinterpret_cast<T*>(data + (3 * static_cast<size_t>(k) + which) % 16 * 256);
    };
    kernel.from = rows(kRowsA);
    kernel.to = rows(kRowsB);
    const size_t points = static_cast<size_t>(blocks_) * kBlock;
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
    const auto row_units = static_cast<uint64_t>(pass_.stride) * sizeof(T) / kOffsetUnit;
    for (int band = 0; band < lattice.bands; ++band) {
      const auto rows = static_cast<uint64_t>(lattice.row_base[band + 1] - lattice.row_base[band]);
      if (rows * row_units > 0xffffffffu) cpu::fail_too_many_vertices(static_cast<int64_t>(rows));
    }
  }

  // Per class [stride], or minus the penalty matrix by columns [classes, stride].
  const T* prepare_label_weights(int k, const cpu::Kernel& given) {
    const int64_t classes = arguments_.classes;
    const T* from = static_cast<const T*>(given.weights);
    T* to = label_weights_ + static_cast<int64_t>(k) * (classes + 1) * pass_.stride;
    const bool matrix = given.compatibility == cpu::Compatibility::kMatrix;
    const int64_t columns = matrix ? classes : 1;
    __builtin_memset(to, 0, static_cast<size_t>(columns * pass_.stride) * sizeof(T));
    for (int64_t column = 0; column < columns; ++column) {
      for (int64_t c = 0; c < classes; ++c) {
        to[column * pass_.stride + c] = matrix ? -from[c * classes + column] : from[c];
      }
    }
    return to;
  }

  // The spans between the band limits of all lattices.
  void cut_spans() {
    int64_t at = 0;
    same_bands_ = true;
    if (arguments_.kernel_count == 0) {
      spans_[span_count_++] = {0, blocks_};
      return;
    }
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

  template <typename Body>
  void for_each_span(const Body& body) {
    const int tasks = same_bands_ ? static_cast<int>(span_count_) : 1;
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
      const int64_t point = span.first_block * kBlock;
      const int64_t record = point * lattice.vertices_per_point;
      const int64_t base = lattice.row_base[band] * pass_.stride;
      list[k] = {kernel.offset + record,
                 kernel.weight + record,
                 kernel.scale == nullptr ? nullptr : kernel.scale + point,
                 kernel.from + base,
                 kernel.to + base,
                 lattice.first_rows + span.first_block + band,
                 lattice.vertices_per_point,
                 kernel.compatibility,
                 kernel.label_weight};
    }
    return {span.first_block * kBlock, groups(span), list, arguments_.kernel_count};
  }

  const FoldKernel<T>* folds(int index, Span span) {
    FoldKernel<T>* list = fold_kernels_ + static_cast<int64_t>(index) * arguments_.kernel_count;
    for (int k = 0; k < arguments_.kernel_count; ++k) {
      const KernelState<T>& kernel = kernels_[k];
      const LatticeView<T>& lattice = kernel.lattice;
      const int band = band_of(lattice, span.first_block);
      const int64_t point = span.first_block * kBlock;
      const int64_t record = point * lattice.vertices_per_point;
      list[k] = {lattice.row + record,
                 kernel.offset + record,
                 lattice.weight + record,
                 lattice.ones + lattice.row_base[band],
                 kernel.weight + record,
                 kernel.scale == nullptr ? nullptr : kernel.scale + point,
                 lattice.vertices_per_point,
                 kernel.normalization,
                 kernel.folded,
                 kernel.alpha,
                 kernel.attraction};
    }
    return list;
  }

  // Exchanges the roles of both buffers, then blurs what was splatted.
  void blur_all() {
    for (int k = 0; k < arguments_.kernel_count; ++k) {
      KernelState<T>& kernel = kernels_[k];
      T* splatted = kernel.to;
      kernel.to = kernel.from;
      kernel.from = splatted;
      constexpr int kChunk = Labels<T, kWidth>::kChunk;
      for (int64_t c = 0; c < pass_.stride; c += kChunk) {
        blur<T, kChunk>(kernel.lattice, kernel.from + c, pass_.stride, false, executor_);
      }
    }
  }

  template <bool kSplat>
  void update_folded() {
    for_each_span([&](int task, Span span, T* scratch) {
      const Segment<T> here = segment(task, span);
      if (image_crf_) {
        kSplat ? folded_pass<T, kWidth, 3, 6>(pass_, here, scratch)
               : folded_last_pass<T, kWidth, 3, 6>(pass_, here, scratch);
      } else {
        kSplat ? folded_pass<T, kWidth, 0, 0>(pass_, here, scratch)
               : folded_last_pass<T, kWidth, 0, 0>(pass_, here, scratch);
      }
    });
  }

  template <bool kSplat>
  T update_general() {
    for_each_span([&](int task, Span span, T* scratch) {
      changes_[task] = general_pass<T, kWidth, kSplat>(pass_, segment(task, span), scratch);
    });
    T change = T(0);
    for (int s = 0; s < span_count_; ++s) change = changes_[s] > change ? changes_[s] : change;
    return change;
  }

  const cpu::MeanFieldArguments& arguments_;
  const cpu::Executor& executor_;
  cpu::Workspace workspace_;
  int64_t blocks_;
  bool keeps_;
  PassArguments<T> pass_;
  bool all_folded_ = true;
  bool image_crf_ = false;  // a Gaussian kernel and a bilateral one of three channels
  bool same_bands_ = true;
  int span_count_ = 0;
  size_t scratch_size_ = 0;
  T* scratch_ = nullptr;
  T* label_weights_ = nullptr;
  KernelState<T>* kernels_ = nullptr;
  Span* spans_ = nullptr;
  PassKernel<T>* pass_kernels_ = nullptr;
  FoldKernel<T>* fold_kernels_ = nullptr;
  T* changes_ = nullptr;
};

template <typename T, int kWidth>
void run(const cpu::MeanFieldArguments& arguments, const cpu::Executor& executor) {
  constexpr int64_t kUnit = Labels<T, kWidth>::kChunk;
  MeanField<T, kWidth>(arguments, executor, (arguments.classes + kUnit - 1) / kUnit * kUnit).run();
}

}  // namespace

void mean_field(cpu::Scalar scalar, const cpu::MeanFieldArguments& arguments,
                const cpu::Executor& executor) {
  if (scalar == cpu::Scalar::kFloat64) return run<double, 0>(arguments, executor);
  if (arguments.classes <= 4) return run<float, 4>(arguments, executor);
  if (arguments.classes <= 8) return run<float, 8>(arguments, executor);
  if (arguments.classes <= 16) return run<float, 16>(arguments, executor);
  if (arguments.classes <= 24) return run<float, 24>(arguments, executor);
  if (arguments.classes <= 32) return run<float, 32>(arguments, executor);
  run<float, 0>(arguments, executor);
}

}  // namespace densecrf::inline DENSECRF_ISA
