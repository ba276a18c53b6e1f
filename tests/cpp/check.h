// What the C++ tests share: requirements, tests as sentences, a fixed random sequence, threads.
#pragma once

#include <cstdint>
#include <cstdio>
#include <exception>
#include <functional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "cpu/team.h"

namespace densecrf::testing {

template <typename... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream stream;
  (stream << ... << parts);
  return stream.str();
}

template <typename... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  throw std::runtime_error(text(parts...));
}

// The message is put together only where the condition does not hold.
template <typename... Parts>
void require(bool condition, const Parts&... parts) {
  if (!condition) fail(parts...);
}

// Runs a test and prints its sentence; returns the number of failures.
inline int run_test(const std::string& sentence, const std::function<void()>& body) {
  try {
    body();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "FAILED %s: %s\n", sentence.c_str(), error.what());
    return 1;
  }
  std::printf("ok %s\n", sentence.c_str());
  std::fflush(stdout);
  return 0;
}

// splitmix64: the same numbers on every machine.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t bits() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
  }
  int64_t below(int64_t n) { return static_cast<int64_t>(bits() % static_cast<uint64_t>(n)); }
  // In [0, 1).
  double real() { return static_cast<double>(bits() >> 11) * 0x1p-53; }
  double real(double low, double high) { return low + (high - low) * real(); }

 private:
  uint64_t state_;
};

// Calls lead(executor) with threads - 1 helpers behind it; what it throws comes out here.
template <typename Lead>
void with_team(int threads, const Lead& lead) {
  cpu::Team team(threads);
  std::vector<std::thread> helpers;
  for (int i = 1; i < threads; ++i) helpers.emplace_back([&] { team.help(); });
  std::exception_ptr failure;
  try {
    lead(team.executor());
  } catch (...) {
    failure = std::current_exception();
  }
  team.dismiss();
  for (std::thread& helper : helpers) helper.join();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace densecrf::testing
