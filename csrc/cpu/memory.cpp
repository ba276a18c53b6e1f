#include "memory.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace densecrf::cpu {

namespace {

constexpr size_t kHugePage = size_t{2} << 20;

size_t round_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

}  // namespace

void advise_huge_pages(void* data, size_t bytes) {
#if defined(__linux__)
  const auto begin = round_up(reinterpret_cast<uintptr_t>(data), kHugePage);
  const auto end = (reinterpret_cast<uintptr_t>(data) + bytes) / kHugePage * kHugePage;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)data;
  (void)bytes;
#endif
}

Buffer::~Buffer() { std::free(data_); }

void* Buffer::reserve(size_t bytes, size_t keep) {
  if (bytes <= capacity_) return data_;
  const size_t unit = bytes >= kHugePage ? kHugePage : 4096;
  const size_t capacity = round_up(bytes + bytes / 4, unit);
  void* fresh = std::aligned_alloc(unit, capacity);
  if (fresh == nullptr) throw std::bad_alloc();
  advise_huge_pages(fresh, capacity);
  if (keep > 0) std::memcpy(fresh, data_, keep);
  std::free(data_);
  data_ = fresh;
  capacity_ = capacity;
  return data_;
}

struct Workspace::Buffers {
  std::deque<Buffer> list;

  size_t bytes() const {
    size_t sum = 0;
    for (const Buffer& buffer : list) sum += buffer.capacity();
    return sum;
  }
};

namespace {

// Idle workspaces, the last used on top.
struct Pool {
  std::mutex mutex;
  size_t limit = size_t{1} << 30;
  std::vector<Workspace::Buffers*> idle;

  size_t bytes() const {
    size_t sum = 0;
    for (const Workspace::Buffers* buffers : idle) sum += buffers->bytes();
    return sum;
  }

  // Frees the longest idle until no more than `bytes` are held.
  void shrink(size_t most) {
    while (!idle.empty() && bytes() > most) {
      delete idle.front();
      idle.erase(idle.begin());
    }
  }
};

// Never destroyed: a thread may still return a workspace while the process ends.
Pool& pool() {
  static Pool* instance = new Pool;
  return *instance;
}

}  // namespace

Workspace::Workspace() {
  const std::lock_guard lock(pool().mutex);
  if (pool().idle.empty()) {
    buffers_ = new Buffers;
  } else {
    buffers_ = pool().idle.back();
    pool().idle.pop_back();
  }
}

Workspace::~Workspace() {
  const std::lock_guard lock(pool().mutex);
  pool().idle.push_back(buffers_);
  pool().shrink(pool().limit);
}

Buffer& Workspace::buffer(size_t index) {
  while (buffers_->list.size() <= index) buffers_->list.emplace_back();
  return buffers_->list[index];
}

size_t workspace_bytes() {
  const std::lock_guard lock(pool().mutex);
  return pool().bytes();
}

void clear_workspaces() {
  const std::lock_guard lock(pool().mutex);
  pool().shrink(0);
}

void set_workspace_limit(size_t bytes) {
  const std::lock_guard lock(pool().mutex);
  pool().limit = bytes;
  pool().shrink(bytes);
}

}  // namespace densecrf::cpu
