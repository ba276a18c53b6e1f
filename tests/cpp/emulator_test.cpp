// The emulator that the CUDA kernels are tested with: it runs block-cooperative code right, under
// every schedule, and notices what is wrong with it.
#include <numeric>

#include "cuda/cooperative.h"
#include "cuda/launch.h"
#include "cuda_schedules.h"

namespace densecrf::testing {

namespace {

using cuda::kFullWarp;

constexpr int kThreads = 128;

enum class Wrong { kNone, kNoBarrier, kDivergence, kOverrun, kNarrowWarp, kNotCooperative };

// The sum of every kThreads numbers: shuffles in a warp, shared memory between warps.
template <Wrong kWrong>
__global__ void block_sums(const int* x, int* sums, int64_t n) {
  struct Shared {
    int warp_sum[kThreads / 32];
  };
  Shared& shared = cuda::shared_memory<Shared>();
  const int64_t i = cuda::thread_of_grid();
  int value = i < n ? x[i] : 0;
  if (kWrong == Wrong::kNarrowWarp && threadIdx.x % 32 == 31) return;
  for (int d = 16; d > 0; d /= 2) value += __shfl_down_sync(kFullWarp, value, d);
  if (threadIdx.x % 32 == 0) shared.warp_sum[threadIdx.x / 32] = value;
  if (kWrong != Wrong::kDivergence || threadIdx.x < 64) {
    if (kWrong != Wrong::kNoBarrier) __syncthreads();
  }
  if (threadIdx.x > 0) return;
  int total = 0;
  const int warps = kThreads / 32 + (kWrong == Wrong::kOverrun ? 1 : 0);
  for (int w = 0; w < warps; ++w) total += *(shared.warp_sum + w);
  sums[blockIdx.x] = total;
}

template <Wrong kWrong = Wrong::kNone>
void sum_blocks() {
  std::vector<int> x(1000), sums(8, -1);
  std::iota(x.begin(), x.end(), 1);
  cuda::launch({}, block_sums<kWrong>, 8, kThreads, x.data(), sums.data(), x.size());
  for (size_t b = 0; b < sums.size(); ++b) {
    const auto first = x.begin() + b * kThreads;
    const auto last = b == 7 ? x.end() : first + kThreads;
    const int expected = std::accumulate(first, last, 0);
    require(sums[b] == expected, "block ", b, ": ", sums[b], ", expected ", expected);
  }
}

__global__ void claim(int* owners, int* wins, int n) {
  for (int i = 0; i < n; ++i) {
    if (atomicCAS(owners + i, -1, static_cast<int>(cuda::thread_of_grid())) == -1) {
      atomicAdd(wins, 1);
    }
  }
}

// Threads of several blocks claim places: each has one owner.
void claim_places() {
  std::vector<int> owners(50, -1);
  int wins = 0;
  cuda::launch({}, claim, 3, 64, owners.data(), &wins, 50);
  require(wins == 50, wins, " claims of 50 places succeeded");
}

__global__ void warp_words(unsigned* even, int* up, int* rotated) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const unsigned votes = __ballot_sync(kFullWarp, lane % 2 == 0);
  if (lane < 8) {  // part of a warp
    rotated[threadIdx.x] = __shfl_sync(0xffu, static_cast<int>(threadIdx.x), (lane + 1) % 8, 8);
  }
  up[threadIdx.x] = __shfl_up_sync(kFullWarp, lane, 3, 16);
  even[threadIdx.x] = votes;
}

void warp_operations() {
  std::vector<unsigned> even(64);
  std::vector<int> up(64), rotated(64, -1);
  cuda::launch({}, warp_words, 1, 64, even.data(), up.data(), rotated.data());
  for (int t = 0; t < 64; ++t) {
    const int lane = t % 32;
    require(even[t] == 0x55555555u, "ballot gave ", even[t]);
    require(up[t] == (lane % 16 < 3 ? lane : lane - 3), "lane ", lane, " got ", up[t]);
    const int next = lane < 8 ? t - lane + (lane + 1) % 8 : -1;
    require(rotated[t] == next, "lane ", lane, " got ", rotated[t]);
  }
}

// x [2, n]: in every round each number goes to a thread that may be in another block.
template <Wrong kWrong>
__global__ void pass_on(int* x, int n, int rounds) {
  const auto i = static_cast<int>(cuda::thread_of_grid());
  for (int round = 0; round < rounds; ++round) {
    x[(round + 1) % 2 * n + i] = x[round % 2 * n + (i + 33) % n] + 1;
    if (kWrong == Wrong::kDivergence && i == 5) return;
    if (kWrong != Wrong::kNoBarrier) cuda::grid_barrier();
  }
}

template <Wrong kWrong = Wrong::kNone>
void pass_around() {
  constexpr int kRounds = 5;
  const auto kernel = pass_on<kWrong>;
  const int64_t blocks = cuda::cooperative_blocks(kernel, 64);
  const int n = static_cast<int>(blocks) * 64;
  std::vector<int> x(2 * n);
  std::iota(x.begin(), x.begin() + n, 0);
  if (kWrong == Wrong::kNotCooperative) {
    cuda::launch({}, kernel, blocks, 64, x.data(), n, kRounds);
  } else {
    cuda::launch_cooperative({}, kernel, blocks, 64, x.data(), n, kRounds);
  }
  for (int i = 0; i < n; ++i) {
    const int expected = (i + 33 * kRounds) % n + kRounds, found = x[kRounds % 2 * n + i];
    require(found == expected, "thread ", i, " has ", found, ", expected ", expected);
  }
}

__global__ void nothing() {}

template <typename Launch>
bool throws(const Launch& launch) {
  try {
    launch();
  } catch (const std::runtime_error&) {
    return true;
  }
  return false;
}

void failed_launches_throw() {
  for (const int threads : {0, 2000}) {
    require(throws([&] { cuda::launch({}, nothing, 1, threads); }), "a launch of ", threads,
            " threads a block passed");
  }
  const int64_t most = cuda::cooperative_blocks(nothing, 32);
  require(throws([&] { cuda::launch_cooperative({}, nothing, most + 1, 32); }),
          "a cooperative launch of ", most + 1, " blocks passed, where ", most, " are resident");
}

const Mistakes kMistakes({
    {"nothing", sum_blocks<>, {}, true},
    {"a missing barrier", sum_blocks<Wrong::kNoBarrier>},
    {"a barrier for some of the threads", sum_blocks<Wrong::kDivergence>},
    {"a shuffle for some of the lanes", sum_blocks<Wrong::kNarrowWarp>},
    {"a read beyond shared memory", sum_blocks<Wrong::kOverrun>},
    {"a barrier that does nothing", sum_blocks<>, {.skipped_barrier = 0}},
    {"no grid barrier", pass_around<Wrong::kNoBarrier>},
    {"a grid barrier for all threads but one", pass_around<Wrong::kDivergence>},
    {"a grid barrier that does nothing", pass_around<>, {.skipped_grid_barrier = 2}},
    {"a grid barrier in a launch that is not cooperative", pass_around<Wrong::kNotCooperative>},
    {"a claim in two steps", claim_places, {.split_atomics = true}},
});

int run_all() {
  int failures = 0;
  const auto test = [&](const char* sentence, void (*body)()) {
    failures += run_test(sentence, body);
  };
  test("block sums are right under every schedule", [] { under_all_schedules(sum_blocks<>); });
  test("places are claimed once under every schedule", [] { under_all_schedules(claim_places); });
  test("warp operations follow masks and widths", [] { under_all_schedules(warp_operations); });
  test("a cooperative grid waits for all its blocks under every schedule",
       [] { under_all_schedules(pass_around<>); });
  test("launches that no GPU takes throw", failed_launches_throw);
  return failures + kMistakes.run_all();
}

}  // namespace

}  // namespace densecrf::testing

int main(int arguments, char** argument) {
  using namespace densecrf::testing;
  if (arguments > 1) return kMistakes.make(argument[1]);
  return run_all() == 0 ? 0 : 1;
}
