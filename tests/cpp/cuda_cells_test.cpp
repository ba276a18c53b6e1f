// The bitmap of cells by itself: what is set in it, and the ranks.
#include <algorithm>

#include "cuda/build.h"
#include "cuda_lattice.h"
#include "cuda_schedules.h"

namespace densecrf::testing {

namespace {

// The kernels over cells in any order and often more than once: one of every `sparse` of an image,
// or all of them.
class BareBitmap {
 public:
  BareBitmap(int64_t batch, int64_t cells, int64_t sparse, uint64_t seed) : batch_(batch) {
    const int64_t runs = cuda::runs_of_image(cells), image_cells = runs * cuda::kRunCells;
    set_.assign(static_cast<size_t>(batch * image_cells), false);
    Random random(seed);
    std::vector<std::vector<uint64_t>> of_image(static_cast<size_t>(batch));
    size_t most = 0;
    for (int64_t b = 0; b < batch; ++b) {
      for (int64_t cell = 0; cell < cells; ++cell) {
        if (sparse > 1 && random.below(sparse) != 0) continue;
        set_[static_cast<size_t>(b * image_cells + cell)] = true;
        const int64_t times = 1 + random.below(2);
        for (int64_t k = 0; k < times; ++k) of_image[b].push_back(static_cast<uint64_t>(cell));
      }
      for (size_t i = of_image[b].size(); i > 1; --i) {
        std::swap(of_image[b][i - 1], of_image[b][random.below(static_cast<int64_t>(i))]);
      }
      most = std::max(most, of_image[b].size());
    }
    // Two rows a lane, for as many tiles as the fullest image needs.
    const int64_t rows = 2 * cuda::kTile, tiles = (static_cast<int64_t>(most) + rows - 1) / rows;
    keys_.assign(static_cast<size_t>(batch * tiles * rows), 0);
    entry_.resize(keys_.size());
    first_entry_.resize(keys_.size());
    entry_first_.resize(keys_.size());
    place_.resize(keys_.size());
    tile_first_.assign(1, 0);
    for (int64_t tile = 0; tile < batch * tiles; ++tile) {
      const std::vector<uint64_t>& cells_of = of_image[tile / tiles];
      int64_t count = 0;
      for (int64_t i = 0; i < rows; ++i) {
        const auto at = static_cast<size_t>(tile % tiles * rows + i);
        entry_[tile * rows + i] = first_entry_[tile * rows + i] = static_cast<uint16_t>(i);
        if (at >= cells_of.size()) continue;
        keys_[tile * rows + i] = cells_of[at];
        ++count;
      }
      tile_first_.push_back(tile_first_.back() + static_cast<int32_t>(count));
    }
    a_.batch = batch;
    a_.tiles = tiles;
    a_.vertices_per_point = 2;
    a_.max_vertices = image_cells;
    a_.keys = {keys_.data(), static_cast<int64_t>(keys_.size())};
    a_.entry = entry_.data();
    a_.tile_entry_first = first_entry_.data();
    a_.tile_first = tile_first_.data();
    a_.entry_first = entry_first_.data();
    a_.place = place_.data();
    a_.parts = runs;
    numbering_.image_cells = static_cast<uint32_t>(image_cells);
  }

  void check() {
    std::vector<uint32_t> bits(set_.size() / cuda::kWordCells, 0);
    std::vector<uint16_t> before(set_.size() / cuda::kPairCells, 0xffff);
    std::vector<int32_t> part_count(batch_ * a_.parts, -1), part_first(part_count.size() + 1, -1);
    std::vector<int32_t> image_count(batch_, -1), image_first(batch_ + 1, -1);
    std::vector<int32_t> counters(2 * a_.vertices_per_point + 1, -1);
    int32_t failure = cuda::kSound;
    a_.part_count = part_count.data();
    a_.part_first = part_first.data();
    a_.image_count = image_count.data();
    a_.image_first = image_first.data();
    a_.failure = &failure;
    a_.chain_count = counters.data();
    a_.longest_chain = counters.data() + a_.vertices_per_point;
    a_.long_lists = &counters.back();
    numbering_.bits = bits.data();
    numbering_.before = before.data();
    numbering_.run_first = part_first.data();
    cuda::launch({}, cuda::mark_cells, 3, cuda::kTile, a_, numbering_);
    cuda::launch({}, cuda::count_cells, 3, cuda::kTile, a_, numbering_);
    cuda::launch({}, cuda::bound_images, 1, cuda::kScanThreads, a_);
    int32_t rank = 0;
    for (size_t cell = 0; cell < set_.size(); ++cell) {
      const auto at = static_cast<uint32_t>(cell);
      require(numbering_.holds(at) == set_[cell], "cell ", cell, " is ", set_[cell] ? "not " : "",
              "set");
      require(numbering_.rank(at) == rank, "cell ", cell, " has rank ", numbering_.rank(at),
              ", expected ", rank);
      rank += set_[cell] ? 1 : 0;
    }
    for (const int32_t counter : counters) require(counter == 0, "a counter is not cleared");
    require(image_first[batch_] == rank, "there are ", image_first[batch_], " vertices of ", rank);
    for (size_t t = 0; t < place_.size(); ++t) {
      const auto rows = static_cast<size_t>(tile_first_.back());
      require(t >= rows || set_[place_[t]], "place ", t, " is no vertex");
    }
  }

 private:
  int64_t batch_;
  std::vector<bool> set_;  // of the batch
  std::vector<uint64_t> keys_;
  std::vector<uint16_t> entry_, first_entry_, entry_first_;
  std::vector<uint32_t> place_;
  std::vector<int32_t> tile_first_;
  cuda::VertexArguments a_{};
  cuda::CellNumbering numbering_{};
};

void ranks_are_those_of_a_sorted_set() {
  const auto check = [](int64_t batch, int64_t cells, int64_t sparse) {
    under_all_schedules([&] { BareBitmap(batch, cells, sparse, 7).check(); });
  };
  check(1, 1, 1);
  check(1, cuda::kRunCells, 1);  // a run without a hole
  check(1, 70'000, 9);
  check(3, 2'000, 2);
  check(2, 400'000, 3000);  // more runs than blocks
}

void a_few_words() { BareBitmap(1, 3'000, 2, 1).check(); }

const Mistakes kMistakes({
    {"nothing", a_few_words, {}, true},
    {"bits set in two steps", a_few_words, {.split_atomics = true}},
    {"the second barrier does nothing", a_few_words, {.skipped_barrier = 1}},
});

int run_all() {
  return run_test("ranks are those of a sorted set", ranks_are_those_of_a_sorted_set) +
         kMistakes.run_all();
}

}  // namespace

}  // namespace densecrf::testing

int main(int arguments, char** argument) {
  using namespace densecrf::testing;
  if (arguments > 1) return kMistakes.make(argument[1]);
  return run_all() == 0 ? 0 : 1;
}
