// The gradients of a mean field with respect to its logits and weights. Compiled once per
// instruction set, with contraction of a*b+c.
//
// One pass over the points for every iteration, from the last to the first, as in inference; see
// gradient_pass.h for the mathematics. Q of every iteration comes from the states inference left.
#include "../general_pass.h"
#include "../gradient_pass.h"
#include "../plan.h"
#include "tier.h"

namespace densecrf::inline DENSECRF_ISA {

namespace {

// Numbers of the workspace's buffers.
enum : size_t { kTotal, kCarry, kGroupSums, kTotalSums, kSumList };

template <typename T, int kWidth>
class MeanFieldGradient {
 public:
  MeanFieldGradient(const cpu::MeanFieldGradientArguments& arguments, const cpu::Executor& executor)
      : arguments_(arguments),
        stride_(label_stride(sizeof(T), arguments.classes)),
        plan_(
            {arguments.points, arguments.classes, stride_, arguments.kernels,
             arguments.kernel_count, Direction::kBackward, arguments.iteration_weights != nullptr},
            executor, workspace_),
        pass_{} {
    pass_.common.points = arguments.points;
    pass_.common.classes = arguments.classes;
    pass_.common.stride = stride_;
    pass_.common.output = arguments.output;
    pass_.common.result = arguments.logit_gradient;
    pass_.damping = static_cast<T>(arguments.damping);
    pass_.total = plan_.point_rows(kTotal);
    if (arguments.damping != 0.0 && arguments.iterations > 0)
      pass_.carry = plan_.point_rows(kCarry);
    allocate_sums();
  }

  void run() {
    const int64_t iterations = arguments_.iterations;
    pass_.earlier = pass_.carry == nullptr ? nullptr : state(iterations - 1);
    prepare();
    pass_.common.output = Output::kProbabilities;  // what follows writes numbers
    for (int64_t i = iterations - 1; i >= 0; --i) {
      plan_.blur_all();
      for (int k = 0; arguments_.iteration_weights != nullptr && k < arguments_.kernel_count; ++k) {
        plan_.load_weights(k, arguments_.iteration_weights[i * arguments_.kernel_count + k]);
      }
      pass_.q = state(i);
      pass_.earlier = pass_.carry == nullptr || i == 0 ? nullptr : state(i - 1);
      i > 0 ? update<true>() : update<false>();
      hand_out_sums(i);
    }
  }

 private:
  const T* state(int64_t i) const {
    return static_cast<const T*>(arguments_.states) + i * plan_.padded_points() * stride_;
  }

  void prepare() {
    const T* gradient = static_cast<const T*>(arguments_.gradient);
    const T* result = static_cast<const T*>(arguments_.result);
    plan_.for_each_span([&](int index, Span span, T* scratch) {
      const Segment<T> here = plan_.segment(index, span);
      const FoldKernel<T>* fold = plan_.folds(index, span);
      if (arguments_.iterations > 0) {
        gradient_init_pass<T, kWidth, true>(pass_, here, fold, gradient, result, scratch);
      } else {
        gradient_init_pass<T, kWidth, false>(pass_, here, fold, gradient, result, scratch);
      }
    });
  }

  template <bool kSplat>
  void update() {
    plan_.for_each_span([&](int index, Span span, T* scratch) {
      const Segment<T> here = plan_.segment(index, span);
      const WeightSums<T>* sums = sums_ + static_cast<int64_t>(index) * arguments_.kernel_count;
      if (plan_.is_image_crf()) {
        gradient_pass<T, kWidth, 3, 6, kSplat>(pass_, here, sums, scratch);
      } else {
        gradient_pass<T, kWidth, 0, 0, kSplat>(pass_, here, sums, scratch);
      }
    });
  }

  int64_t sum_count(int k) const {
    const bool matrix = plan_.compatibility(k) == Compatibility::kMatrix;
    return matrix ? arguments_.classes * stride_ : stride_;
  }

  void allocate_sums() {
    int64_t count = 0;
    for (int k = 0; k < arguments_.kernel_count; ++k) count += sum_count(k);
    const auto spans = static_cast<size_t>(plan_.span_count());
    const size_t all = static_cast<size_t>(count) * spans;
    T* group = static_cast<T*>(workspace_.buffer(kGroupSums).reserve(all * sizeof(T), 0));
    auto* total =
        static_cast<double*>(workspace_.buffer(kTotalSums).reserve(all * sizeof(double), 0));
    __builtin_memset(group, 0, all * sizeof(T));
    __builtin_memset(total, 0, all * sizeof(double));
    const auto kernels = static_cast<size_t>(arguments_.kernel_count);
    sums_ = static_cast<WeightSums<T>*>(
        workspace_.buffer(kSumList).reserve(spans * kernels * sizeof(WeightSums<T>), 0));
    for (size_t s = 0; s < spans; ++s) {
      for (int k = 0; k < arguments_.kernel_count; ++k) {
        sums_[s * kernels + static_cast<size_t>(k)] = {group, total, sum_count(k)};
        group += sum_count(k);
        total += sum_count(k);
      }
    }
  }

  // Adds the spans' sums of iteration i, in their order, to the gradients of the weights.
  void hand_out_sums(int64_t i) {
    const int kernels = arguments_.kernel_count;
    for (int s = 0; s < plan_.span_count(); ++s) {
      for (int k = 0; k < kernels; ++k) {
        const int64_t entry = arguments_.iteration_weights != nullptr ? i * kernels + k : k;
        double* to = arguments_.weight_gradients[entry];
        double* total = sums_[s * kernels + k].total;
        const bool potts = arguments_.kernels[k].compatibility == Compatibility::kPotts;
        const int64_t rows = sum_count(k) / stride_;
        for (int64_t row = 0; row < rows; ++row) {
          for (int64_t c = 0; c < arguments_.classes; ++c) {
            to[potts ? 0 : row * arguments_.classes + c] += total[row * stride_ + c];
          }
        }
        __builtin_memset(total, 0, static_cast<size_t>(sum_count(k)) * sizeof(double));
      }
    }
  }

  const cpu::MeanFieldGradientArguments& arguments_;
  cpu::Workspace workspace_;
  int64_t stride_;
  Plan<T, kWidth> plan_;
  GradientPass<T> pass_;
  WeightSums<T>* sums_ = nullptr;  // [spans, kernels]
};

}  // namespace

void mean_field_gradient(Scalar scalar, const cpu::MeanFieldGradientArguments& arguments,
                         const cpu::Executor& executor) {
  with_row_width(scalar, arguments.classes, [&]<typename T, int kWidth>() {
    MeanFieldGradient<T, kWidth>(arguments, executor).run();
  });
}

}  // namespace densecrf::inline DENSECRF_ISA
