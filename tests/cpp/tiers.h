// Every instruction-set tier that runs on this machine, each to be tested like the one that
// cpu::backend() picks.
#pragma once

#include <vector>

#include "cpu/backend.h"

namespace densecrf {

#if defined(__x86_64__)
namespace avx512 {
const cpu::Backend& backend_of_tier();
}
namespace avx2 {
const cpu::Backend& backend_of_tier();
}
#endif
namespace baseline {
const cpu::Backend& backend_of_tier();
}

namespace testing {

inline std::vector<const cpu::Backend*> tiers() {
  std::vector<const cpu::Backend*> list{&baseline::backend_of_tier()};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("x86-64-v3")) list.push_back(&avx2::backend_of_tier());
  if (__builtin_cpu_supports("x86-64-v4")) list.push_back(&avx512::backend_of_tier());
#endif
  return list;
}

}  // namespace testing

}  // namespace densecrf
