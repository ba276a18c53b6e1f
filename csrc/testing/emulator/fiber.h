// Fibers: contexts of execution that change places when told to, known to ASAN and TSAN.
#pragma once

#include <cstddef>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace densecrf::emulator {

struct Fiber {
#if defined(__x86_64__)
  void* stack_pointer = nullptr;
#else
  ucontext_t context;
#endif
  char* stack = nullptr;  // lowest address
  size_t stack_bytes = 0;
  void* fake_stack = nullptr;  // ASAN's
  void* tsan = nullptr;        // TSAN's
};

// Makes the running context known as a fiber.
void adopt_current(Fiber& fiber);
// The next switch to the fiber begins with main(), which must end with leave_fiber.
void prepare_fiber(Fiber& fiber, void (*main)());
void switch_fiber(Fiber& from, Fiber& to);
// The first thing in a fiber's main, `from` being where the switch came from.
void entered_fiber(Fiber& fiber, Fiber& from);
[[noreturn]] void leave_fiber(Fiber& from, Fiber& to);

// For TSAN, which takes a switch for no synchronisation: what came before the one call on an
// address happens before what comes after the other.
void happens_before(const void* address);
void happens_after(const void* address);

// For ASAN: memory that must not and may be touched.
void poison(void* at, size_t bytes);
void unpoison(void* at, size_t bytes);

}  // namespace densecrf::emulator
