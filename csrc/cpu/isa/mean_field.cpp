// Mean-field inference (Kraehenbuehl and Koltun 2011, algorithm 1) over built lattices. Compiled
// once per instruction set, with contraction of a*b+c.
//
//   Q <- softmax(logits);  repeat: Q <- softmax(logits - sum_k C_k(F_k(Q)))
#include "../folded_pass.h"
#include "../general_pass.h"
#include "../plan.h"
#include "tier.h"

namespace densecrf::inline DENSECRF_ISA {

namespace {

// Numbers of the workspace's buffers.
enum : size_t { kUnary, kKept, kKeptLog, kChanges };

// One inference; with states, one that backward can follow.
template <typename T, int kWidth>
class MeanField {
 public:
  MeanField(const cpu::MeanFieldArguments& arguments, const cpu::Executor& executor)
      : arguments_(arguments),
        stride_(label_stride(sizeof(T), arguments.classes)),
        plan_({arguments.points, arguments.classes, stride_, arguments.kernels,
               arguments.kernel_count, Direction::kForward, arguments.iteration_weights != nullptr},
              executor, workspace_),
        keeps_(arguments.damping != 0.0 || arguments.tolerance > 0.0 || arguments.iterations == 0 ||
               arguments.kernel_count == 0),
        pass_{} {
    pass_.points = arguments.points;
    pass_.classes = arguments.classes;
    pass_.stride = stride_;
    pass_.padding = plan_.padding();
    pass_.damping = static_cast<T>(arguments.damping);
    pass_.output = arguments.output;
    pass_.result = arguments.result;
    pass_.unary = plan_.point_rows(kUnary);
    if (keeps_) pass_.kept = plan_.point_rows(kKept);
    if (keeps_ && arguments.output == Output::kLogits) {
      pass_.kept_log = plan_.point_rows(kKeptLog);
    }
    changes_ = static_cast<T*>(workspace_.buffer(kChanges).reserve(
        static_cast<size_t>(plan_.span_count()) * sizeof(T), 0));
  }

  void run() {
    pass_.state = state(0);
    prepare();
    for (int64_t i = 0; i < arguments_.iterations; ++i) {
      plan_.blur_all();
      pass_.state = state(i + 1);
      for (int k = 0; arguments_.iteration_weights != nullptr && k < arguments_.kernel_count; ++k) {
        plan_.load_weights(k, arguments_.iteration_weights[i * arguments_.kernel_count + k]);
      }
      const bool last = i + 1 == arguments_.iterations;
      if (is_folded()) {
        last ? update_folded<false>() : update_folded<true>();
      } else {
        const T change = last ? update_general<false>() : update_general<true>();
        if (static_cast<double>(change) < arguments_.tolerance) break;
      }
    }
    if (!keeps_) return;
    plan_.for_each_span([&](int, Span span, T* scratch) {
      write_kept<T>(pass_, span.first_point(), span.groups(), scratch);
    });
  }

 private:
  bool is_folded() const { return plan_.all_folded() && !keeps_; }

  // Where the Q before iteration i is to be kept, if anywhere.
  T* state(int64_t i) const {
    if (arguments_.states == nullptr || i >= arguments_.iterations) return nullptr;
    return static_cast<T*>(arguments_.states) + i * plan_.padded_points() * stride_;
  }

  void prepare() {
    const T* logits = static_cast<const T*>(arguments_.logits);
    plan_.for_each_span([&](int index, Span span, T* scratch) {
      const Segment<T> here = plan_.segment(index, span);
      const FoldKernel<T>* fold = plan_.folds(index, span);
      if (!is_folded()) {
        general_init_pass<T, kWidth>(pass_, here, fold, logits, arguments_.iterations > 0, scratch);
      } else if (plan_.is_image_crf()) {
        folded_init_pass<T, kWidth, 3, 6>(pass_, here, fold, logits, scratch);
      } else {
        folded_init_pass<T, kWidth, 0, 0>(pass_, here, fold, logits, scratch);
      }
    });
  }

  template <bool kSplat>
  void update_folded() {
    plan_.for_each_span([&](int index, Span span, T* scratch) {
      const Segment<T> here = plan_.segment(index, span);
      if (plan_.is_image_crf()) {
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
    plan_.for_each_span([&](int index, Span span, T* scratch) {
      changes_[index] = general_pass<T, kWidth, kSplat>(pass_, plan_.segment(index, span), scratch);
    });
    T change = T(0);
    for (int s = 0; s < plan_.span_count(); ++s)
      change = changes_[s] > change ? changes_[s] : change;
    return change;
  }

  const cpu::MeanFieldArguments& arguments_;
  cpu::Workspace workspace_;
  int64_t stride_;
  Plan<T, kWidth> plan_;
  bool keeps_;
  PassArguments<T> pass_;
  T* changes_ = nullptr;
};

}  // namespace

void mean_field(Scalar scalar, const cpu::MeanFieldArguments& arguments,
                const cpu::Executor& executor) {
  with_row_width(scalar, arguments.classes, [&]<typename T, int kWidth>() {
    MeanField<T, kWidth>(arguments, executor).run();
  });
}

}  // namespace densecrf::inline DENSECRF_ISA
