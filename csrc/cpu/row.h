// A fixed number of values, such as one vertex's or one point's labels, in as few registers as fit:
// 24 floats are three eights with AVX and six fours elsewhere.
#pragma once

#include "vector.h"

namespace densecrf::inline DENSECRF_ISA {

// Rows keep to 256 bits also where registers have 512: their 96 bytes are then always aligned, and
// on Zen 4, which stores 512 bits in halves, trial builds with wider rows were slower.
template <typename T>
constexpr int kRowLanes =
    kNativeLanes<T> * static_cast<int>(sizeof(T)) > 32 ? 32 / static_cast<int>(sizeof(T))
                                                       : kNativeLanes<T>;

// Largest power of two that neither exceeds a register nor the width.
template <typename T>
constexpr int head_lanes(int width) {
  int lanes = 1;
  while (2 * lanes <= width && 2 * lanes <= kRowLanes<T>) lanes *= 2;
  return lanes;
}

// The lanes of v added up to a vector of fewer.
template <typename T, int kFrom, int kTo>
HOST_DEVICE Vec<T, kTo> fold_to(Vec<T, kFrom> v) {
  if constexpr (kFrom == kTo) {
    return v;
  } else {
    Vec<T, kFrom / 2> low, high;
    split(v, low, high);
    return fold_to<T, kFrom / 2, kTo>(low + high);
  }
}

template <typename T, int kWidth>
struct Row {
  static constexpr int kLanes = head_lanes<T>(kWidth);
  using V = Vec<T, kLanes>;
  using Rest = Row<T, kWidth - kLanes>;
  V head;
  [[no_unique_address]] Rest rest;

  static HOST_DEVICE Row zero() { return {V{}, Rest::zero()}; }
  static HOST_DEVICE Row load(const T* from) {
    return {densecrf::DENSECRF_ISA::load<V>(from), Rest::load(from + kLanes)};
  }
  HOST_DEVICE void store(T* to) const {
    densecrf::DENSECRF_ISA::store(to, head);
    rest.store(to + kLanes);
  }

  // this += weight * from[...]
  HOST_DEVICE void add_scaled(T weight, const T* from) {
    head += weight * densecrf::DENSECRF_ISA::load<V>(from);
    rest.add_scaled(weight, from + kLanes);
  }
  // to[...] += weight * this
  HOST_DEVICE void add_scaled_to(T weight, T* to) const {
    densecrf::DENSECRF_ISA::store(to, densecrf::DENSECRF_ISA::load<V>(to) + weight * head);
    rest.add_scaled_to(weight, to + kLanes);
  }

  HOST_DEVICE Row operator+(const Row& other) const {
    return {head + other.head, rest + other.rest};
  }
  HOST_DEVICE Row operator-(const Row& other) const {
    return {head - other.head, rest - other.rest};
  }
  HOST_DEVICE Row operator*(const Row& other) const {
    return {head * other.head, rest * other.rest};
  }
  HOST_DEVICE Row operator*(T factor) const { return {head * factor, rest * factor}; }
  HOST_DEVICE Row operator-(T shift) const { return {head - shift, rest - shift}; }
  HOST_DEVICE Row& operator+=(const Row& other) { return *this = *this + other; }

  // This row, or zeros.
  HOST_DEVICE Row keep_if(bool keep) const {
    return {keep_lanes<T, kLanes>(head, keep), rest.keep_if(keep)};
  }
  HOST_DEVICE Row larger(const Row& other) const {
    return {max(head, other.head), rest.larger(other.rest)};
  }

  HOST_DEVICE Row power_of_two_near() const {
    return {exp2_near<T, kLanes>(head), rest.power_of_two_near()};
  }
  HOST_DEVICE Row power_of_two() const { return {exp2<T, kLanes>(head), rest.power_of_two()}; }

  // Sum and maximum of all values, in a fixed order: equal registers first, then lane by lane.
  HOST_DEVICE T sum() const { return rest.template sum_with<kLanes>(head); }
  template <int kOther>
  HOST_DEVICE T sum_with(Vec<T, kOther> other) const {
    if constexpr (kOther == kLanes) {
      return rest.template sum_with<kLanes>(head + other);
    } else {
      return rest.template sum_with<kLanes>(head + fold_to<T, kOther, kLanes>(other));
    }
  }
  HOST_DEVICE T maximum() const {
    const T mine = max_lanes<T, kLanes>(head);
    if constexpr (kWidth == kLanes) {
      return mine;
    } else {
      const T others = rest.maximum();
      return mine > others ? mine : others;
    }
  }
};

template <typename T>
struct Row<T, 0> {
  static HOST_DEVICE Row zero() { return {}; }
  static HOST_DEVICE Row load(const T*) { return {}; }
  HOST_DEVICE void store(T*) const {}
  HOST_DEVICE void add_scaled(T, const T*) {}
  HOST_DEVICE void add_scaled_to(T, T*) const {}
  HOST_DEVICE Row operator+(const Row&) const { return {}; }
  HOST_DEVICE Row operator-(const Row&) const { return {}; }
  HOST_DEVICE Row operator*(const Row&) const { return {}; }
  HOST_DEVICE Row operator*(T) const { return {}; }
  HOST_DEVICE Row operator-(T) const { return {}; }
  HOST_DEVICE Row keep_if(bool) const { return {}; }
  HOST_DEVICE Row larger(const Row&) const { return {}; }
  HOST_DEVICE Row power_of_two_near() const { return {}; }
  HOST_DEVICE Row power_of_two() const { return {}; }
  template <int kOther>
  HOST_DEVICE T sum_with(Vec<T, kOther> other) const {
    return sum_lanes<T, kOther>(other);
  }
};

}  // namespace densecrf::inline DENSECRF_ISA
