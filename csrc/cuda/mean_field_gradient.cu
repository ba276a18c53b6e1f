// Backward of the mean field: from the gradient of the result to those of logits and weights,
// iteration by iteration, with the adjoint filter.
#include <vector>

#include "channels.h"
#include "gradient.h"
#include "lattice_pass.h"
#include "update.h"

namespace densecrf::cuda {

namespace {

constexpr int64_t kSumBlocks =
    256;  // of the sums over all points: their order is part of the result

template <typename T>
class MeanFieldGradient {
 public:
  MeanFieldGradient(const MeanFieldGradientArguments& arguments, const Context& context)
      : a_(arguments),
        context_(context),
        items_(arguments.images * arguments.tiles.tiles),
        blocks_(tile_blocks(items_, kTile)),
        chunks_(chunks_for<T>(arguments.classes)),
        stride_(chunks_ * kChunk<T>) {}

  void run() {
    const bool logarithm = a_.output == Output::kLogits;
    h_ = rows();
    g_ = rows();
    logits_ = rows();
    T* result = rows();
    load(a_.gradient, h_, false);
    load(a_.result, result, logarithm);
    add_lattices();
    const int64_t iterations = a_.iterations;
    const bool damped = a_.damping != 0.0;
    const T* after = result;
    for (int64_t i = iterations - 1; i >= 0; --i) {
      const T* before = state(i);
      differentiate(after, damped ? before : nullptr, logarithm && i + 1 == iterations,
                    i + 1 == iterations);
      go_back(i, before, damped);
      after = before;
    }
    differentiate(after, nullptr, logarithm && iterations == 0, iterations == 0);
    launch(context_.stream, emit_rows<T>, blocks_, kTile, logits_, stride_, a_.images, a_.tiles,
           a_.classes, false, failed_, a_.logit_gradient);
    write_weight_gradients();
  }

 private:
  // [images, tiles, 256, chunks]
  [[nodiscard]] T* rows() const { return context_.scratch<T>(items_ * kTile * stride_); }
  [[nodiscard]] const T* state(int64_t i) const {
    return static_cast<const T*>(a_.states) + i * items_ * kTile * stride_;
  }

  void load(const void* planes, T* to, bool exponentials) {
    launch(context_.stream, load_planes<T>, blocks_, kTile, static_cast<const T*>(planes), to,
           a_.images, a_.tiles, a_.classes, static_cast<int>(chunks_), exponentials);
  }

  void add_lattices() {
    const auto widest = static_cast<int>(std::min<int64_t>(chunks_, kWidest / kChunk<T>));
    for (int k = 0; k < a_.kernel_count; ++k) {
      if (passes_.empty() || passes_.back().is_full()) {
        passes_.emplace_back(context_, a_.images, a_.tiles, widest, true, nullptr);
      }
      passes_.back().add(a_.kernels[k].lattice, a_.kernels[k].normalization, T(1), nullptr);
      message_.push_back(rows());
    }
    failed_ = context_.scratch<int32_t>(1);
    set_bytes(context_.stream, failed_, 0, sizeof(int32_t));
    for (const LatticePass<T>& pass : passes_) {
      launch(context_.stream, note_failure<T>, 1, kWarp, pass.list(), failed_);
    }
    const int64_t entries = weight_sets() * a_.kernel_count;
    for (int64_t i = 0; i < entries; ++i) {
      const int64_t count = sums_of(static_cast<int>(i % a_.kernel_count)).count();
      total_.push_back(context_.scratch<double>(count));
      set_bytes(context_.stream, total_.back(), 0, static_cast<size_t>(count) * sizeof(double));
    }
    const int64_t most = a_.classes * a_.classes;
    if (a_.kernel_count > 0) partial_ = context_.scratch<double>(sum_blocks() * most);
  }

  // Iterations that have weights of their own.
  [[nodiscard]] int64_t weight_sets() const {
    return a_.iteration_weights == nullptr ? 1 : a_.iterations;
  }
  [[nodiscard]] int64_t weight_index(int k, int64_t iteration) const {
    return (a_.iteration_weights == nullptr ? 0 : iteration) * a_.kernel_count + k;
  }
  [[nodiscard]] const T* weights_of(int k, int64_t iteration) const {
    const void* weights = a_.iteration_weights == nullptr
                              ? a_.kernels[k].weights
                              : a_.iteration_weights[weight_index(k, iteration)];
    return static_cast<const T*>(weights);
  }
  [[nodiscard]] int64_t sum_blocks() const { return std::min(items_, kSumBlocks); }

