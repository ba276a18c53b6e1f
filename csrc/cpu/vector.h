// Vectors of the compiler's own kind: one source for AVX-512, AVX2, SSE2 and NEON.
//
// Widths are the caller's choice; kNativeBytes is the widest register of the instruction set this
// file is compiled for. Everything is inlined.
#pragma once

#include <cstdint>

#include "../embedding.h"
#include "../portable.h"

namespace densecrf::inline DENSECRF_ISA {

#if defined(__AVX512F__)
constexpr int kNativeBytes = 64;
#elif defined(__AVX2__)
constexpr int kNativeBytes = 32;
#else
constexpr int kNativeBytes = 16;
#endif

template <typename T>
constexpr int kNativeLanes = kNativeBytes / static_cast<int>(sizeof(T));

template <typename T, int kLanes>
struct VecOf {
  typedef T type __attribute__((vector_size(kLanes * sizeof(T))));
};
template <typename T, int kLanes>
using Vec = typename VecOf<T, kLanes>::type;

template <typename V, typename T>
HOST_DEVICE V load(const T* from) {
  V value;
  __builtin_memcpy(&value, from, sizeof(V));
  return value;
}

template <typename V, typename T>
HOST_DEVICE void store(T* to, V value) {
  __builtin_memcpy(to, &value, sizeof(V));
}

template <typename V>
HOST_DEVICE V max(V a, V b) {
  return a > b ? a : b;
}

template <typename V>
HOST_DEVICE V min(V a, V b) {
  return a < b ? a : b;
}

HOST_DEVICE void prefetch(const void* address) { __builtin_prefetch(address, 1, 3); }

// The twin of ScalarLanes: kLanes points at a time.
template <typename T, int kLanes>
struct VectorLanes {
  using Scalar = T;
  using V = Vec<T, kLanes>;
  using I = Vec<typename ScalarTraits<T>::Int, kLanes>;
  template <typename Mask>
  static HOST_DEVICE V choose(Mask mask, V yes, V no) {
    return mask ? yes : no;
  }
  template <typename Mask>
  static HOST_DEVICE I choose_int(Mask mask, I yes, I no) {
    return mask ? yes : no;
  }
  static HOST_DEVICE I to_int(V value) { return __builtin_convertvector(value, I); }
};

// Sum and maximum over the lanes, by halving.
template <typename T, int kLanes>
HOST_DEVICE T sum_lanes(Vec<T, kLanes> v) {
  if constexpr (kLanes == 1) {
    return v[0];
  } else {
    using Half = Vec<T, kLanes / 2>;
    Half low, high;
    __builtin_memcpy(&low, &v, sizeof(Half));
    __builtin_memcpy(&high, reinterpret_cast<const char*>(&v) + sizeof(Half), sizeof(Half));
    return sum_lanes<T, kLanes / 2>(low + high);
  }
}

template <typename T, int kLanes>
HOST_DEVICE T max_lanes(Vec<T, kLanes> v) {
  if constexpr (kLanes == 1) {
    return v[0];
  } else {
    using Half = Vec<T, kLanes / 2>;
    Half low, high;
    __builtin_memcpy(&low, &v, sizeof(Half));
    __builtin_memcpy(&high, reinterpret_cast<const char*>(&v) + sizeof(Half), sizeof(Half));
    return max_lanes<T, kLanes / 2>(max(low, high));
  }
}

// Constants of exp by range reduction: x = n ln 2 + r, |r| <= ln 2 / 2, and a Taylor-like polynomial
// in r whose error is below the rounding of T. ln 2 is split so that n * high is exact.
template <typename T>
struct ExpTraits;
template <>
struct ExpTraits<float> {
  static constexpr float kLowest = -87.0f, kHighest = 88.0f;
  static constexpr float kLog2E = 1.44269504f;
  static constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  static constexpr int kMantissa = 23;
  // Cephes' expf coefficients, highest power first, for r^2 .. r^7.
  static constexpr int kTerms = 6;
  static constexpr float kCoefficient[kTerms] = {1.9875691500e-4f, 1.3981999507e-3f,
                                                 8.3334519073e-3f, 4.1665795894e-2f,
                                                 1.6666665459e-1f, 5.0000001201e-1f};
};
template <>
struct ExpTraits<double> {
  static constexpr double kLowest = -708.0, kHighest = 709.0;
  static constexpr double kLog2E = 1.4426950408889634;
  static constexpr double kLn2High = 6.93145751953125e-1, kLn2Low = 1.42860682030941723212e-6;
  static constexpr int kMantissa = 52;
  // 1/k!, k = 13 .. 2.
  static constexpr int kTerms = 12;
  static constexpr double kCoefficient[kTerms] = {
      1.6059043836821613e-10, 2.0876756987868100e-9, 2.5052108385441720e-8, 2.7557319223985893e-7,
      2.7557319223985888e-6,  2.4801587301587302e-5, 1.9841269841269841e-4, 1.3888888888888889e-3,
      8.3333333333333333e-3,  4.1666666666666664e-2, 1.6666666666666666e-1, 0.5};
};

// exp(x), x clamped to the range whose result is a normal number.
template <typename T, int kLanes>
HOST_DEVICE Vec<T, kLanes> exp(Vec<T, kLanes> x) {
  using V = Vec<T, kLanes>;
  using Traits = ExpTraits<T>;
  using I = Vec<typename ScalarTraits<T>::Int, kLanes>;
  const V zero{};
  x = min(max(x, zero + Traits::kLowest), zero + Traits::kHighest);
  const V shifted = x * Traits::kLog2E + ScalarTraits<T>::kRound;  // n in the low bits
  const V n = shifted - ScalarTraits<T>::kRound;
  const V r = (x - n * Traits::kLn2High) - n * Traits::kLn2Low;
  V p = zero + Traits::kCoefficient[0];
#pragma GCC unroll 16
  for (int i = 1; i < Traits::kTerms; ++i) p = p * r + Traits::kCoefficient[i];
  p = (p * r) * r + r + T(1);
  // 2^n by adding n to the exponent: the integer in shifted's mantissa, moved up.
  I bits, exponent;
  __builtin_memcpy(&bits, &p, sizeof(V));
  __builtin_memcpy(&exponent, &shifted, sizeof(V));
  bits += exponent << Traits::kMantissa;
  __builtin_memcpy(&p, &bits, sizeof(V));
  return p;
}

// rows[16][stride] -> columns[stride][16], for 4 x 4 tiles of 32-bit elements in registers.
HOST_DEVICE void transpose_4x4(const float* from, int64_t from_stride, float* to,
                               int64_t to_stride) {
  using V = Vec<float, 4>;
  const V a = load<V>(from), b = load<V>(from + from_stride);
  const V c = load<V>(from + 2 * from_stride), d = load<V>(from + 3 * from_stride);
  const V ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5);
  const V ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const V cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5);
  const V cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  store(to, __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5));
  store(to + to_stride, __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7));
  store(to + 2 * to_stride, __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5));
  store(to + 3 * to_stride, __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7));
}

// to[c][r] = from[r][c], rows and columns multiples of 4.
template <typename T>
HOST_DEVICE void transpose(const T* from, int64_t from_stride, int64_t rows, int64_t columns, T* to,
                           int64_t to_stride) {
  for (int64_t r = 0; r < rows; r += 4) {
    for (int64_t c = 0; c < columns; c += 4) {
      const T* tile = from + r * from_stride + c;
      T* out = to + c * to_stride + r;
      if constexpr (sizeof(T) == 4) {
        transpose_4x4(tile, from_stride, out, to_stride);
      } else {
        for (int i = 0; i < 4; ++i) {
          for (int j = 0; j < 4; ++j) out[j * to_stride + i] = tile[i * from_stride + j];
        }
      }
    }
  }
}

}  // namespace densecrf::inline DENSECRF_ISA
