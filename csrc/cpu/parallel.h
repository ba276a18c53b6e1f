// Running a callable on the caller's threads.
#pragma once

#include <cstdint>
#include <type_traits>

#include "../portable.h"
#include "backend.h"

namespace densecrf::inline DENSECRF_ISA {

// body(0) ... body(tasks - 1), in any order; returns when all are done.
template <typename Body>
HOST_DEVICE void parallel(const cpu::Executor& executor, int tasks, Body&& body) {
  if (tasks == 1 || executor.threads == 1) {
    for (int task = 0; task < tasks; ++task) body(task);
    return;
  }
  auto call = [](void* context, int task) {
    (*static_cast<std::remove_reference_t<Body>*>(context))(task);
  };
  executor.run(executor.self, tasks, call, const_cast<void*>(static_cast<const void*>(&body)));
}

// Task `task`'s share of n items: [begin, end).
struct Share {
  int64_t begin;
  int64_t end;
};

HOST_DEVICE Share share(int64_t n, int tasks, int task) {
  return {n * task / tasks, n * (task + 1) / tasks};
}

}  // namespace densecrf::inline DENSECRF_ISA
