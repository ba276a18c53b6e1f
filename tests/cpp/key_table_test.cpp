// The key table: what several threads offer at once, and what one band enters and finds.
#include <algorithm>
#include <atomic>
#include <map>

#include "check.h"
#include "cpu/band.h"
#include "cpu/key_table.h"

namespace densecrf::testing {

namespace {

struct Offer {
  uint64_t key;
  uint32_t row;
};

// `count` keys whose search begins at one and the same slot, the last of the table if `last`: their
// probes then run over its end.
std::vector<uint64_t> colliding_keys(int bits, int count, bool last) {
  const KeyTable table{nullptr, bits};
  const uint64_t home = last ? table.mask() : 0;
  std::vector<uint64_t> keys;
  for (uint64_t key = 0; static_cast<int>(keys.size()) < count; ++key) {
    if (table.home(key) == home) keys.push_back(key);
  }
  return keys;
}

// Lets every thread make its offers at the same time, then compares with a map: each key once, its
// smallest row, at the slot that was returned, and where a search finds it.
void offer_and_check(int bits, const std::vector<std::vector<Offer>>& offers) {
  std::vector<Slot> slots(size_t{1} << bits);
  const KeyTable table{slots.data(), bits};
  table.clear();
  std::vector<std::vector<uint64_t>> returned(offers.size());
  std::atomic<size_t> ready{0};
  std::vector<std::thread> threads;
  for (size_t t = 0; t < offers.size(); ++t) {
    threads.emplace_back([&, t] {
      returned[t].reserve(offers[t].size());
      ready.fetch_add(1);
      while (ready.load() < offers.size()) std::this_thread::yield();
      for (const Offer& offer : offers[t]) returned[t].push_back(table.offer(offer.key, offer.row));
    });
  }
  for (std::thread& thread : threads) thread.join();

  std::map<uint64_t, uint32_t> smallest;
  for (const auto& list : offers) {
    for (const Offer& offer : list) {
      const auto [at, fresh] = smallest.try_emplace(offer.key, offer.row);
      if (!fresh) at->second = std::min(at->second, offer.row);
    }
  }
  std::map<uint64_t, uint32_t> found;
  for (const Slot& slot : slots) {
    if (slot.key == kNoKey) continue;
    require(found.try_emplace(slot.key, slot.row).second, "key ", slot.key, " has two slots");
  }
  require(found == smallest, "the table holds ", found.size(), " keys, expected ", smallest.size(),
          " with their smallest rows");
  const auto no_words = [](uint32_t) -> const uint64_t* { fail("words of a one-word key"); };
  for (size_t t = 0; t < offers.size(); ++t) {
    for (size_t i = 0; i < offers[t].size(); ++i) {
      const uint64_t key = offers[t][i].key;
      const uint64_t at = table.probe(fingerprint(&key, 1), &key, 1, no_words);
      require(at == returned[t][i], "key ", key, " was put at ", returned[t][i], ", found at ", at);
    }
  }
}

void shuffle(std::vector<Offer>& offers, Random& random) {
  for (size_t i = offers.size(); i > 1; --i) {
    std::swap(offers[i - 1], offers[static_cast<size_t>(random.below(static_cast<int64_t>(i)))]);
  }
}

// Every thread offers every key, each with rows of its own: in an order of its own, or all in the
// same, where they meet at every slot.
void race(int bits, const std::vector<uint64_t>& keys, int threads, bool shuffled, uint64_t seed) {
  Random random(seed);
  std::vector<std::vector<Offer>> offers(static_cast<size_t>(threads));
  for (auto& list : offers) {
    for (const uint64_t key : keys) {
      list.push_back({key, static_cast<uint32_t>(random.below(1000000))});
    }
    if (shuffled) shuffle(list, random);
  }
  offer_and_check(bits, offers);
}

void the_smallest_row_wins() {
  for (uint64_t round = 0; round < 100; ++round) {
    race(4, colliding_keys(4, 8, round % 2 == 1), 2 + static_cast<int>(round % 3), true, round);
  }
}

void large_tables_do_not_depend_on_the_schedule() {
  Random random(1);
  std::vector<uint64_t> keys;
  for (int i = 0; i < 4000; ++i) keys.push_back(random.bits() >> 1);
  keys.push_back(0);
  keys.push_back(kNoKey - 1);
  const int bits = table_bits(static_cast<int64_t>(keys.size()));
  for (uint64_t round = 0; round < 30; ++round) {
    race(bits, keys, round % 10 == 0 ? 4 : 2, round % 10 == 1, round);
  }
}

void a_full_table_holds_all_its_keys() {
  const std::vector<uint64_t> keys = colliding_keys(4, 16, false);
  for (uint64_t round = 0; round < 50; ++round) race(4, keys, 3, true, round);
}

void tables_are_at_most_half_full() {
  for (const int64_t keys : {1, 7, 8, 9, 1000, 1 << 20}) {
    const int64_t size = int64_t{1} << table_bits(keys);
    require(size >= 2 * keys, "a table of ", size, " slots for ", keys, " keys");
    require(size == 16 || size < 4 * keys, "a table of ", size, " slots for ", keys, " keys");
  }
}

// One band: rows in order of first touch, through several growths of table and key list.
void a_band_numbers_keys_in_order_of_first_touch() {
  for (const int words : {1, 2, 3}) {
    cpu::Workspace workspace;
    BandVertices<float> band(workspace, 0, words);
    std::map<std::vector<uint64_t>, uint32_t> known;
    Random random(2);
    for (int i = 0; i < 60000; ++i) {
      std::vector<uint64_t> key;
      for (int w = 0; w < words; ++w) key.push_back(static_cast<uint64_t>(random.below(200)) << 40);
      key[0] += static_cast<uint64_t>(i / 3);
      const auto [at, fresh] = known.try_emplace(key, static_cast<uint32_t>(known.size()));
      const uint32_t row = band.find_or_add(key.data(), words);
      require(row == at->second, "row ", row, " of ", words, " words, expected ", at->second);
      if (fresh) require(band.ones()[row] == 0.0f, "a new row starts at ", band.ones()[row]);
      band.ones()[row] = static_cast<float>(row + 1);
    }
    require(band.count() == static_cast<int64_t>(known.size()), band.count(), " rows, expected ",
            known.size());
    for (const auto& [key, row] : known) {
      require(std::equal(key.begin(), key.end(), band.key(row)), "row ", row, " lost its key");
      require(band.ones()[row] == static_cast<float>(row + 1), "row ", row, " lost its sum");
    }
  }
}

void equal_fingerprints_do_not_make_equal_keys() {
  // The second word can undo what the first did to the fingerprint.
  const auto mixed = [](uint64_t word) {
    const uint64_t product = word * 0xff51afd7ed558ccdull;
    return product ^ (product >> 32);
  };
  cpu::Workspace workspace;
  BandVertices<float> band(workspace, 0, 2);
  const uint64_t first[2] = {12345, 678};
  for (uint32_t i = 0; i < 50; ++i) {
    const uint64_t other[2] = {first[0] + i, first[1] ^ mixed(first[0]) ^ mixed(first[0] + i)};
    require(fingerprint(other, 2) == fingerprint(first, 2), "this test's keys do not collide");
    require(band.find_or_add(other, 2) == i, "a key was taken for another");
  }
  require(band.find_or_add(first, 2) == 0, "the first of the colliding keys is lost");
}

}  // namespace

}  // namespace densecrf::testing

int main() {
  using namespace densecrf::testing;
  int failures = 0;
  failures += run_test("the smallest row offered for a key wins", the_smallest_row_wins);
  failures += run_test("large tables do not depend on the schedule",
                       large_tables_do_not_depend_on_the_schedule);
  failures += run_test("a full table holds all its keys", a_full_table_holds_all_its_keys);
  failures += run_test("tables are at most half full", tables_are_at_most_half_full);
  failures += run_test("a band numbers keys in order of first touch",
                       a_band_numbers_keys_in_order_of_first_touch);
  failures += run_test("equal fingerprints do not make equal keys",
                       equal_fingerprints_do_not_make_equal_keys);
  return failures == 0 ? 0 : 1;
}