  // Attraction enters the logits with a plus, penalties with a minus.
  [[nodiscard]] WeightSums sums_of(int k) const {
    const bool matrix = a_.kernels[k].compatibility == Compatibility::kMatrix;
    return {a_.classes, stride_, matrix, matrix ? -1.0 : 1.0};
  }

  // h_ becomes a H, g_ and the gradient of the logits are made from H.
  void differentiate(const T* after, const T* earlier, bool logarithm, bool fresh) {
    int lanes = 1;
    while (lanes < kWarp && lanes < a_.classes) lanes *= 2;
    const int64_t points = items_ * kTile;
    launch(context_.stream, differentiate_softmax<T>, grid_blocks(points, kTile / lanes, kTile),
           kTile,
           SoftmaxGradient<T>{h_, after, earlier, g_, logits_, points, a_.classes, stride_,
                              static_cast<T>(a_.damping), logarithm, fresh},
           lanes);
  }

  // From g_ of iteration i to H of the one before, and the gradients of its weights.
  void go_back(int64_t i, const T* q, bool damped) {
    const int64_t widest = std::min<int64_t>(chunks_, kWidest / kChunk<T>);
    for (int64_t first = 0; first < chunks_; first += widest) {
      int k = 0;
      for (LatticePass<T>& pass : passes_) {
        pass.set_chunks(static_cast<int>(std::min(widest, chunks_ - first)));
        pass.filter(g_, chunks_, first);
        // Messages alone are wanted: what `logits` gets is h_ as it was.
        MessageTargets<T> targets{h_, h_, chunks_, first, a_.classes, {}, {}, {}};
        for (int j = 0; j < pass.list().count; ++j, ++k) targets.message[j] = message_[k];
        launch(context_.stream, slice_messages<T>, blocks_, kTile, pass.list(), targets);
      }
    }
    const int64_t points = items_ * kTile;
    if (!damped) {
      set_bytes(context_.stream, h_, 0, static_cast<size_t>(points * stride_) * sizeof(T));
    }
    for (int k = 0; k < a_.kernel_count; ++k) {
      const WeightSums sums = sums_of(k);
      const int64_t blocks = grid_blocks(points * a_.classes, kTile, kTile);
      if (sums.matrix) {
        // sum_o penalty[o, c] m[o]: the matrix itself is the transposed of its transposed.
        launch(context_.stream, add_penalties<T>, blocks, kTile, weights_of(k, i), message_[k], h_,
               points, a_.classes, stride_, nullptr);
      } else {
        const int step = a_.kernels[k].compatibility == Compatibility::kPerClass ? 1 : 0;
        launch(context_.stream, add_attraction<T>, blocks, kTile, message_[k], weights_of(k, i),
               step, h_, points, a_.classes, stride_, true);
      }
      launch(context_.stream, sum_products<T>, sum_blocks(), kTile, message_[k], q, items_, sums,
             partial_);
      launch(context_.stream, add_sums<T>, grid_blocks(sums.count(), kTile / kWarp, kTile), kTile,
             partial_, sum_blocks(), sums, total_[weight_index(k, i)]);
    }
  }

  void write_weight_gradients() {
    for (size_t i = 0; i < total_.size(); ++i) {
      const int k = static_cast<int>(i % a_.kernel_count);
      launch(context_.stream, write_weights<T>, 1, kTile, total_[i], sums_of(k).count(),
             a_.kernels[k].compatibility == Compatibility::kPotts, failed_,
             static_cast<T*>(a_.weight_gradients[i]));
    }
  }

  const MeanFieldGradientArguments& a_;
  const Context& context_;
  int64_t items_;  // tiles of all images
  int64_t blocks_;
  int64_t chunks_;
  int64_t stride_;  // of a row, in T
  T* h_ = nullptr;
  T* g_ = nullptr;
  T* logits_ = nullptr;
  std::vector<LatticePass<T>> passes_;
  std::vector<T*> message_;  // of every kernel
  std::vector<double*> total_;
  double* partial_ = nullptr;
  int32_t* failed_ = nullptr;
};

}  // namespace

void mean_field_gradient(Scalar scalar, const MeanFieldGradientArguments& arguments,
                         const Context& context) {
  if (scalar == Scalar::kFloat32) {
    MeanFieldGradient<float>(arguments, context).run();
  } else {
    MeanFieldGradient<double>(arguments, context).run();
  }
}

}  // namespace densecrf::cuda
