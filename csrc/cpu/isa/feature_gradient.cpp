// The derivative of <gradient, filter(values)> with respect to the features. Compiled once per
// instruction set, with contraction of a*b+c, as every file must be that shares templates of
// arithmetic with the filter; the embedding's part is in simplex_gradient.cpp.
//
// With the splat S, the blurs B and the factors s, t of the normalisation, the filter is
// y = alpha s S'BS t v. Weights w_pr of point p and its vertex r are the entries of S, and linear
// in the features of p inside a simplex. With a = alpha s u (u the gradient of y) and b = t v,
//
//   dL/dw_pr = <a_p, (B S b)_r> + <b_p, (B' S a)_r>,
//
// and the normaliser n = alpha S'B S 1 adds, with m_p = alpha dL/dn_p,
//
//   dL/dw_pr += m_p (B S 1)_r + (B' S m)_r.
#include "../blur.h"
#include "../memory.h"
#include "../tile.h"
#include "tier.h"

namespace densecrf::inline DENSECRF_ISA {

namespace {

// Numbers of the workspace's buffers.
enum : size_t { kFactors, kPointSums, kForwardRows, kBackwardRows, kWeights };

template <typename T>
class FeatureGradient {
  static constexpr auto kScalar = sizeof(T) == 4 ? Scalar::kFloat32 : Scalar::kFloat64;

 public:
  FeatureGradient(const cpu::FeatureGradientArguments& arguments, const cpu::Executor& executor)
      : arguments_(arguments),
        executor_(executor),
        lattice_(arguments.lattice.points, arguments.lattice.vertices),
        vertices_(lattice_.vertices_per_point),
        mode_(arguments.adjoint ? transposed(arguments.normalization) : arguments.normalization) {
    const auto padded = static_cast<size_t>(groups_of(lattice_.points)) * kGroup;
    before_ = reserve(kFactors, 2 * padded);
    after_ = before_ + padded;
    sums_ = reserve(kPointSums, padded);
    const auto widest = static_cast<size_t>(tile_width(arguments.channels));
    forward_ = reserve(kForwardRows, static_cast<size_t>(lattice_.rows) * widest);
    backward_ = reserve(kBackwardRows, static_cast<size_t>(lattice_.rows) * widest);
    weight_gradient_ = reserve(kWeights, padded * static_cast<size_t>(vertices_));
  }

  bool run() {
    parallel(executor_, lattice_.bands, [&](int band) {
      band_factors(lattice_, mode_, band, before_, after_);
      const int64_t begin = lattice_.first_block[band] * kBlock;
      const int64_t count = lattice_.first_block[band + 1] * kBlock - begin;
      __builtin_memset(sums_ + begin, 0, static_cast<size_t>(count) * sizeof(T));
      __builtin_memset(weight_gradient_ + begin * vertices_, 0,
                       static_cast<size_t>(count * vertices_) * sizeof(T));
    });
    for_each_tile(arguments_.channels, [&]<int kWidth>(int64_t first, int64_t count) {
      add_channels<kWidth>(first, count);
    });
    if (mode_ != Normalization::kNone) add_normalizer();
    return simplex_gradient(kScalar, arguments_, weight_gradient_, executor_);
  }

 private:
  T* reserve(size_t index, size_t count) {
    return static_cast<T*>(workspace_.buffer(index).reserve(count * sizeof(T) + 4096, 0));
  }

