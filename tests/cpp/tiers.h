// Tests of the CPU backend, run for every instruction-set tier that runs on this machine.
#pragma once

#include "check.h"
#include "cpu/backend.h"

namespace densecrf::testing {

// The sentences and bodies of tests that take a tier.
struct TierTest {
  const char* sentence;
  void (*body)(const cpu::Backend&);
};

// Each test with each tier, each to be tested like the one that cpu::backend() picks; what main()
// returns.
inline int run_for_every_tier(const std::vector<TierTest>& tests) {
  int failures = 0;
  for (const cpu::Backend* tier : cpu::tiers()) {
    for (const TierTest& test : tests) {
      failures += run_test(text(tier->name, ": ", test.sentence), [&] { test.body(*tier); });
    }
  }
  return failures == 0 ? 0 : 1;
}

}  // namespace densecrf::testing
