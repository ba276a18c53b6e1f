// Scratch memory of the CUDA backend's calls: pieces cut from blocks.
#include "cuda/scratch.h"

#include <deque>

#include "check.h"

namespace densecrf::testing {

namespace {

using cuda::ScratchBlocks;

// Blocks as an allocator would give them, written to their last byte.
struct Blocks {
  struct Block {
    std::vector<char> memory;
    char* begin;
  };
  std::deque<Block> list;
  size_t bytes = 0;

  void* operator()(size_t size) {
    Block& block = list.emplace_back();
    block.memory.resize(size + ScratchBlocks::kAlign);
    const auto address = reinterpret_cast<uintptr_t>(block.memory.data());
    block.begin = block.memory.data() + (ScratchBlocks::kAlign - address % ScratchBlocks::kAlign);
    bytes += size;
    return block.begin;
  }
};

void pieces_are_aligned_and_do_not_overlap() {
  Random random(1);
  ScratchBlocks scratch;
  Blocks blocks;
  std::vector<std::pair<char*, size_t>> pieces;
  for (int i = 0; i < 300; ++i) {
    const size_t bytes = static_cast<size_t>(1 + random.below(i % 10 == 0 ? 3 << 20 : 5000));
    auto* piece = static_cast<char*>(scratch.take(bytes, std::ref(blocks)));
    require(reinterpret_cast<uintptr_t>(piece) % ScratchBlocks::kAlign == 0, "piece ", i);
    std::fill(piece, piece + bytes, static_cast<char>(i));
    pieces.emplace_back(piece, bytes);
  }
  for (size_t i = 0; i < pieces.size(); ++i) {
    const auto [piece, bytes] = pieces[i];
    require(std::count(piece, piece + bytes, static_cast<char>(i)) == static_cast<long>(bytes),
            "piece ", i, " was overwritten");
  }
}

void a_call_asks_for_few_blocks() {
  ScratchBlocks scratch;
  Blocks blocks;
  for (int i = 0; i < 40; ++i) (void)scratch.take(1000, std::ref(blocks));
  require(blocks.list.size() == 1, "40 small pieces took ", blocks.list.size(), " blocks");
  for (int i = 0; i < 30; ++i) (void)scratch.take(size_t{3} << 20, std::ref(blocks));
  require(blocks.list.size() <= 8, "30 pieces of 3 MiB took ", blocks.list.size(), " blocks");
}

void little_lies_idle() {
  ScratchBlocks scratch;
  Blocks blocks;
  size_t taken = 0;
  for (int i = 0; i < 20; ++i) {
    (void)scratch.take(size_t{70} << 20, std::ref(blocks));
    (void)scratch.take(1000, std::ref(blocks));
    taken += (size_t{70} << 20) + 1024;
  }
  require(blocks.bytes <= taken + ScratchBlocks::kLargestBlock, blocks.bytes, " for ", taken);
}

}  // namespace

}  // namespace densecrf::testing

int main() {
  using namespace densecrf::testing;
  int failures = 0;
  failures +=
      run_test("pieces are aligned and do not overlap", pieces_are_aligned_and_do_not_overlap);
  failures += run_test("a call asks for few blocks", a_call_asks_for_few_blocks);
  failures += run_test("little lies idle", little_lies_idle);
  return failures == 0 ? 0 : 1;
}
