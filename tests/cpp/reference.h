// The permutohedral filter and mean field from their definitions: vertices in a std::map by their
// coordinates, everything summed in double. Slow, short, and on one thread.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <vector>

#include "cpu/backend.h"
#include "embedding.h"

namespace densecrf::testing {

// features [points, d], divided by their bandwidths. Points are embedded in T, as the backend does.
template <typename T>
class ReferenceLattice {
 public:
  ReferenceLattice(const std::vector<T>& features, int d) : vertices_(d + 1) {
    points_ = static_cast<int64_t>(features.size()) / d;
    std::vector<T> c(d), elevated(vertices_), remainder(vertices_), weight(vertices_);
    std::vector<typename ScalarTraits<T>::Int> rank(vertices_), axis(vertices_);
    for (int64_t p = 0; p < points_; ++p) {
      for (int m = 0; m < d; ++m) c[m] = features[p * d + m] * feature_scale<T>(m, d);
      embed_point<-1, ScalarLanes<T>>(d, c.data(), elevated.data(), remainder.data(), rank.data(),
                                      axis.data(), weight.data());
      std::vector<int64_t> vertex(remainder.begin(), remainder.end());
      for (int r = 0; r <= d; ++r) {
        const auto [at, fresh] = index_.try_emplace(vertex, static_cast<int64_t>(index_.size()));
        row_.push_back(at->second);
        weight_.push_back(static_cast<double>(weight[r]));
        if (r < d) step(vertex, static_cast<int>(axis[d - r]), 1);
      }
    }
    for (int a = 0; a <= d; ++a) {
      std::vector<int64_t> next(index_.size(), -1);
      for (const auto& [vertex, row] : index_) {
        std::vector<int64_t> neighbour = vertex;
        step(neighbour, a, 1);
        const auto at = index_.find(neighbour);
        if (at != index_.end()) next[row] = at->second;
      }
      next_.push_back(next);
    }
    ones_ = filter(std::vector<double>(points_, 1.0), 1, Normalization::kNone, false);
  }

  [[nodiscard]] int64_t vertices() const { return static_cast<int64_t>(index_.size()); }

  // values [points, channels]
  [[nodiscard]] std::vector<double> filter(std::vector<double> values, int64_t channels,
                                           Normalization mode, bool adjoint) const {
    if (adjoint && mode == Normalization::kBefore) {
      mode = Normalization::kAfter;
    } else if (adjoint && mode == Normalization::kAfter) {
      mode = Normalization::kBefore;
    }
    const auto scale = [&](Normalization side) {
      if (mode != side && mode != Normalization::kSymmetric) return;
      for (int64_t p = 0; p < points_; ++p) {
        const double n = ones_[p] + 1e-20;
        const double factor = 1.0 / (mode == Normalization::kSymmetric ? std::sqrt(n) : n);
        for (int64_t c = 0; c < channels; ++c) values[p * channels + c] *= factor;
      }
    };
    scale(Normalization::kBefore);
    std::vector<double> rows(index_.size() * channels, 0.0);
    for (size_t i = 0; i < row_.size(); ++i) {
      for (int64_t c = 0; c < channels; ++c) {
        rows[row_[i] * channels + c] +=
            weight_[i] * values[static_cast<int64_t>(i) / vertices_ * channels + c];
      }
    }
    for (int a = 0; a < vertices_; ++a) {
      const std::vector<int64_t>& next = next_[adjoint ? vertices_ - 1 - a : a];
      const std::vector<double> old = rows;
      for (size_t row = 0; row < next.size(); ++row) {
        if (next[row] < 0) continue;
        for (int64_t c = 0; c < channels; ++c) {
          rows[row * channels + c] += 0.5 * old[next[row] * channels + c];
          rows[next[row] * channels + c] += 0.5 * old[row * channels + c];
        }
      }
    }
    const double alpha = 1.0 / (1.0 + std::ldexp(1.0, 1 - vertices_));
    std::fill(values.begin(), values.end(), 0.0);
    for (size_t i = 0; i < row_.size(); ++i) {
      for (int64_t c = 0; c < channels; ++c) {
        values[static_cast<int64_t>(i) / vertices_ * channels + c] +=
            alpha * weight_[i] * rows[row_[i] * channels + c];
      }
    }
    scale(Normalization::kAfter);
    return values;
  }

 private:
  // To the next neighbour along an axis, `direction` times.
  static void step(std::vector<int64_t>& vertex, int axis, int64_t direction) {
    for (int64_t& coordinate : vertex) coordinate += direction;
    vertex[axis] -= direction * static_cast<int64_t>(vertex.size());
  }

  int vertices_;
  int64_t points_ = 0;
  std::map<std::vector<int64_t>, int64_t> index_;
  std::vector<int64_t> row_;    // [points, d + 1]
  std::vector<double> weight_;  // [points, d + 1]
  std::vector<std::vector<int64_t>> next_;
  std::vector<double> ones_;
};

template <typename T>
struct ReferenceKernel {
  const ReferenceLattice<T>* lattice;
  Normalization normalization;
  Compatibility compatibility;
  std::vector<T> weights;
};

// Q of the points by rows [points, classes], of logits by planes [classes, points].
inline std::vector<double> softmax_of(const std::vector<double>& logits, int64_t classes) {
  std::vector<double> q(logits.size());
  for (size_t p = 0; p < logits.size(); p += classes) {
    const double highest = *std::max_element(logits.begin() + p, logits.begin() + p + classes);
    double sum = 0.0;
    for (int64_t c = 0; c < classes; ++c) sum += q[p + c] = std::exp(logits[p + c] - highest);
    for (int64_t c = 0; c < classes; ++c) q[p + c] /= sum;
  }
  return q;
}

template <typename T>
std::vector<double> reference_mean_field(const std::vector<T>& planes, int64_t classes,
                                         const std::vector<ReferenceKernel<T>>& kernels,
                                         int64_t iterations, double damping, double tolerance) {
  const auto points = static_cast<int64_t>(planes.size()) / classes;
  std::vector<double> logits(planes.size());
  for (int64_t p = 0; p < points; ++p) {
    for (int64_t c = 0; c < classes; ++c) logits[p * classes + c] = planes[c * points + p];
  }
  std::vector<double> q = softmax_of(logits, classes);
  for (int64_t i = 0; i < iterations; ++i) {
    std::vector<double> x = logits;
    for (const ReferenceKernel<T>& kernel : kernels) {
      const std::vector<double> f = kernel.lattice->filter(q, classes, kernel.normalization, false);
      const std::vector<T>& w = kernel.weights;
      for (int64_t p = 0; p < points; ++p) {
        for (int64_t c = 0; c < classes; ++c) {
          double& logit = x[p * classes + c];
          if (kernel.compatibility == Compatibility::kMatrix) {
            for (int64_t o = 0; o < classes; ++o) logit -= w[c * classes + o] * f[p * classes + o];
          } else {
            const bool potts = kernel.compatibility == Compatibility::kPotts;
            logit += w[potts ? 0 : c] * f[p * classes + c];
          }
        }
      }
    }
    x = softmax_of(x, classes);
    double change = 0.0;
    for (size_t j = 0; j < q.size(); ++j) {
      const double fresh = (1.0 - damping) * x[j] + damping * q[j];
      change = std::max(change, std::abs(fresh - q[j]));
      q[j] = fresh;
    }
    if (change < tolerance) break;
  }
  return q;
}

}  // namespace densecrf::testing
