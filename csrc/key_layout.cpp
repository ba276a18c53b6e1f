#include "key_layout.h"

#include <sstream>
#include <stdexcept>

#include "key_plan.h"

namespace densecrf {

KeyLayout::KeyLayout(const std::vector<double>& low, const std::vector<double>& high,
                     double max_elevated) {
  const int d = static_cast<int>(low.size());
  for (int j = 0; j <= d; ++j) {
    const double reach = coordinate_range(j, d, low.data(), high.data()).reach();
    if (reach < max_elevated) continue;
    std::ostringstream message;
    message << "features span too many bandwidths for their dtype: lattice coordinate " << j
            << " reaches " << reach << ", at most " << max_elevated
            << " is resolved; use larger bandwidths or float64";
    throw std::invalid_argument(message.str());
  }
  std::vector<KeyField> field(static_cast<size_t>(d) + 1);
  words_ = plan_fields(d, low.data(), high.data(), field.data());
  for (const KeyField& f : field) widths_.push_back(f.width);

  factor_.assign(static_cast<size_t>(d + 1) * words_, 0);
  step_.assign(factor_.size(), 0);
  origin_.assign(words_, 0);
  for (int w = 0; w < words_; ++w) {
    uint64_t one_each = 0;  // what the key changes by when every coordinate grows by one
    for (int j = 0; j <= d; ++j) {
      const uint64_t factor = field[j].factor(w);
      factor_[static_cast<size_t>(j) * words_ + w] = factor;
      origin_[w] += static_cast<uint64_t>(field[j].low) * factor;
      one_each += factor;
    }
    for (int axis = 0; axis <= d; ++axis) {
      const size_t at = static_cast<size_t>(axis) * words_ + w;
      step_[at] = one_each - static_cast<uint64_t>(d + 1) * factor_[at];
    }
  }
}

KeyView KeyLayout::view() const { return {words_, factor_.data(), origin_.data(), step_.data()}; }

}  // namespace densecrf
