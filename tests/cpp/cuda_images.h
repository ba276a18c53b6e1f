// Images of bytes: what the device builds lattices from on the fly, with ranges that the host
// knows.
#pragma once

#include "cuda_built.h"

namespace densecrf::testing {

enum class Contents { kPatches, kConstant, kNoise, kUnequal };

// Over rasters of any sides; without channels positions alone.
struct ByteImages {
  std::vector<int64_t> grid;
  int channels;
  bool pixel_by_pixel;
  std::vector<uint8_t> bytes;
  cuda::BuildArguments arguments{};

  ByteImages(const ByteImages&) = delete;  // the arguments point into it
  ByteImages& operator=(const ByteImages&) = delete;
  // Bandwidths: `spatial` + m for side m, `color` + k for channel k.
  ByteImages(std::vector<int64_t> grid_of, int of_pixel, int64_t batch, bool together,
             double spatial = 8.0, double color = 13.0, Contents contents = Contents::kPatches)
      : grid(std::move(grid_of)), channels(of_pixel), pixel_by_pixel(together) {
    const auto sides = static_cast<int>(grid.size());
    cuda::FeatureSource& from = arguments.from;
    from.batch = batch;
    from.dimensions = sides + channels;
    from.tiles = cuda::tile_map(grid.data(), sides);
    const int64_t points = from.tiles.points;
    Random random(3);
    for (int64_t i = 0; i < batch * points * channels; ++i) {
      Contents of_image = contents;
      if (contents == Contents::kUnequal) {
        of_image = static_cast<Contents>(i / (points * channels) % 3);
      }
      const int64_t patch = i / 7 % 3 * 90 + random.below(20);
      bytes.push_back(static_cast<uint8_t>(of_image == Contents::kPatches    ? patch
                                           : of_image == Contents::kConstant ? 117
                                                                             : random.below(256)));
    }
    from.sides = sides;
    from.image = channels > 0 ? bytes.data() : nullptr;
    from.pixel_type = PixelType::kUint8;
    from.batch_stride = points * channels;
    from.channel_stride = pixel_by_pixel ? 1 : points;
    int64_t stride = pixel_by_pixel ? channels : 1;
    for (int m = 0; m < sides; ++m) {
      from.pixel_stride[m] = stride;
      stride *= grid[sides - 1 - m];
      arguments.sigmas.value[m] = spatial + m;
    }
    for (int k = 0; k < channels; ++k) arguments.sigmas.value[sides + k] = color + k;
    arguments.max_vertices = points * (from.dimensions + 1);
  }

  // The features that the images stand for.
  [[nodiscard]] Scene<float> scene() const {
    const cuda::FeatureSource& from = arguments.from;
    Scene<float> scene{grid, from.dimensions, from.batch, {}};
    for (int64_t b = 0; b < from.batch; ++b) {
      for (int64_t p = 0; p < scene.points(); ++p) {
        const int64_t pixel = b * from.batch_stride + p * (pixel_by_pixel ? channels : 1);
        int64_t rest = p;
        for (int m = 0; m < scene.d; ++m) {
          float value = 0.0f;
          if (m < from.sides) {
            value = static_cast<float>(rest % grid[from.sides - 1 - m]);
            rest /= grid[from.sides - 1 - m];
          } else {
            value = bytes[pixel + (m - from.sides) * from.channel_stride];
          }
          scene.features.push_back(value / static_cast<float>(arguments.sigmas.value[m]));
        }
      }
    }
    return scene;
  }
};

}  // namespace densecrf::testing
