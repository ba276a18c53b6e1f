// Running CUDA kernels in the emulator under several schedules, and with mistakes made on purpose.
#pragma once

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "check.h"
#include "testing/emulator/emulator.h"

namespace densecrf::testing {

// TSAN finds a race under any schedule in which both accesses happen, and takes its time.
#if defined(__SANITIZE_THREAD__)
constexpr bool kFewSchedules = true;
#else
constexpr bool kFewSchedules = false;
#endif

inline std::vector<emulator::Schedule> schedules() {
  using emulator::Order;
  // What looks like an empty slot or no neighbour in one would not in the next.
  if (kFewSchedules) return {{Order::kForward, 0, 2, 0x5a}};
  return {{Order::kForward, 0, 1, 0xff},
          {Order::kReverse, 0, 2, 0x5a},
          {Order::kShuffled, 1, 2, 0x00},
          {Order::kShuffled, 2, 3, 0x7f}};
}

// What the body throws says which schedule it was.
template <typename Body>
void under_all_schedules(const Body& body) {
  int number = 0;
  for (const emulator::Schedule& schedule : schedules()) {
    emulator::set_schedule(schedule);
    try {
      body();
    } catch (const std::exception& error) {
      emulator::set_schedule({});
      fail("schedule ", number, ": ", error.what());
    }
    ++number;
  }
  emulator::set_schedule({});
}

// A test that must fail, since something is wrong on purpose.
struct Mistake {
  std::string sentence;
  std::function<void()> body;
  emulator::Faults faults = {};
  bool harmless = false;  // it is no mistake after all, and the body must pass
};

// Every mistake in a process of its own, which may fail in whatever way; returns the number of
// failures. `only`: the argument main() got, if it is such a process.
class Mistakes {
 public:
  explicit Mistakes(std::vector<Mistake> list) : list_(std::move(list)) {}

  // The exit status of the process that makes mistake number `text`.
  [[nodiscard]] int make(const char* text) const {
    const Mistake& mistake = list_.at(std::strtoul(text, nullptr, 10));
    emulator::set_faults(mistake.faults);
    try {
      under_all_schedules(mistake.body);
      for (uint64_t seed = 100; seed < (kFewSchedules ? 101 : 104); ++seed) {
        emulator::set_schedule({emulator::Order::kShuffled, seed, 2});
        mistake.body();
      }
    } catch (const std::exception& error) {
      std::fprintf(stderr, "%s\n", error.what());
      return 1;
    }
    return 0;
  }

  [[nodiscard]] int run_all() const {
    int failures = 0;
    for (size_t i = 0; i < list_.size(); ++i) {
      const bool harmless = list_[i].harmless;
      failures += run_test((harmless ? "passes: " : "is noticed: ") + list_[i].sentence, [&] {
        require(fails(i) != harmless, harmless ? "it failed" : "it passed");
      });
    }
    return failures;
  }

 private:
  [[nodiscard]] bool fails(size_t number) const {
    std::fflush(nullptr);
    const pid_t child = fork();
    require(child >= 0, "fork failed");
    if (child == 0) {
      const int nowhere = open("/dev/null", O_WRONLY);
      dup2(nowhere, STDERR_FILENO);  // what a sanitizer says of it
      const std::string argument = std::to_string(number);
#if defined(__SANITIZE_THREAD__)
      // TSAN is blind in a process forked from one that had fibers.
      execl("/proc/self/exe", "mistake", argument.c_str(), nullptr);
      _exit(0);
#else
      _exit(make(argument.c_str()));
#endif
    }
    int status = 0;
    require(waitpid(child, &status, 0) == child, "waitpid failed");
    return status != 0;
  }

  std::vector<Mistake> list_;
};

}  // namespace densecrf::testing
