#include "fiber.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
// Declared by hand: the file itself is compiled without TSAN's instrumentation.
extern "C" {
[[gnu::weak]] void* __tsan_get_current_fiber();
[[gnu::weak]] void* __tsan_create_fiber(unsigned flags);
[[gnu::weak]] void __tsan_switch_to_fiber(void* fiber, unsigned flags);
[[gnu::weak]] void __tsan_acquire(void* address);
[[gnu::weak]] void __tsan_release(void* address);
// The first race ends the program: tests of mistakes see it in the exit status.
const char* __tsan_default_options() { return "halt_on_error=1"; }
}

namespace densecrf::emulator {

namespace {

constexpr size_t kStackBytes = 64 << 10;
constexpr unsigned kNoSynchronisation = 1;

void announce(Fiber& from, Fiber& to, bool for_ever) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(for_ever ? nullptr : &from.fake_stack, to.stack, to.stack_bytes);
#else
  (void)from, (void)for_ever;
#endif
  if (__tsan_switch_to_fiber != nullptr) __tsan_switch_to_fiber(to.tsan, kNoSynchronisation);
}

// ASAN tells the bounds of the stack one comes from; of the scheduler's, nobody else does.
void arrived(Fiber& self, Fiber& from) {
#if defined(__SANITIZE_ADDRESS__)
  const void* bottom = nullptr;
  size_t bytes = 0;
  __sanitizer_finish_switch_fiber(self.fake_stack, &bottom, &bytes);
  from.stack = static_cast<char*>(const_cast<void*>(bottom));
  from.stack_bytes = bytes;
#else
  (void)self, (void)from;
#endif
}

}  // namespace

#if defined(__x86_64__)
// Saves what the calling convention has a callee keep, and goes on where `to` left off.
extern "C" void densecrf_emulator_switch(void** from, void* to);
asm(R"(
.text
.globl densecrf_emulator_switch
.hidden densecrf_emulator_switch
.type densecrf_emulator_switch, @function
densecrf_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size densecrf_emulator_switch, .-densecrf_emulator_switch
)");

static void change_places(Fiber& from, Fiber& to) {
  densecrf_emulator_switch(&from.stack_pointer, to.stack_pointer);
}

static void set_entry(Fiber& fiber, void (*main)()) {
  // Six registers, the address to return to, and a return address for main, which has none.
  auto* top = reinterpret_cast<void**>(fiber.stack + fiber.stack_bytes);
  top -= 8;
  std::memset(top, 0, 8 * sizeof(void*));
  top[6] = reinterpret_cast<void*>(main);
  fiber.stack_pointer = top;
}
#else
static void change_places(Fiber& from, Fiber& to) { swapcontext(&from.context, &to.context); }

static void set_entry(Fiber& fiber, void (*main)()) {
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack;
  fiber.context.uc_stack.ss_size = fiber.stack_bytes;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, main, 0);
}
#endif

void adopt_current(Fiber& fiber) {
  if (__tsan_get_current_fiber != nullptr) fiber.tsan = __tsan_get_current_fiber();
}

void prepare_fiber(Fiber& fiber, void (*main)()) {
  if (fiber.stack == nullptr) {
    fiber.stack = static_cast<char*>(std::aligned_alloc(64, kStackBytes));
    fiber.stack_bytes = kStackBytes;
    if (__tsan_create_fiber != nullptr) fiber.tsan = __tsan_create_fiber(0);
  }
  unpoison(fiber.stack, fiber.stack_bytes);  // an earlier run may have been left in the middle
  fiber.fake_stack = nullptr;
  set_entry(fiber, main);
}

void switch_fiber(Fiber& from, Fiber& to) {
  announce(from, to, false);
  change_places(from, to);
  arrived(from, to);
}

void leave_fiber(Fiber& from, Fiber& to) {
  announce(from, to, true);
  change_places(from, to);
  std::abort();
}

void entered_fiber(Fiber& fiber, Fiber& from) { arrived(fiber, from); }

void happens_before(const void* address) {
  if (__tsan_release != nullptr) __tsan_release(const_cast<void*>(address));
}

void happens_after(const void* address) {
  if (__tsan_acquire != nullptr) __tsan_acquire(const_cast<void*>(address));
}

void poison(void* at, size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
  ASAN_POISON_MEMORY_REGION(at, bytes);
#else
  (void)at, (void)bytes;
#endif
}

void unpoison(void* at, size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
  ASAN_UNPOISON_MEMORY_REGION(at, bytes);
#else
  (void)at, (void)bytes;
#endif
}

}  // namespace densecrf::emulator
