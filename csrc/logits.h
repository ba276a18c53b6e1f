// Logits as the passes of both backends have them: in units of ln 2, so that
// exp(logit ln 2) = 2^logit, and relative to the point's largest unary.
#pragma once

namespace densecrf {

template <typename T>
constexpr T kLn2 = T(0.693147180559945309417);
template <typename T>
constexpr T kLog2E = T(1.44269504088896340736);
template <typename T>
constexpr T kNever = T(-1e6);  // a label that cannot be; no unary is lower
template <typename T>
constexpr T kPadding = T(-1e38);  // lower than penalties can press a label

}  // namespace densecrf
