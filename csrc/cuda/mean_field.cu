// Mean-field inference (Kraehenbuehl and Koltun 2011, algorithm 1) over built lattices, without
// waiting for the device.
//
//   Q <- softmax(logits);  repeat: Q <- softmax(logits - sum_k C_k(F_k(Q)))
#include <vector>

#include "channels.h"
#include "fused_loop.h"
#include "fused_pass.h"
#include "lattice_pass.h"
#include "update.h"

namespace densecrf::cuda {

namespace {

// One block; before the first iteration: nothing has stopped.
__global__ void __launch_bounds__(kTile, kResident)
    start_convergence(const __grid_constant__ Convergence convergence, int64_t images) {
  for (int64_t b = threadIdx.x; b < images; b += kTile) {
    convergence.change[b] = 0;
    convergence.stopped[b] = 0;
  }
  if (threadIdx.x == 0) *convergence.running = static_cast<int32_t>(images);
}

// One block; after an iteration: images whose Q changed by less than the tolerance stop.
__global__ void __launch_bounds__(kTile, kResident)
    check_convergence(const __grid_constant__ Convergence convergence, int64_t images,
                      double tolerance) {
  for (int64_t b = threadIdx.x; b < images; b += kTile) {
    double change = 0.0;
    const unsigned long long bits = convergence.change[b];
    memcpy(&change, &bits, sizeof(change));
    convergence.change[b] = 0;
    if (convergence.stopped[b] == 0 && change < tolerance) {
      convergence.stopped[b] = 1;
      atomicAdd(convergence.running, -1);
    }
  }
}

template <typename T>
class MeanField {
 public:
  MeanField(const MeanFieldArguments& arguments, const Context& context)
      : a_(arguments),
        context_(context),
        tiles_(arguments.tiles),
        items_(arguments.images * arguments.tiles.tiles),
        blocks_(tile_blocks(items_, kTile)),
        keeps_(arguments.damping != 0.0 || arguments.tolerance > 0.0 || arguments.iterations == 0 ||
               arguments.kernel_count == 0) {
    const int64_t chunks = chunks_for<T>(a_.classes);
    const bool few = a_.kernel_count <= kListed && fused_width<T>(chunks) > 0;
    fused_ = few && !keeps_ && a_.states == nullptr && !has_matrix();
    chunks_ = fused_ ? fused_width<T>(chunks) : chunks;
  }

  void run() {
    unary_ = rows();
    launch(context_.stream, load_unaries<T>, blocks_, kTile, static_cast<const T*>(a_.logits),
           unary_, a_.images, tiles_, a_.classes, static_cast<int>(chunks_));
    if (a_.tolerance > 0.0) follow_convergence();
    add_lattices();
    fused_ ? run_fused_passes() : run_general();
  }

 private:
  [[nodiscard]] bool has_matrix() const {
    return std::any_of(a_.kernels, a_.kernels + a_.kernel_count, [](const Kernel& kernel) {
      return kernel.compatibility == Compatibility::kMatrix;
    });
  }

  // [images, tiles, 256, chunks]
  [[nodiscard]] T* rows() const {
    return context_.scratch<T>(items_ * kTile * chunks_ * kChunk<T>);
  }

  void add_lattices() {
    const auto widest = static_cast<int>(std::min<int64_t>(chunks_, kWidest / kChunk<T>));
    for (int k = 0; k < a_.kernel_count; ++k) {
      if (passes_.empty() || passes_.back().is_full()) {
        passes_.emplace_back(context_, a_.images, tiles_, widest, false, convergence_.running);
      }
      const Kernel& kernel = a_.kernels[k];
      // The general way multiplies by the weights of the iteration.
      const bool potts = fused_ && kernel.compatibility == Compatibility::kPotts;
      passes_.back().add(kernel.lattice, kernel.normalization, kLog2E<T>,
                         potts ? static_cast<const T*>(kernel.weights) : nullptr);
    }
  }

