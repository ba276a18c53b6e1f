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

// To be read; to be written. On some machines the second marks a line as changed, and it is written
// back whether it was changed or not.
HOST_DEVICE void prefetch(const void* address) { __builtin_prefetch(address, 0, 3); }
HOST_DEVICE void prefetch_write(const void* address) { __builtin_prefetch(address, 1, 3); }

// v, or zeros, by a mask: a branch would be mispredicted at every other chain's end.
template <typename T, int kLanes>
HOST_DEVICE Vec<T, kLanes> keep_lanes(Vec<T, kLanes> v, bool keep) {
  using Int = typename ScalarTraits<T>::Int;
  using I = Vec<Int, kLanes>;
  I bits;
  __builtin_memcpy(&bits, &v, sizeof v);
  bits &= I{} - static_cast<Int>(keep);
  __builtin_memcpy(&v, &bits, sizeof v);
  return v;
}

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

// The lower and the upper half of v.
template <typename V, typename Half>
HOST_DEVICE void split(V v, Half& low, Half& high) {
  constexpr int kLanes = sizeof(V) / sizeof(v[0]);
  if constexpr (kLanes == 16) {
    low = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7);
    high = __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
  } else if constexpr (kLanes == 8) {
    low = __builtin_shufflevector(v, v, 0, 1, 2, 3);
    high = __builtin_shufflevector(v, v, 4, 5, 6, 7);
  } else if constexpr (kLanes == 4) {
    low = __builtin_shufflevector(v, v, 0, 1);
    high = __builtin_shufflevector(v, v, 2, 3);
  } else {
    low = Half{v[0]};
    high = Half{v[1]};
  }
}

// The lanes of v combined by `op` (an associative function of two vectors), by halving; the order
// is fixed. Four lanes and fewer stay in a register of their size.
template <typename T, int kLanes, typename Op>
HOST_DEVICE T combine_lanes(Vec<T, kLanes> v, const Op& op) {
  if constexpr (kLanes == 1) {
    return v[0];
  } else if constexpr (kLanes == 2) {
    return op(v, __builtin_shufflevector(v, v, 1, 0))[0];
  } else if constexpr (kLanes == 4) {
    v = op(v, __builtin_shufflevector(v, v, 2, 3, 0, 1));
    return op(v, __builtin_shufflevector(v, v, 1, 0, 3, 2))[0];
  } else {
    Vec<T, kLanes / 2> low, high;
    split(v, low, high);
    return combine_lanes<T, kLanes / 2>(op(low, high), op);
  }
}

template <typename T, int kLanes>
HOST_DEVICE T sum_lanes(Vec<T, kLanes> v) {
  return combine_lanes<T, kLanes>(v, [](auto a, auto b) ALWAYS_INLINE { return a + b; });
}

template <typename T, int kLanes>
HOST_DEVICE T max_lanes(Vec<T, kLanes> v) {
  return combine_lanes<T, kLanes>(v, [](auto a, auto b) ALWAYS_INLINE { return max(a, b); });
}

// 2^f - 1 = f p(f) on [-1/2, 1/2]: coefficients of p, highest power first. float: minimax, relative
// error 2e-9 before rounding; double: (ln 2)^k / k!.
template <typename T>
struct Exp2Traits;
template <>
struct Exp2Traits<float> {
  static constexpr float kHighest = 127.0f;
  static constexpr int kMantissa = 23, kBias = 127;
  static constexpr int kTerms = 6;
  static constexpr float kCoefficient[kTerms] = {1.53533620e-4f, 1.33988750e-3f, 9.61843692e-3f,
                                                 5.55033237e-2f, 2.40226477e-1f, 6.93147182e-1f};
};
template <>
struct Exp2Traits<double> {
  static constexpr double kHighest = 1023.0;
  static constexpr int kMantissa = 52, kBias = 1023;
  static constexpr int kTerms = 13;
  static constexpr double kCoefficient[kTerms] = {
      1.3691488853904124e-12, 2.5678435993488196e-11, 4.44553827187081e-10,  7.054911620801121e-9,
      1.0178086009239696e-7,  1.3215486790144305e-6,  1.5252733804059838e-5, 1.5403530393381606e-4,
      1.3333558146428441e-3,  9.618129107628477e-3,   5.5504108664821576e-2, 2.402265069591007e-1,
      6.931471805599453e-1};
};

// 2^x for |x| < 1e6: the exponent saturates, so that the result is a normal number, too large or
// too small beyond the range of T. Farther out the result is anything, NaN included.
template <typename T, int kLanes>
HOST_DEVICE Vec<T, kLanes> exp2_near(Vec<T, kLanes> x) {
  using V = Vec<T, kLanes>;
  using Traits = Exp2Traits<T>;
  using Int = typename ScalarTraits<T>::Int;
  using I = Vec<Int, kLanes>;
  const V shifted = x + ScalarTraits<T>::kRound;  // the integer part n in the low bits
  const V f = x - (shifted - ScalarTraits<T>::kRound);
  V p = V{} + Traits::kCoefficient[0];
#pragma GCC unroll 16
  for (int i = 1; i < Traits::kTerms; ++i) p = p * f + Traits::kCoefficient[i];
  p = p * f + T(1);
  // 2^n by adding n to the exponent: the integer in shifted's mantissa, moved up. As long as
  // `shifted` is positive its bits are in the order of its values.
  I bits, exponent;
  __builtin_memcpy(&bits, &p, sizeof(V));
  __builtin_memcpy(&exponent, &shifted, sizeof(V));
  Int zero_bits;
  const T round = ScalarTraits<T>::kRound;
  __builtin_memcpy(&zero_bits, &round, sizeof(T));
  const I low = I{} + (zero_bits - Traits::kBias + 2), high = I{} + (zero_bits + Traits::kBias - 1);
  exponent = exponent < low ? low : exponent;
  exponent = exponent > high ? high : exponent;
  bits += exponent << Traits::kMantissa;
  __builtin_memcpy(&p, &bits, sizeof(V));
  return p;
}

// 2^x of any x, saturating likewise.
template <typename T, int kLanes>
HOST_DEVICE Vec<T, kLanes> exp2(Vec<T, kLanes> x) {
  const Vec<T, kLanes> highest = Vec<T, kLanes>{} + Exp2Traits<T>::kHighest;
  return exp2_near<T, kLanes>(min(max(x, -highest), highest));
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
