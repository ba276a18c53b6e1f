// The derivative of <gradient, filter(values)> with respect to the features. Compiled once per
// instruction set, without contraction of a*b+c: points must land where the lattice has them.
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
#include "../band.h"
#include "../blur.h"
#include "../memory.h"
#include "../tile.h"
#include "tier.h"

namespace densecrf::inline DENSECRF_ISA {

namespace {

// Numbers of the workspace's buffers.
enum : size_t { kFactors, kPointSums, kForwardRows, kBackwardRows, kWeights, kTables, kScratch };

template <typename T>
class FeatureGradient {
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
    if (mode_ != cpu::Normalization::kNone) add_normalizer();
    return to_features();
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
    const T forward_share = share_of(cpu::Normalization::kAfter);
    const T backward_share = share_of(cpu::Normalization::kBefore);
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
  T share_of(cpu::Normalization side) const {
    if (mode_ == cpu::Normalization::kSymmetric) return T(0.5);
    return mode_ == side ? T(1) : T(0);
  }

  // The reciprocal of the normaliser at point p.
  T inverse_normalizer(int64_t p) const {
    if (mode_ == cpu::Normalization::kSymmetric) return before_[p] * before_[p];
    if (mode_ == cpu::Normalization::kBefore) return before_[p];
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
    splat_tile<T, 1>(lattice_, sums_, 1, 1, before_, backward_, executor_);
    // Ones are filtered forward, whichever way the values went.
    blur<T, 1>(lattice_, backward_, 1, true, executor_);
    parallel(executor_, lattice_.bands, [&](int band) {
      const T* backward = backward_ + lattice_.row_base[band];
      const T* ones = lattice_.ones + lattice_.row_base[band];
      for_band_points(lattice_, band, [&](int64_t p) {
        const int64_t record = record_of(p, vertices_);
        for (int r = 0; r < vertices_; ++r) {
          const int64_t entry = record + r * kGroup;
          weight_gradient_[entry] +=
              sums_[p] * ones[lattice_.row[entry]] + backward[lattice_.row[entry]];
        }
      });
    });
  }

  // From the weights to the features, through the embedding (see embed_point). False if the
  // features are not those of the lattice.
  bool to_features() {
    const cpu::FeatureSource& source = arguments_.features;
    const int d = source.dimensions;
    const ScaledFeatures<T> features(source, workspace_.buffer(kTables));
    // Scratch of a band: embed_block's vectors, features [d, 64], remainders and weights
    // [d+1, 64], axes [d+1, 64], the gradient of a point's elevated coordinates, and the verdict.
    const auto vertices = static_cast<size_t>(vertices_);
    const size_t bytes = vertices * (6 * 64 + kBlock * (3 * sizeof(T) + sizeof(int32_t)) + 64) + 64;
    char* memory = static_cast<char*>(
        workspace_.buffer(kScratch).reserve(bytes * static_cast<size_t>(lattice_.bands), 0));
    parallel(executor_, lattice_.bands, [&](int band) {
      char* verdict = memory + bytes * static_cast<size_t>(band);
      T* work = reinterpret_cast<T*>(verdict + 64);
      T* c = reinterpret_cast<T*>(verdict + 64 + vertices * 6 * 64);
      T* remainder = c + vertices_ * kBlock;
      T* weight = remainder + vertices_ * kBlock;
      auto* axis = reinterpret_cast<int32_t*>(weight + vertices_ * kBlock);
      T* elevated = reinterpret_cast<T*>(axis + vertices_ * kBlock);
      bool same = true;
      for (int64_t block = lattice_.first_block[band]; block < lattice_.first_block[band + 1];
           ++block) {
        const int64_t first = block * kBlock, left = lattice_.points - first;
        const int n = left < kBlock ? static_cast<int>(left) : kBlock;
        features.fill(first, n, c);
        embed_block<-1>(d, c, remainder, axis, weight, work);
        for (int q = 0; q < n; ++q) {
          same = same && has_weights(first + q, weight);
          point_gradient(first + q, axis + q, elevated);
        }
      }
      *verdict = same ? 1 : 0;
    });
    bool same = true;
    for (int band = 0; band < lattice_.bands; ++band) {
      same = same && memory[bytes * static_cast<size_t>(band)] != 0;
    }
    return same;
  }

  // Whether the lattice holds the weights of `block_weight` for point p.
  bool has_weights(int64_t p, const T* block_weight) const {
    const int64_t here = record_of(p, vertices_), there = record_of(p % kBlock, vertices_);
    bool same = true;
    for (int r = 0; r < vertices_; ++r) {
      same = same && lattice_.weight[here + r * kGroup] == block_weight[there + r * kGroup];
    }
    return same;
  }

  // axis[r * kBlock]: the elevated coordinate of rank r of the point; `elevated` is scratch.
  void point_gradient(int64_t p, const int32_t* axis, T* elevated) {
    const int d = vertices_ - 1;
    const T inverse = T(1) / static_cast<T>(vertices_);
    const T* gradient = weight_gradient_ + record_of(p, vertices_);
    // Coordinate of rank r: in the weight of vertex d - r with its sign, in the next's against it.
    for (int r = 0; r <= d; ++r) {
      const int up = d - r, down = r == 0 ? 0 : d - r + 1;
      elevated[axis[r * kBlock]] = (gradient[up * kGroup] - gradient[down * kGroup]) * inverse;
    }
    T* to = static_cast<T*>(arguments_.result) + p * d;
    T below = elevated[0];
    for (int m = 1; m <= d; ++m) {
      const T value = (below - static_cast<T>(m) * elevated[m]) * feature_scale<T>(m - 1, d);
      to[m - 1] = arguments_.accumulate ? to[m - 1] + value : value;
      below += elevated[m];
    }
  }

  const cpu::FeatureGradientArguments& arguments_;
  const cpu::Executor& executor_;
  cpu::Workspace workspace_;
  LatticeView<T> lattice_;
  int vertices_;
  cpu::Normalization mode_;
  T *before_, *after_;      // [points]
  T* sums_;                 // [points] of the normaliser
  T *forward_, *backward_;  // [rows, width]
  T* weight_gradient_;      // [groups, d + 1, 16]
};

}  // namespace

bool feature_gradient(cpu::Scalar scalar, const cpu::FeatureGradientArguments& arguments,
                      const cpu::Executor& executor) {
  if (scalar == cpu::Scalar::kFloat32) return FeatureGradient<float>(arguments, executor).run();
  return FeatureGradient<double>(arguments, executor).run();
}

}  // namespace densecrf::inline DENSECRF_ISA
