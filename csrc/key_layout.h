// How a lattice vertex becomes a key of 64-bit words: additive fields, as narrow as the points
// allow.
//
// A vertex has d+1 integer coordinates of sum zero. d of them identify it (the one of widest range
// is left out), each in a field of its own: key = sum_i (coordinate_i - low_i) << shift_i. The map
// is linear, so the neighbour along an axis is key + step, and one-to-one as long as every field is
// wide enough for the range of its coordinate plus the reach of neighbour queries. One word is the
// rule; more are taken where the fields need them.
#pragma once

#include <cstdint>
#include <vector>

namespace densecrf {

struct KeyView {
  int words;
  const uint64_t* factor;  // [d+1, words]: 1 << shift in the coordinate's word, else 0
  const uint64_t* origin;  // [words]: sum_i low_i * factor_i
  const uint64_t* step;    // [d+1, words]: key difference to the next neighbour along axis j
};

class KeyLayout {
 public:
  // low, high [d]: range of the scaled features (feature times feature_scale). Throws
  // std::invalid_argument when an elevated coordinate can exceed `max_elevated`.
  KeyLayout(const std::vector<double>& low, const std::vector<double>& high, double max_elevated);

  [[nodiscard]] KeyView view() const;
  [[nodiscard]] int words() const { return words_; }
  [[nodiscard]] const std::vector<int>& widths() const { return widths_; }  // 0: left out

 private:
  int words_ = 1;
  std::vector<int> widths_;
  std::vector<uint64_t> factor_, origin_, step_;
};

}  // namespace densecrf
