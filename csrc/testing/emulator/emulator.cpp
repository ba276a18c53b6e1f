// What emulator.h declares. Compiled without TSAN's instrumentation: what fibers and scheduler know
// of each other is no data of the kernels.
#include "emulator.h"

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "fiber.h"

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace densecrf::emulator {

namespace {

constexpr unsigned kWarp = 32;
constexpr unsigned kMaxThreads = 1024;
constexpr int kMaxResident = 4;
// What a block may have on every GPU without asking for more.
constexpr size_t kMaxShared = 48 << 10;
constexpr size_t kRedZone = 32;
constexpr int kMaxShares = 16;
constexpr size_t kArena = kMaxShared + kMaxShares * (kRedZone + 16);

enum class State : int { kReady, kAtBlockBarrier, kAtWarpBarrier, kAtGridBarrier, kDone };

struct Thread {
  Fiber fiber;
  State state;
  unsigned index;
  int64_t barriers, grid_barriers;
  unsigned mask;   // of the warp operation it waits in
  uint64_t offer;  // to the lanes of its warp
  uint64_t received[kWarp];
  // Warp operations of which it was the first lane. TSAN is told of one by the address of one of
  // the two marks: lanes that have gone on to the next operation order nothing in this one.
  unsigned led;
  char led_mark[2];
};

struct Share {
  const void* tag;
  char* data;
};

struct Block {
  bool running = false;
  unsigned index = 0;
  unsigned left = 0;                               // threads not done
  unsigned waiting = 0;                            // of them at the block's barrier
  char started_mark, ended_mark, barrier_mark[2];  // addresses for TSAN
  std::unique_ptr<Thread[]> threads;
  char* arena = nullptr;
  size_t arena_used = 0;
  size_t shared_bytes = 0;
  int shares = 0;
  Share share[kMaxShares];
};

struct Emulator {
  Schedule schedule;
  Faults faults;
  Statistics statistics{};
  Fiber scheduler;
  Block blocks[kMaxResident];
  unsigned order[kMaxResident * kMaxThreads];
  unsigned threads = 0;
  unsigned cooperating = 0;  // threads of a cooperative launch
  unsigned waiting = 0;      // of them at the grid barrier
  char barrier_mark[2];
  void (*body)(void*) = nullptr;
  void* context = nullptr;
  Block* block = nullptr;
  Thread* thread = nullptr;
  const char* failure = nullptr;
  uint64_t random = 0;
};

Emulator& emulator() {
  // Never destroyed: its fibers' stacks stay reachable, which is what the leak check asks.
  static Emulator& instance = *new Emulator;
  return instance;
}

uint64_t random_bits() {
  uint64_t& x = emulator().random;  // xorshift64
  x ^= x << 13;
  x ^= x >> 7;
  x ^= x << 17;
  return x;
}

void to_scheduler() { switch_fiber(emulator().thread->fiber, emulator().scheduler); }

[[noreturn]] void stop(const char* failure) {
  emulator().failure = failure;
  to_scheduler();
  __builtin_unreachable();
}

void thread_main() {
  Emulator& e = emulator();
  entered_fiber(e.thread->fiber, e.scheduler);
  happens_after(&e.block->started_mark);
  e.body(e.context);
  e.thread->state = State::kDone;
  happens_before(&e.block->ended_mark);
  leave_fiber(e.thread->fiber, e.scheduler);
}

void start_block(Block& block, unsigned index) {
  Emulator& e = emulator();
  happens_after(&block.ended_mark);
  if (!block.threads) {
    block.threads = std::make_unique<Thread[]>(kMaxThreads);
    block.arena = new char[kArena];
  }
  unpoison(block.arena, kArena);
  std::memset(block.arena, e.schedule.garbage, kArena);
  poison(block.arena, kArena);
  block.running = true;
  block.index = index;
  block.left = e.threads;
  block.waiting = 0;
  block.arena_used = block.shared_bytes = 0;
  block.shares = 0;
  for (unsigned t = 0; t < e.threads; ++t) {
    Thread& thread = block.threads[t];
    thread.state = State::kReady;
    thread.index = t;
    thread.barriers = thread.grid_barriers = 0;
    thread.led = 0;
    prepare_fiber(thread.fiber, thread_main);
  }
  happens_before(&block.started_mark);
}

void resume(Block& block, Thread& thread) {
  Emulator& e = emulator();
  e.block = &block;
  e.thread = &thread;
  threadIdx.x = thread.index;
  blockIdx.x = block.index;
  switch_fiber(e.scheduler, thread.fiber);
  if (thread.state == State::kDone) {
    --block.left;
    Statistics& most = e.statistics;
    most.barriers = std::max(most.barriers, thread.barriers);
    most.grid_barriers = std::max(most.grid_barriers, thread.grid_barriers);
  }
}

// The slots of all resident threads, in the order in which they are looked at.
void set_order(unsigned slots) {
  Emulator& e = emulator();
  for (unsigned i = 0; i < slots; ++i) {
    e.order[i] = e.schedule.order == Order::kReverse ? slots - 1 - i : i;
  }
  if (e.schedule.order != Order::kShuffled) return;
  for (unsigned i = slots; i > 1; --i) {
    std::swap(e.order[i - 1], e.order[random_bits() % i]);
  }
}

void release_block_barrier(Block& block) {
  for (unsigned t = 0; t < emulator().threads; ++t) block.threads[t].state = State::kReady;
  block.waiting = 0;
}

void release_grid_barrier() {
  Emulator& e = emulator();
  for (Block& block : e.blocks) {
    if (block.running) release_block_barrier(block);
  }
  e.waiting = 0;
}

// Completes a warp operation when all lanes it names wait in it.
void complete_warp(Block& block, unsigned warp, unsigned mask) {
  Thread* lanes = block.threads.get() + warp * kWarp;
  for (unsigned l = 0; l < kWarp; ++l) {
    if (!(mask >> l & 1u)) continue;
    if (warp * kWarp + l >= emulator().threads) stop("a warp operation names lanes that are none");
    if (lanes[l].state != State::kAtWarpBarrier || lanes[l].mask != mask) return;
  }
  ++lanes[__builtin_ctz(mask)].led;
  for (unsigned l = 0; l < kWarp; ++l) {
    if (!(mask >> l & 1u)) continue;
    for (unsigned from = 0; from < kWarp; ++from) {
      if (mask >> from & 1u) lanes[l].received[from] = lanes[from].offer;
    }
    lanes[l].state = State::kReady;
  }
}

std::string describe_deadlock() {
  for (const Block& block : emulator().blocks) {
    if (block.running && block.waiting > 0 && block.left < emulator().threads) {
      return "__syncthreads that not every thread of the block reaches";
    }
  }
  if (emulator().waiting > 0) return "a grid barrier that not every thread of the grid reaches";
  return "deadlock: threads wait in different barriers or warp operations";
}

// Resumes the resident threads that can go on, each once; returns whether there was one. With
// `skipping`, half of the warps are passed over, so that some get far ahead of others.
bool run_once(unsigned slots, bool skipping) {
  Emulator& e = emulator();
  if (e.schedule.order == Order::kShuffled) set_order(slots);
  uint64_t passed_over[kMaxResident] = {};
  for (uint64_t& warps : passed_over) warps = skipping ? random_bits() >> 16 : 0;
  bool ran = false;
  for (unsigned i = 0; i < slots && e.failure == nullptr; ++i) {
    const unsigned place = e.order[i] / e.threads, t = e.order[i] % e.threads;
    Block& block = e.blocks[place];
    if (!block.running || (passed_over[place] >> t / kWarp & 1u)) continue;
    if (block.threads[t].state != State::kReady) continue;
    resume(block, block.threads[t]);
    ran = true;
    if (block.left == 0) block.running = false;
  }
  return ran;
}

// Starts blocks in free places; returns whether any is running.
bool fill_places(unsigned* next, unsigned blocks) {
  Emulator& e = emulator();
  bool any = false;
  for (int place = 0; place < e.schedule.resident_blocks; ++place) {
    Block& block = e.blocks[place];
    if (!block.running && *next < blocks) start_block(block, (*next)++);
    any = any || block.running;
  }
  return any;
}

void end_grid() {
  Emulator& e = emulator();
  for (Block& block : e.blocks) {
    block.running = false;
    happens_after(&block.ended_mark);
  }
}

}  // namespace

void set_schedule(const Schedule& schedule) {
  if (schedule.resident_blocks < 1 || schedule.resident_blocks > kMaxResident) {
    throw std::invalid_argument("1 to 4 blocks can be resident");
  }
  emulator().schedule = schedule;
  emulator().random = schedule.seed * 0x9e3779b97f4a7c15ull + 0x853c49e6748fea9bull;
}

void set_faults(const Faults& faults) { emulator().faults = faults; }

Statistics statistics() { return emulator().statistics; }

void reset_statistics() { emulator().statistics = {}; }

void count_memset() { ++emulator().statistics.memsets; }

void count_copy(size_t bytes) {
  ++emulator().statistics.copies;
  emulator().statistics.copied_bytes += static_cast<int64_t>(bytes);
}

int resident_blocks() { return emulator().schedule.resident_blocks; }
unsigned char garbage() { return emulator().schedule.garbage; }

void run_grid(unsigned blocks, unsigned threads, void (*body)(void*), void* context,
              bool cooperative) {
  Emulator& e = emulator();
  if (threads == 0 || threads > kMaxThreads || blocks == 0) {
    throw std::runtime_error("a launch of " + std::to_string(blocks) + " blocks of " +
                             std::to_string(threads) + " threads");
  }
  if (cooperative && blocks > static_cast<unsigned>(e.schedule.resident_blocks)) {
    throw std::runtime_error("a cooperative launch of " + std::to_string(blocks) +
                             " blocks, of which " + std::to_string(e.schedule.resident_blocks) +
                             " can be resident");
  }
  ++e.statistics.launches;
  e.threads = threads;
  e.cooperating = cooperative ? blocks * threads : 0;
  e.waiting = 0;
  e.body = body;
  e.context = context;
  e.failure = nullptr;
  gridDim.x = blocks;
  blockDim.x = threads;
  adopt_current(e.scheduler);
  const unsigned slots = static_cast<unsigned>(e.schedule.resident_blocks) * threads;
  set_order(slots);
  bool patient = true;  // whether warps may be passed over this time
  for (unsigned next = 0; fill_places(&next, blocks);) {
    const bool ran = run_once(slots, patient && e.schedule.order == Order::kShuffled);
    if (e.failure != nullptr) {
      end_grid();
      throw std::runtime_error(e.failure);
    }
    if (!ran && !patient) {
      const std::string what = describe_deadlock();
      end_grid();
      throw std::runtime_error(what);
    }
    patient = ran;
  }
  end_grid();
}

void* shared_memory(const void* tag, size_t bytes) {
  Block& block = *emulator().block;
  for (int i = 0; i < block.shares; ++i) {
    if (block.share[i].tag == tag) return block.share[i].data;
  }
  if (block.shares == kMaxShares || block.shared_bytes + bytes > kMaxShared) {
    stop("a block wants more than 48 KiB of shared memory");
  }
  char* data = block.arena + (block.arena_used + kRedZone + 15) / 16 * 16;
  data += -reinterpret_cast<uintptr_t>(data) % 16;
  unpoison(data, bytes);
  block.arena_used = static_cast<size_t>(data - block.arena) + bytes;
  block.shared_bytes += bytes;
  block.share[block.shares++] = {tag, data};
  return data;
}

void block_barrier() {
  Emulator& e = emulator();
  if (e.thread->barriers++ == e.faults.skipped_barrier) return;
  Block& block = *e.block;
  const char* mark = &block.barrier_mark[e.thread->barriers % 2];
  happens_before(mark);
  e.thread->state = State::kAtBlockBarrier;
  if (++block.waiting == e.threads) release_block_barrier(block);
  to_scheduler();
  happens_after(mark);
}

void grid_barrier() {
  Emulator& e = emulator();
  if (e.cooperating == 0) stop("a grid barrier in a launch that is not cooperative");
  if (e.thread->grid_barriers++ == e.faults.skipped_grid_barrier) return;
  const char* mark = &e.barrier_mark[e.thread->grid_barriers % 2];
  happens_before(mark);
  e.thread->state = State::kAtGridBarrier;
  if (++e.waiting == e.cooperating) release_grid_barrier();
  to_scheduler();
  happens_after(mark);
}

void warp_barrier(unsigned mask) {
  Emulator& e = emulator();
  if (mask == 0xffffffffu && e.threads - e.thread->index / kWarp * kWarp < kWarp) {
    mask = (1u << e.threads % kWarp) - 1;  // the last warp of the block is not full
  }
  const unsigned warp = e.thread->index / kWarp;
  if (!(mask >> lane() & 1u)) stop("a lane is in a warp operation that does not name it");
  const Thread& leader = e.block->threads[warp * kWarp + __builtin_ctz(mask)];
  const char* mark = &leader.led_mark[leader.led % 2];
  happens_before(mark);
  e.thread->mask = mask;
  e.thread->state = State::kAtWarpBarrier;
  complete_warp(*e.block, warp, mask);
  to_scheduler();
  happens_after(mark);
}

uint64_t exchange(unsigned mask, uint64_t value, unsigned source_lane) {
  Thread* thread = emulator().thread;
  thread->offer = value;
  warp_barrier(mask);
  return thread->received[source_lane];
}

unsigned ballot(unsigned mask, bool predicate) {
  Thread* thread = emulator().thread;
  thread->offer = predicate ? 1 : 0;
  warp_barrier(mask);
  unsigned bits = 0;
  for (unsigned l = 0; l < kWarp; ++l) {
    const bool there = mask >> l & 1u;
    if (there && thread->index / kWarp * kWarp + l < emulator().threads) {
      bits |= static_cast<unsigned>(thread->received[l]) << l;
    }
  }
  return bits;
}

int lane() { return static_cast<int>(emulator().thread->index % kWarp); }

void preempt() {
  Emulator& e = emulator();
  if (e.schedule.order == Order::kShuffled && random_bits() % 4 == 0) to_scheduler();
}

bool splits_atomics() { return emulator().faults.split_atomics; }

}  // namespace densecrf::emulator
