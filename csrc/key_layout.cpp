#include "key_layout.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <sstream>
#include <stdexcept>

namespace densecrf {

namespace {

// A word keeps one bit free, so that all ones never is a key and can mark an empty slot.
constexpr int kWordBits = 63;

struct Range {
  int64_t low;
  int64_t high;
};

// Where coordinate j of a vertex can lie: elevated_j = sum_{m > j} c_m - j c_j for points in the
// box (c_1 .. c_d the scaled features), a simplex around them, one neighbour query beyond.
std::vector<Range> coordinate_ranges(const std::vector<double>& low,
                                     const std::vector<double>& high, double max_elevated) {
  const int d = static_cast<int>(low.size());
  const double guard = 2.0 * (d + 1) + 2.0;
  std::vector<Range> ranges;
  for (int j = 0; j <= d; ++j) {
    double from = 0.0, to = 0.0;
    for (int m = j; m < d; ++m) {
      from += low[m];
      to += high[m];
    }
    if (j > 0) {
      from -= j * high[j - 1];
      to -= j * low[j - 1];
    }
    const double reach = std::max(std::abs(from), std::abs(to));
    if (!(reach < max_elevated)) {
      std::ostringstream message;
      message << "features span too many bandwidths for their dtype: lattice coordinate " << j
              << " reaches " << reach << ", at most " << max_elevated
              << " is resolved; use larger bandwidths or float64";
      throw std::invalid_argument(message.str());
    }
    ranges.push_back({static_cast<int64_t>(std::floor(from - guard)),
                      static_cast<int64_t>(std::ceil(to + guard))});
  }
  return ranges;
}

}  // namespace

KeyLayout::KeyLayout(const std::vector<double>& low, const std::vector<double>& high,
                     double max_elevated) {
  const int d = static_cast<int>(low.size());
  const std::vector<Range> ranges = coordinate_ranges(low, high, max_elevated);
  int widest = 0;
  for (int j = 0; j <= d; ++j) {
    const auto span = static_cast<uint64_t>(ranges[j].high - ranges[j].low + 1);
    widths_.push_back(std::bit_width(span));
    if (widths_[j] > widths_[widest]) widest = j;
  }
  widths_[widest] = 0;

  std::vector<int> word(d + 1), shift(d + 1);
  int used = 0;
  for (int j = 0; j <= d; ++j) {
    if (used + widths_[j] > kWordBits) {
      ++words_;
      used = 0;
    }
    word[j] = words_ - 1;
    shift[j] = used;
    used += widths_[j];
  }

  factor_.assign(static_cast<size_t>(d + 1) * words_, 0);
  step_.assign(factor_.size(), 0);
  origin_.assign(words_, 0);
  for (int j = 0; j <= d; ++j) {
    if (j == widest) continue;
    factor_[static_cast<size_t>(j) * words_ + word[j]] = uint64_t{1} << shift[j];
    origin_[word[j]] += static_cast<uint64_t>(ranges[j].low) << shift[j];
  }
  for (int axis = 0; axis <= d; ++axis) {
    for (int j = 0; j <= d; ++j) {
      const auto change = static_cast<uint64_t>(int64_t{j == axis ? -d : 1});
      for (int w = 0; w < words_; ++w) {
        step_[static_cast<size_t>(axis) * words_ + w] +=
            change * factor_[static_cast<size_t>(j) * words_ + w];
      }
    }
  }
}

KeyView KeyLayout::view() const { return {words_, factor_.data(), origin_.data(), step_.data()}; }

}  // namespace densecrf