  [[nodiscard]] const T* per_class(int k) const {
    const Kernel& kernel = a_.kernels[k];
    if (kernel.compatibility != Compatibility::kPerClass) return nullptr;
    return static_cast<const T*>(kernel.weights);
  }

  [[nodiscard]] const T* weights_of(int k, int64_t iteration) const {
    const void* weights = a_.iteration_weights == nullptr
                              ? a_.kernels[k].weights
                              : a_.iteration_weights[iteration * a_.kernel_count + k];
    return static_cast<const T*>(weights);
  }

  // A pass over the points, and a blur, for every iteration.
  void run_fused_passes() {
    FusedArguments<T> fused{unary_, a_.classes, {}, a_.output, a_.result};
    for (int k = 0; k < a_.kernel_count; ++k) fused.per_class[k] = per_class(k);
    LatticePass<T>& pass = passes_.front();
    if (a_.loop != Loop::kLaunches && run_loop(pass, fused)) return;
    pass.set_round(1);
    run_fused(context_, Stage::kFirst, pass.list(), fused);
    for (int64_t i = 1; i <= a_.iterations; ++i) {
      pass.set_round(static_cast<int>((i + 1) % 2));
      pass.blur();
      run_fused(context_, i < a_.iterations ? Stage::kMiddle : Stage::kLast, pass.list(), fused);
    }
  }

  // Whether all iterations have been launched as one.
  bool run_loop(const LatticePass<T>& pass, const FusedArguments<T>& fused) const {
    const bool always = a_.loop == Loop::kCooperative;
    const bool done = with_fused_width<T>(pass.list().chunks, [&]<int kWidth>() {
      return launch_loop<T, kWidth>(context_, pass.list(), fused, a_.iterations, pass.steps(),
                                    always);
    });
    if (always && !done) throw std::runtime_error("CUDA: this device has no cooperative launches");
    return done;
  }

  void follow_convergence() {
    convergence_.change = context_.scratch<unsigned long long>(a_.images);
    convergence_.stopped = context_.scratch<int32_t>(a_.images);
    convergence_.running = context_.scratch<int32_t>(1);
    launch(context_.stream, start_convergence, 1, kTile, convergence_, a_.images);
  }

  void run_general() {
    const int64_t iterations = a_.iterations;
    logits_ = rows();
    T* const own = rows();
    if (keeps_ && a_.output == Output::kLogits) log_q_ = rows();
    for (int k = 0; k < a_.kernel_count; ++k) {
      const bool matrix = a_.kernels[k].compatibility == Compatibility::kMatrix;
      penalty_.push_back(matrix ? context_.scratch<T>(a_.classes * a_.classes) : nullptr);
      message_.push_back(matrix ? rows() : nullptr);
    }
    // Q before iteration i; without states one place holds them all.
    const auto q_before = [&](int64_t i) {
      const bool stays = a_.states != nullptr && i < iterations;
      return stays ? static_cast<T*>(a_.states) + i * items_ * kTile * chunks_ * kChunk<T> : own;
    };
    T* q = q_before(0);
    update(unary_, q, q, 0.0, false, {});
    for (int64_t i = 0; i < iterations; ++i) {
      const T* old = q;
      q = q_before(i + 1);
      compute_logits(old, i);
      const bool last = !keeps_ && i + 1 == iterations;
      if (last && a_.output == Output::kLabels) return emit(logits_);
      update(logits_, old, q, a_.damping, last && a_.output == Output::kLogits, convergence_);
      if (a_.tolerance > 0.0) {
        launch(context_.stream, check_convergence, 1, kTile, convergence_, a_.images, a_.tolerance);
      }
    }
    emit(log_q_ != nullptr ? log_q_ : q);
  }

