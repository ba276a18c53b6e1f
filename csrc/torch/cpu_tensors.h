// What all operators on CPU tensors share: tensors, the
// lattices of a batch, and torch's threads.
#pragma once

#include <exception>
#include <optional>
#include <string>
#include <vector>

#include "../cpu/backend.h"
#include "../cpu/memory.h"
#include "../cpu/sections.h"
#include "../cpu/team.h"
#include "checks.h"

namespace densecrf {

// Calls lead(executor) with a team of torch's intra-op threads behind it. Task 0 leads; should
// torch run the tasks one after another, it has finished before a helper looks.
template <typename Lead>
void on_torch_threads(const Lead& lead) {
  const auto threads = static_cast<int>(torch::stable::get_num_threads());
  cpu::Team team(threads);
  std::exception_ptr failure;
  torch::stable::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      if (task > 0) {
        team.help();
        continue;
      }
      try {
        lead(team.executor());
      } catch (...) {
        failure = std::current_exception();
      }
      team.dismiss();
    }
  });
  if (failure) std::rethrow_exception(failure);
}

// An uninitialised tensor on the CPU, on huge pages where it is large.
inline Tensor make_tensor(const std::vector<int64_t>& shape, ScalarType type) {
  Tensor t = torch::stable::empty(shape, type, std::nullopt,
                                  torch::stable::Device(torch::headeronly::DeviceType::CPU));
  const size_t bytes = static_cast<size_t>(t.numel()) * t.element_size();
  if (bytes > 0) cpu::advise_huge_pages(t.mutable_data_ptr(), bytes);
  return t;
}

inline const VertexHeader& header_at(const Tensor& vertices, int64_t offset) {
  const auto bytes = static_cast<int64_t>(vertices.numel());
  const char* data = static_cast<const char*>(vertices.const_data_ptr());
  STD_TORCH_CHECK(offset + static_cast<int64_t>(sizeof(VertexHeader)) <= bytes,
                  "vertices ends before its image");
  const auto& header = *reinterpret_cast<const VertexHeader*>(data + offset);
  STD_TORCH_CHECK(header.magic == kVertexMagic && offset + header.bytes <= bytes,
                  "vertices is not what build_lattice returned");
  return header;
}

// A batch of lattices as the build operators return them: points [B, bytes], vertices one section
// after another.
class Lattices {
 public:
  Lattices(const Tensor& points, const Tensor& vertices) : points_(points), vertices_(vertices) {
    STD_TORCH_CHECK(
        points.scalar_type() == ScalarType::Byte && points.dim() == 2 && points.is_contiguous(),
        "points must be a contiguous uint8 [B, bytes], got ", shape_of(points));
    STD_TORCH_CHECK(vertices.scalar_type() == ScalarType::Byte && vertices.dim() == 1 &&
                        vertices.is_contiguous(),
                    "vertices must be a contiguous uint8 [bytes], got ", shape_of(vertices));
    for (int64_t offset = 0; offset < vertices.numel();) {
      offsets_.push_back(offset);
      offset += header_at(vertices, offset).bytes;
    }
    STD_TORCH_CHECK(size() == points.size(0), "points holds ", points.size(0), " images, vertices ",
                    size());
    for (int64_t b = 0; b < size(); ++b) {
      const VertexHeader& h = header(b);
      const auto scalar = static_cast<Scalar>(h.scalar);
      const size_t bytes = point_section_bytes(h.points, h.dimensions, size_of(scalar));
      STD_TORCH_CHECK(static_cast<size_t>(points.size(1)) == bytes, "points has ", points.size(1),
                      " bytes an image, vertices speaks of ", bytes);
    }
  }

  [[nodiscard]] int64_t size() const { return static_cast<int64_t>(offsets_.size()); }

  // Image b; a single lattice serves every image.
  [[nodiscard]] const VertexHeader& header(int64_t b) const {
    return header_at(vertices_, offsets_[size() == 1 ? 0 : b]);
  }

  [[nodiscard]] cpu::LatticeSections sections(int64_t b) const {
    const int64_t at = size() == 1 ? 0 : b;
    return {static_cast<const char*>(points_.const_data_ptr()) + at * points_.size(1),
            static_cast<const char*>(vertices_.const_data_ptr()) + offsets_[at]};
  }

  // The lattices fit `batch` images of `points` points whose values are `scalar`.
  void check(int64_t batch, int64_t points, Scalar scalar, const char* values) const {
    STD_TORCH_CHECK(size() == batch || size() == 1, values, " holds ", batch,
                    " images, the lattice ", size());
    for (int64_t b = 0; b < size(); ++b) {
      STD_TORCH_CHECK(header(b).points == points, values, " has ", points, " points, the lattice ",
                      header(b).points);
      STD_TORCH_CHECK(header(b).scalar == static_cast<int32_t>(scalar), values,
                      " must have the lattice's dtype");
    }
  }

 private:
  Tensor points_, vertices_;
  std::vector<int64_t> offsets_;
};

}  // namespace densecrf
