// Sums of unequal lengths on CUDA, run by the emulator: of whole numbers, which must be exact, and
// in lattices some of whose vertices have long lists, against the CPU backend's.
#include "cuda/sums.h"

#include "cuda_problems.h"
#include "cuda_schedules.h"

namespace densecrf::testing {

namespace {

// ---- whole numbers -------------------------------------------------------------------------

int number(int item, int chunk) { return (item * 37 + chunk * 11) % 101 - 50; }

// A block sums the runs of a tile; what it stores is counted.
__global__ void sum_one_tile(cuda::EntryRuns runs, int chunks, int* sum, int* stores) {
  const cuda::LaneGroups mine = cuda::group_lanes(chunks);
  cuda::sum_runs<int>(
      runs, mine, [](int e) { return e; }, [&](int& to, int e) { to += number(e, mine.chunk); },
      [&](int row, int x) {
        sum[row * chunks + mine.chunk] = x;
        atomicAdd(stores + row * chunks + mine.chunk, 1);
      });
}

void compare_runs(const std::vector<int>& lengths, int chunks, const std::string& what) {
  std::vector<uint16_t> first;
  std::vector<int> expected;
  int entries = 0;
  for (const int length : lengths) {
    first.push_back(static_cast<uint16_t>(entries));
    for (int c = 0; c < chunks; ++c) {
      int sum = 0;
      for (int e = entries; e < entries + length; ++e) sum += number(e, c);
      expected.push_back(sum);
    }
    entries += length;
  }
  under_all_schedules([&] {
    std::vector<int> found(expected.size(), -7), stores(expected.size());
    cuda::launch({}, sum_one_tile, 1, cuda::kTile,
                 cuda::EntryRuns{first.data(), static_cast<int>(lengths.size()), entries}, chunks,
                 found.data(), stores.data());
    require(found == expected, what, ", ", chunks, " chunks: a sum is wrong");
    require(stores == std::vector<int>(expected.size(), 1), what, ", ", chunks,
            " chunks: a sum was not stored once");
  });
}

void runs_of_every_kind() {
  Random random(1);
  std::vector<int> halves, uneven;
  for (int left = 1536; left > 0; left -= halves.back()) halves.push_back((left + 1) / 2);
  for (int left = 1536; left > 0; left -= uneven.back()) {
    const auto length =
        static_cast<int>(random.below(4) == 0 ? random.below(256) : random.below(9));
    uneven.push_back(std::min(left, length + 1));
  }
  for (const int chunks : {1, 2, 3, 5, 6, 8, 12, 16, 32}) {
    compare_runs({1}, chunks, "one entry");
    compare_runs({3, 1}, chunks, "fewer entries than warps");
    compare_runs(std::vector<int>(6, 256), chunks, "a flat tile");
    compare_runs(std::vector<int>(1536, 1), chunks, "a row for every entry");
    compare_runs({1536}, chunks, "one row");
    compare_runs(halves, chunks, "rows of half what is left");
    compare_runs(uneven, chunks, "rows of any length");
  }
}

// Blocks sum the lists that are long. store: once for every long one.
__global__ void sum_lists(const int* first, int64_t lists, int longest, int chunks, int* sum,
                          int* stores) {
  auto& shared = cuda::shared_memory<cuda::LongListSums<int, 16>>();
  const cuda::LaneGroups mine = cuda::group_lanes(chunks);
  const auto length_of = [&](int64_t i) { return first[i + 1] - first[i]; };
  const cuda::LongLists search{cuda::place_in_grid(), lists, longest};
  search.for_each(shared, search.finds(0, length_of), length_of, [&](int64_t i, int turn) {
    cuda::sum_long_list(
        shared, mine, turn, length_of(i), [&](int j) { return number(first[i] + j, mine.chunk); },
        [&](int x) {
          sum[i * chunks + mine.chunk] = x;
          atomicAdd(stores + i * chunks + mine.chunk, 1);
        });
  });
}

void compare_lists(const std::vector<int>& lengths, int chunks, int64_t blocks) {
  constexpr int kLongest = 32;
  std::vector<int> first{0}, expected, stored;
  for (const int length : lengths) {
    for (int c = 0; c < chunks; ++c) {
      int sum = 0;
      for (int j = 0; j < length; ++j) sum += number(first.back() + j, c);
      expected.push_back(length > kLongest ? sum : -7);
      stored.push_back(length > kLongest ? 1 : 0);
    }
    first.push_back(first.back() + length);
  }
  std::vector<int> found(expected.size(), -7), stores(expected.size());
  cuda::launch({}, sum_lists, blocks, cuda::kTile, first.data(),
               static_cast<int64_t>(lengths.size()), kLongest, chunks, found.data(), stores.data());
  require(found == expected, chunks, " chunks, ", blocks, " blocks: a sum is wrong");
  require(stores == stored, chunks, " chunks, ", blocks, " blocks: a list was not summed once");
}

void lists_of_every_length() {
  Random random(2);
  std::vector<int> lengths{31, 32, 33, 64, 65, 0, 1, 257, 2000, 33, 33, 33};
  for (int i = 0; i < 700; ++i) {
    lengths.push_back(
        static_cast<int>(random.below(20) == 0 ? random.below(300) : random.below(9)));
  }
  for (const int chunks : {1, 2, 3, 6, 12, 16}) {
    for (const int64_t blocks : {1, 3, 40}) {
      under_all_schedules([&] { compare_lists(lengths, chunks, blocks); });
    }
  }
}

// ---- lattices ------------------------------------------------------------------------------

// So many tiles of loose points; in each of the first `hot` tiles most points lie in one place.
template <typename T>
Scene<T> hot_spot(int64_t tiles, int64_t hot) {
  Scene<T> scene = far_flung<T>({tiles * cuda::kTile}, 2);
  for (int64_t p = 0; p < hot * cuda::kTile; ++p) {
    if (p % 5 == 0) continue;
    for (int m = 0; m < 2; ++m) scene.features[p * 2 + m] = static_cast<T>(0.3);
  }
  return scene;
}

template <typename T>
std::vector<T> filter(const Scene<T>& scene, const std::vector<T>& values, int64_t channels) {
  const CudaLattice<T> lattice = cuda_lattice(scene, 20);
  Memory memory;
  std::vector<T> result(values.size(), T(7));
  cuda::filter(kCudaScalar<T>,
               {lattice.given(), scene.batch, channels, values.data(), result.data(),
                Normalization::kSymmetric, false},
               memory.context());
  return result;
}

// Values are of the size of 1, but averages over a flat region are not: the tolerance is absolute.
template <typename T>
void compare(const Scene<T>& scene, int64_t channels, const std::string& what) {
  constexpr double tolerance = sizeof(T) == 4 ? 1e-5 : 1e-12;
  const auto values = noise<T>(scene.points() * channels, -1.0, 1.0, 5);
  const auto expected = filter<T>(cpu::backend(), cpu_lattices(scene)[0], values, channels,
                                  Normalization::kSymmetric, false);
  std::vector<T> first;
  under_all_schedules([&] {
    const auto found = filter(scene, values, channels);
    for (size_t i = 0; i < found.size(); ++i) {
      const double difference = std::abs(static_cast<double>(found[i] - expected[i]));
      require(difference <= tolerance, what, ": value ", i, " is ", found[i], ", expected ",
              expected[i], " within ", tolerance);
    }
    if (first.empty()) first = found;
    require(found == first, what, ": another schedule, another result");
  });
}

template <typename T>
void hot_vertices() {
  for (const int64_t hot : {31, 32, 33, 64, 65}) {
    compare(hot_spot<T>(hot + 2, hot), 3, text("a vertex in ", hot, " tiles"));
  }
  compare(constant<T>({130, 130}, 5), 2, "a constant image");
  compare(constant<T>({90, 90}, 2), 21, "a constant image, 21 channels");
}

// A hot vertex has the same bits beside another image's.
void hot_vertices_of_a_batch() {
  const int64_t channels = 2;
  const Scene<float> one = hot_spot<float>(40, 36), other = hot_spot<float>(40, 39);
  Scene<float> both = one;
  both.batch = 2;
  both.features.insert(both.features.end(), other.features.begin(), other.features.end());
  const auto values = noise<float>(2 * one.points() * channels, -1.0, 1.0, 6);
  const auto together = filter(both, values, channels);
  for (int64_t b = 0; b < 2; ++b) {
    require(filter(b == 0 ? one : other, both.of_image(values, b), channels) ==
                both.of_image(together, b),
            "image ", b, " differs from itself alone");
  }
}

void a_hot_vertex() { compare(hot_spot<float>(36, 34), 2, "a hot vertex"); }

int run_all() {
  int failures = 0;
  const auto test = [&](const char* sentence, void (*body)()) {
    failures += run_test(sentence, body);
  };
  test("runs of a tile are summed once and exactly", runs_of_every_kind);
  test("long lists are summed once and exactly", lists_of_every_length);
  test("hot vertices have the CPU's sums, float32", hot_vertices<float>);
  test("hot vertices have the CPU's sums, float64", hot_vertices<double>);
  test("hot vertices do not know of another image's", hot_vertices_of_a_batch);
  return failures;
}

const Mistakes kMistakes({
    {"nothing", a_hot_vertex, {}, true},
    {"no barrier before the long lists are known", a_hot_vertex, {.skipped_barrier = 0}},
    {"no barrier between the warps' sums and theirs", a_hot_vertex, {.skipped_barrier = 1}},
});

}  // namespace

}  // namespace densecrf::testing

int main(int arguments, char** argument) {
  using namespace densecrf::testing;
  if (arguments > 1) return kMistakes.make(argument[1]);
  return run_all() + kMistakes.run_all() == 0 ? 0 : 1;
}
