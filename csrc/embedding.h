// One point's place in the permutohedral lattice: elevation, enclosing simplex, barycentric
// weights.
//
// Adams, Baek and Davis 2010, section 3.1; the order of the floating-point operations is that of
// Kraehenbuehl's DenseCRF code, so that float32 points land on the same vertices. Must be compiled
// without contraction of a*b+c. `Lanes` is one point or a vector of points.
#pragma once

#include <cmath>
#include <cstdint>

#include "portable.h"

namespace densecrf::inline DENSECRF_ISA {

// The integer of the same width as T; the constant whose addition and subtraction rounds a T to the
// nearest even integer; and the largest elevated coordinate that still has six fractional bits, so
// that barycentric weights keep a meaning and ranks stay in order.
template <typename T>
struct ScalarTraits;
template <>
struct ScalarTraits<float> {
  using Int = int32_t;
  static constexpr float kRound = 12582912.0f;      // 1.5 * 2^23
  static constexpr double kMaxElevated = 131072.0;  // 2^17
};
template <>
struct ScalarTraits<double> {
  using Int = int64_t;
  static constexpr double kRound = 6755399441055744.0;      // 1.5 * 2^52
  static constexpr double kMaxElevated = 70368744177664.0;  // 2^46
};

// What feature i (from 0) of d is multiplied by before elevation. It makes splat, blur and slice
// together a Gaussian of unit variance: their variances add up to 2/3 (d+1)^2.
template <typename T>
HOST_DEVICE T feature_scale(int i, int d) {
  const T inverse_deviation = static_cast<T>(std::sqrt(2.0 / 3.0) * (d + 1));
  return static_cast<T>(1.0 / std::sqrt(static_cast<double>((i + 2) * (i + 1))) *
                        inverse_deviation);
}

// The factor that makes an interior vertex's response to itself 1: d+1 blurs with taps 1/2, 1, 1/2
// leave 1 + 2^-d there, because the axis vectors sum to zero.
template <typename T>
HOST_DEVICE T response_scale(int d) {
  return static_cast<T>(1.0 / (1.0 + std::ldexp(1.0, -d)));
}

// Arithmetic on one point; the CPU backend has a twin for a vector of points (cpu/vector.h).
template <typename T>
struct ScalarLanes {
  using Scalar = T;
  using V = T;
  using I = typename ScalarTraits<T>::Int;
  static HOST_DEVICE V choose(bool mask, V yes, V no) { return mask ? yes : no; }
  static HOST_DEVICE I choose_int(bool mask, I yes, I no) { return mask ? yes : no; }
  static HOST_DEVICE I to_int(V value) { return static_cast<I>(value); }
};

// Embeds the point with scaled features c[0..d-1] (feature times feature_scale).
//
//   remainder[0..d]  the simplex's vertex of remainder 0, coordinates as V
//   axis[0..d]       axis[r]: the coordinate of rank r. Vertex r+1 of the simplex is vertex r plus
//                    (1, ..., 1) - (d+1) e_a with a = axis[d - r]: its next neighbour along a.
//   weight[0..d]     barycentric weight of vertex r: non-negative up to rounding, sum 1
//
// `elevated` and `rank` are scratch of d+1 entries. kD >= 0 fixes d at compile time.
template <int kD, typename Lanes>
HOST_DEVICE void embed_point(int dimensions, const typename Lanes::V* c,
                             typename Lanes::V* elevated, typename Lanes::V* remainder,
                             typename Lanes::I* rank, typename Lanes::I* axis,
                             typename Lanes::V* weight) {
  using T = typename Lanes::Scalar;
  using V = typename Lanes::V;
  using I = typename Lanes::I;
  const int d = kD >= 0 ? kD : dimensions;
  const T inverse = T(1) / static_cast<T>(d + 1);
  const T round = ScalarTraits<T>::kRound;
  const V zero{};
  const V period = zero + static_cast<T>(d + 1);
  const I none{};
  const I one = none + 1;
  const I turn = none + (d + 1);

  V sum = zero;
  UNROLL
  for (int j = d; j > 0; --j) {
    elevated[j] = sum - static_cast<T>(j) * c[j - 1];
    sum = sum + c[j - 1];
  }
  elevated[0] = sum;

  // The nearest vertex of remainder 0, and by how many steps its coordinates miss the plane of
  // sum zero.
  V steps = zero;
  UNROLL
  for (int i = 0; i <= d; ++i) {
    const V quotient = (elevated[i] * inverse + round) - round;
    remainder[i] = quotient * period;
    steps = steps + quotient;
  }

  // Rank of each coordinate's residual in descending order; of equals the later has the higher
  // rank. `weight` holds the residuals meanwhile.
  const I offset = Lanes::to_int(steps);
  UNROLL
  for (int i = 0; i <= d; ++i) {
    weight[i] = elevated[i] - remainder[i];
    rank[i] = offset;
  }
  UNROLL
  for (int i = 0; i < d; ++i) {
    UNROLL
    for (int j = i + 1; j <= d; ++j) {
      const auto below = weight[i] < weight[j];
      rank[i] = rank[i] + Lanes::choose_int(below, one, none);
      rank[j] = rank[j] + Lanes::choose_int(below, none, one);
    }
  }

  // Back onto the plane: the coordinates whose rank left 0..d move by one period.
  UNROLL
  for (int i = 0; i <= d; ++i) {
    const auto low = rank[i] < 0;
    const auto high = rank[i] > d;
    rank[i] = rank[i] + Lanes::choose_int(low, turn, none) - Lanes::choose_int(high, turn, none);
    remainder[i] =
        remainder[i] + Lanes::choose(low, period, zero) - Lanes::choose(high, period, zero);
  }

  // by_rank[r] = (elevated - remainder) / (d+1) of the coordinate of rank r, into `elevated`.
  UNROLL
  for (int i = 0; i <= d; ++i) weight[i] = (elevated[i] - remainder[i]) * inverse;
  UNROLL
  for (int r = 0; r <= d; ++r) {
    V value = zero;
    I which = none;
    UNROLL
    for (int i = 0; i <= d; ++i) {
      const auto match = rank[i] == r;
      value = Lanes::choose(match, weight[i], value);
      which = Lanes::choose_int(match, none + i, which);
    }
    elevated[r] = value;
    axis[r] = which;
  }
  weight[0] = elevated[d] + (T(1) - elevated[0]);
  UNROLL
  for (int r = 1; r <= d; ++r) weight[r] = elevated[d - r] - elevated[d - r + 1];
}

}  // namespace densecrf::inline DENSECRF_ISA
