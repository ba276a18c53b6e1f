// Threads for one call: a leader that runs the algorithm and helpers that take tasks from it.
//
// A phase is over when its tasks are done, not when every thread has arrived: a helper that the
// system has put aside holds nobody up, and a team whose helpers never come still finishes. That
// matters because an iteration has some twenty phases of a few hundred microseconds each.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>

#include "backend.h"

namespace densecrf::cpu {

class Team {
 public:
  explicit Team(int threads) : executor_{threads, &Team::run_phase, this} {}

  // What the leader hands to the backend.
  const Executor& executor() const { return executor_; }

  // Called by every helper: works until the leader dismisses the team.
  void help();

  // Called by the leader when it is done, also if it failed.
  void dismiss();

 private:
  static void run_phase(void* self, int tasks, void (*body)(void*, int), void* context);
  void work(uint32_t phase);

  Executor executor_;

  // The phase at hand; written by the leader while no task is open.
  int tasks_ = 0;
  void (*body_)(void*, int) = nullptr;
  void* context_ = nullptr;

  // Phase number in the upper half, tasks not yet taken in the lower.
  alignas(64) std::atomic<uint64_t> open_{0};
  alignas(64) std::atomic<int> done_{0};
  std::atomic<bool> dismissed_{false};
  std::mutex failure_mutex_;
  std::exception_ptr failure_;
};

}  // namespace densecrf::cpu
