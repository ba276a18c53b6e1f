// What every operator on CUDA tensors starts from: the tensors' device made current, its current
// stream, scratch memory of torch's caching allocator, and the lattice behind two opaque tensors.
// Compiled for the emulator, operators take tensors on the CPU.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

#include "../cuda/context.h"
#include "../cuda/lattice_view.h"
#include "../cuda/scratch.h"
#include "checks.h"

namespace densecrf {

#if defined(__CUDACC__)

inline bool is_on_device(const Tensor& tensor) { return tensor.is_cuda(); }

// A tensor's device is the current one for as long as this lives.
class CurrentDevice {
 public:
  explicit CurrentDevice(const Tensor& like) : guard_(like.get_device_index()) {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(like.get_device_index(), &stream));
    stream_ = static_cast<cuda::Stream>(stream);
  }
  [[nodiscard]] cuda::Stream stream() const { return stream_; }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  cuda::Stream stream_ = nullptr;
};

#else

inline bool is_on_device(const Tensor& tensor) { return !tensor.is_cuda(); }

class CurrentDevice {
 public:
  explicit CurrentDevice(const Tensor& /*like*/) {}
  [[nodiscard]] cuda::Stream stream() const { return {}; }
};

#endif

// One call of an operator. The caching allocator orders the reuse of scratch by the stream, so the
// memory may be handed back before the device has done the work.
class CudaCall {
 public:
  // `like`: a tensor on the device to work on.
  explicit CudaCall(const Tensor& like) : device_(like), like_(like) {}
  CudaCall(const CudaCall&) = delete;
  CudaCall& operator=(const CudaCall&) = delete;

  [[nodiscard]] cuda::Stream stream() const { return device_.stream(); }
  // The stable ABI says that a call of torch failed, not why. Memory for a tensor of a legal shape
  // fails for want of it alone; densecrf_gpu/registration.py turns these words into torch's error.
  [[nodiscard]] Tensor empty(const std::vector<int64_t>& shape, ScalarType type) const {
    try {
      return torch::stable::new_empty(like_, shape, type);
    } catch (const std::exception&) {
      std::string text = "CUDA out of memory: no room on device " +
                         std::to_string(like_.get_device_index()) + " for a tensor of shape [";
      for (size_t i = 0; i < shape.size(); ++i)
        text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
      throw std::runtime_error(text + "], " + torch::headeronly::toString(type) +
                               "; max_vertices bounds the memory of a lattice");
    }
  }
  [[nodiscard]] cuda::Context context() {
    return {stream(),
            [](void* self, size_t bytes) { return static_cast<CudaCall*>(self)->take(bytes); },
            this};
  }

 private:
  void* take(size_t bytes) {
    return scratch_.take(bytes, [this](size_t block) {
      blocks_.push_back(empty({static_cast<int64_t>(block)}, ScalarType::Byte));
      return blocks_.back().mutable_data_ptr();
    });
  }

  CurrentDevice device_;
  Tensor like_;
  cuda::ScratchBlocks scratch_;
  std::vector<Tensor> blocks_;
};

// What a lattice tensor tells by its shape; see csrc/cuda/lattice_view.h. Of `vertices` alone:
// all but the points.
inline cuda::LatticeShape shape_of_vertices(const Tensor& vertices) {
  STD_TORCH_CHECK(is_on_device(vertices) && vertices.scalar_type() == ScalarType::Byte &&
                      vertices.dim() == 4 && (vertices.size(1) == 4 || vertices.size(1) == 8) &&
                      vertices.size(2) >= 2 && vertices.size(2) <= 255 && vertices.is_contiguous(),
                  "vertices is not what build_lattice returned on CUDA, got shape ",
                  shape_of(vertices));
  cuda::LatticeShape shape{};
  shape.batch = vertices.size(0);
  shape.scalar_size = static_cast<int>(vertices.size(1));
  shape.vertices_per_point = static_cast<int>(vertices.size(2));
  return shape;
}

inline cuda::LatticeShape shape_of_lattice(const Tensor& points, const Tensor& vertices) {
  cuda::LatticeShape shape = shape_of_vertices(vertices);
  const int64_t sides = points.dim() - 2;
  STD_TORCH_CHECK(is_on_device(points) && points.scalar_type() == ScalarType::Byte && sides >= 1 &&
                      sides <= 3 && points.size(0) == shape.batch && points.numel() > 0 &&
                      points.is_contiguous(),
                  "points is not what build_lattice returned on CUDA with these vertices, got "
                  "shape ",
                  shape_of(points));
  STD_TORCH_CHECK(points.get_device_index() == vertices.get_device_index(),
                  "points and vertices must be on one device");
  int64_t grid[3] = {1, 1, 1};
  for (int64_t a = 0; a < sides; ++a) grid[a] = points.size(a + 1);
  shape.tiles = cuda::tile_map(grid, static_cast<int>(sides));
  cuda::set_capacities(shape, points.numel(), vertices.numel());
  const cuda::LatticeOffsets at = cuda::lattice_offsets(shape);
  STD_TORCH_CHECK(shape.capacity > 0 && shape.tile_row_capacity > 0 &&
                      at.points_bytes <= points.numel() && at.vertices_bytes <= vertices.numel(),
                  "points and vertices are not of one lattice, got shapes ", shape_of(points),
                  " and ", shape_of(vertices));
  return shape;
}

}  // namespace densecrf