  // logits_ <- unary_ - sum_k C_k(F_k(q)), a block of labels after another.
  void compute_logits(const T* q, int64_t iteration) {
    if (passes_.empty()) {
      return copy_bytes(context_.stream, logits_, unary_,
                        static_cast<size_t>(items_ * kTile * chunks_) * sizeof(Chunk<T>));
    }
    const int64_t widest = std::min<int64_t>(chunks_, kWidest / kChunk<T>);
    for (int64_t first = 0; first < chunks_; first += widest) {
      const T* from = unary_;
      int k = 0;
      for (LatticePass<T>& pass : passes_) {
        pass.set_chunks(static_cast<int>(std::min(widest, chunks_ - first)));
        pass.filter(q, chunks_, first);
        MessageTargets<T> targets{from, logits_, chunks_, first, a_.classes, {}, {}, {}};
        for (int i = 0; i < pass.list().count; ++i, ++k) {
          targets.message[i] = message_[k];
          targets.factor[i] = message_[k] == nullptr ? weights_of(k, iteration) : nullptr;
          targets.factor_step[i] = per_class(k) != nullptr ? 1 : 0;
        }
        launch(context_.stream, slice_messages<T>, blocks_, kTile, pass.list(), targets);
        from = logits_;
      }
    }
    add_all_penalties(iteration);
  }

  void add_all_penalties(int64_t iteration) {
    const int64_t points = items_ * kTile;
    for (int k = 0; k < a_.kernel_count; ++k) {
      if (penalty_[k] == nullptr) continue;
      if (iteration == 0 || a_.iteration_weights != nullptr) {
        launch(context_.stream, transpose_matrix<T>,
               grid_blocks(a_.classes * a_.classes, kTile, kTile), kTile, weights_of(k, iteration),
               penalty_[k], a_.classes);
      }
      launch(context_.stream, add_penalties<T>, grid_blocks(points * a_.classes, kTile, kTile),
             kTile, penalty_[k], message_[k], logits_, points, a_.classes, chunks_ * kChunk<T>,
             convergence_.running);
    }
  }

  // Q from logits and the old Q.
  void update(const T* logits, const T* old, T* q, double damping, bool logarithm,
              const Convergence& convergence) {
    int lanes = 1;
    while (lanes < kWarp && lanes < a_.classes) lanes *= 2;
    launch(context_.stream, update_points<T>, blocks_, kTile,
           UpdateArguments<T>{logits, old, q, log_q_, a_.images, tiles_, a_.classes,
                              chunks_ * kChunk<T>, static_cast<T>(damping), logarithm, convergence},
           lanes);
  }

  void emit(const T* rows) {
    auto* failed = context_.scratch<int32_t>(1);
    set_bytes(context_.stream, failed, 0, sizeof(int32_t));
    for (const LatticePass<T>& pass : passes_) {
      launch(context_.stream, note_failure<T>, 1, kWarp, pass.list(), failed);
    }
    launch(context_.stream, emit_rows<T>, blocks_, kTile, rows, chunks_ * kChunk<T>, a_.images,
           tiles_, a_.classes, a_.output == Output::kLabels, failed, a_.result);
  }

  const MeanFieldArguments& a_;
  const Context& context_;
  TileMap tiles_;
  int64_t items_;  // tiles of all images
  int64_t blocks_;
  bool keeps_;  // Q lasts from one iteration to the next
  bool fused_ = false;
  int64_t chunks_ = 0;
  T* unary_ = nullptr;
  T* log_q_ = nullptr;
  T* logits_ = nullptr;
  std::vector<LatticePass<T>> passes_;
  std::vector<T*> penalty_, message_;  // of every kernel; null where it has no matrix
  Convergence convergence_{};
};

}  // namespace

void mean_field(Scalar scalar, const MeanFieldArguments& arguments, const Context& context) {
  if (scalar == Scalar::kFloat32) {
    MeanField<float>(arguments, context).run();
  } else {
    MeanField<double>(arguments, context).run();
  }
}

}  // namespace densecrf::cuda
