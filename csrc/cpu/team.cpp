#include "team.h"

#include <thread>
#include <utility>

namespace densecrf::cpu {

namespace {

constexpr int kSpins = 2000;  // looks before a waiting thread offers its core to others

template <typename Done>
void wait_until(const Done& done) {
  for (int spins = 0; !done(); ++spins) {
    if (spins < kSpins) {
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    } else {
      std::this_thread::yield();
    }
  }
}

uint32_t phase_of(uint64_t open) { return static_cast<uint32_t>(open >> 32); }

}  // namespace

void Team::run_phase(void* self, int tasks, void (*body)(void*, int), void* context) {
  Team& team = *static_cast<Team*>(self);
  team.tasks_ = tasks;
  team.body_ = body;
  team.context_ = context;
  team.done_.store(0, std::memory_order_relaxed);
  const uint32_t phase = phase_of(team.open_.load(std::memory_order_relaxed)) + 1;
  team.open_.store(uint64_t{phase} << 32 | static_cast<uint32_t>(tasks), std::memory_order_release);
  team.work(phase);
  wait_until([&] { return team.done_.load(std::memory_order_acquire) == tasks; });
  if (team.failure_) std::rethrow_exception(std::exchange(team.failure_, nullptr));
}

// Takes tasks of the phase until none is left. Whoever holds an untaken task of a phase keeps the
// leader from starting the next, so the phase's fields do not change under it.
void Team::work(uint32_t phase) {
  uint64_t open = open_.load(std::memory_order_acquire);
  while (phase_of(open) == phase && static_cast<uint32_t>(open) > 0) {
    if (!open_.compare_exchange_weak(open, open - 1, std::memory_order_acq_rel,
                                     std::memory_order_acquire)) {
      continue;
    }
    const int task = tasks_ - static_cast<int>(static_cast<uint32_t>(open));
    try {
      body_(context_, task);
    } catch (...) {
      const std::lock_guard lock(failure_mutex_);
      if (!failure_) failure_ = std::current_exception();
    }
    done_.fetch_add(1, std::memory_order_acq_rel);
    open = open_.load(std::memory_order_acquire);
  }
}

void Team::help() {
  uint32_t seen = 0;
  for (;;) {
    uint64_t open = 0;
    wait_until([&] {
      open = open_.load(std::memory_order_acquire);
      return phase_of(open) != seen || dismissed_.load(std::memory_order_acquire);
    });
    if (dismissed_.load(std::memory_order_acquire)) return;
    seen = phase_of(open);
    work(seen);
  }
}

void Team::dismiss() { dismissed_.store(true, std::memory_order_release); }

}  // namespace densecrf::cpu