  // Adds both products of channels [first, first + count) to the gradient of the weights, and what
  // the normaliser's gradient needs to the sums of the points.
  template <int kWidth>
  void add_channels(int64_t first, int64_t count) {
    using Values = Row<T, kWidth>;
    const int64_t channels = arguments_.channels;
    const T* values = static_cast<const T*>(arguments_.values) + first;
    const T* gradient = static_cast<const T*>(arguments_.gradient) + first;
    splat_tile<T, kWidth>(lattice_, values, channels, count, before_, forward_, executor_);
    splat_tile<T, kWidth>(lattice_, gradient, channels, count, after_, backward_, executor_);
    blur<T, kWidth>(lattice_, forward_, kWidth, arguments_.adjoint, executor_);
    blur<T, kWidth>(lattice_, backward_, kWidth, !arguments_.adjoint, executor_);
    const T forward_share = share_of(Normalization::kAfter);
    const T backward_share = share_of(Normalization::kBefore);
    parallel(executor_, lattice_.bands, [&](int band) {
      const T* forward = forward_ + lattice_.row_base[band] * kWidth;
      const T* backward = backward_ + lattice_.row_base[band] * kWidth;
      for_band_points(lattice_, band, [&](int64_t p) {
        const Values a = load_values<T, kWidth>(gradient + p * channels, count, after_[p]);
        const Values b = load_values<T, kWidth>(values + p * channels, count, before_[p]);
        const int64_t record = record_of(p, vertices_);
        for (int r = 0; r < vertices_; ++r) {
          const int64_t entry = record + r * kGroup, row = lattice_.row[entry] * int64_t{kWidth};
          const T of_slice = (a * Values::load(forward + row)).sum();
          const T of_splat = (b * Values::load(backward + row)).sum();
          weight_gradient_[entry] += of_slice + of_splat;
          sums_[p] +=
              lattice_.weight[entry] * (forward_share * of_slice + backward_share * of_splat);
        }
      });
    });
  }

  // How much of the normaliser stands on one side of the filter, as its exponent.
  T share_of(Normalization side) const {
    if (mode_ == Normalization::kSymmetric) return T(0.5);
    return mode_ == side ? T(1) : T(0);
  }

  // The reciprocal of the normaliser at point p.
  T inverse_normalizer(int64_t p) const {
    if (mode_ == Normalization::kSymmetric) return before_[p] * before_[p];
    if (mode_ == Normalization::kBefore) return before_[p];
    return after_[p] / response_scale<T>(vertices_ - 1);
  }

  void add_normalizer() {
    const T alpha = response_scale<T>(vertices_ - 1);
    parallel(executor_, lattice_.bands, [&](int band) {
      for_band_points(lattice_, band,
                      [&](int64_t p) { sums_[p] *= -alpha * inverse_normalizer(p); });
    });
    // The factors have been used; splat_tile wants one.
    const auto padded = static_cast<size_t>(groups_of(lattice_.points)) * kGroup;
    for (size_t p = 0; p < padded; ++p) before_[p] = T(1);
    constexpr int kWidth = 4;
    splat_tile<T, kWidth>(lattice_, sums_, 1, 1, before_, backward_, executor_);
    // Ones are filtered forward, whichever way the values went.
    blur<T, kWidth>(lattice_, backward_, kWidth, true, executor_);
    parallel(executor_, lattice_.bands, [&](int band) {
      const T* backward = backward_ + lattice_.row_base[band] * kWidth;
      const T* ones = lattice_.ones + lattice_.row_base[band];
      for_band_points(lattice_, band, [&](int64_t p) {
        const int64_t record = record_of(p, vertices_);
        for (int r = 0; r < vertices_; ++r) {
          const int64_t entry = record + r * kGroup;
          weight_gradient_[entry] += sums_[p] * ones[lattice_.row[entry]] +
                                     backward[lattice_.row[entry] * int64_t{kWidth}];
        }
      });
    });
  }

  const cpu::FeatureGradientArguments& arguments_;
  const cpu::Executor& executor_;
  cpu::Workspace workspace_;
  LatticeView<T> lattice_;
  int vertices_;
  Normalization mode_;
  T *before_, *after_;      // [points]
  T* sums_;                 // [points] of the normaliser
  T *forward_, *backward_;  // [rows, width]
  T* weight_gradient_;      // [groups, d + 1, 16]
};

}  // namespace

bool feature_gradient(Scalar scalar, const cpu::FeatureGradientArguments& arguments,
                      const cpu::Executor& executor) {
  if (scalar == Scalar::kFloat32) return FeatureGradient<float>(arguments, executor).run();
  return FeatureGradient<double>(arguments, executor).run();
}

}  // namespace densecrf::inline DENSECRF_ISA
