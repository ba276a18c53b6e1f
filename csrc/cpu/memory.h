// Work memory that is kept between calls: fresh pages cost more than the arithmetic on them.
#pragma once

#include <cstddef>

namespace densecrf::cpu {

// Grow-only memory, backed by huge pages where the system grants them. Not thread-safe.
class Buffer {
 public:
  Buffer() = default;
  ~Buffer();
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  // At least `bytes`, of which the first `keep` have their former content. Throws std::bad_alloc.
  void* reserve(size_t bytes, size_t keep);
  void* data() const { return data_; }
  size_t capacity() const { return capacity_; }

 private:
  void* data_ = nullptr;
  size_t capacity_ = 0;
};

// A numbered set of buffers, lent to one call at a time. Workspaces come from a pool and go back to
// it; what the pool keeps is bounded (see set_workspace_limit).
class Workspace {
 public:
  Workspace();
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  // The buffer number `index`; the reference stays valid while the workspace lives.
  Buffer& buffer(size_t index);

  struct Buffers;

 private:
  Buffers* buffers_;
};

// Bytes the pool holds at present, not counting workspaces in use.
size_t workspace_bytes();

// Frees what the pool holds.
void clear_workspaces();

// At most so many bytes stay allocated between calls (default 1 GiB); 0 keeps nothing.
void set_workspace_limit(size_t bytes);

// Asks for huge pages under freshly allocated memory that a caller owns; a hint without effect on
// what is stored there.
void advise_huge_pages(void* data, size_t bytes);

}  // namespace densecrf::cpu
