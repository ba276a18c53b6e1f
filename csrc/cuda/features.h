// Where points come from: a matrix of features, or a raster and an image over it.
#pragma once

#include "../kinds.h"
#include "lattice_view.h"

namespace densecrf::cuda {

// Features divided by their bandwidths, as a matrix, or the positions of a raster (x first)
// followed by the channels of an image, which are divided on the fly. Strides in elements.
struct FeatureSource {
  int64_t batch;
  int dimensions;
  TileMap tiles;

  const void* matrix;  // [B, N, d] of the lattice's scalar type, or null
  int64_t point_stride;
  int64_t dimension_stride;

  int sides;          // of the raster, 1 to 3
  const void* image;  // null: positions alone
  PixelType pixel_type;
  int64_t pixel_stride[3];  // x first
  int64_t channel_stride;

  int64_t batch_stride;  // of matrix or image
};

// The bandwidths of the raster's sides and the image's channels.
struct Sigmas {
  double value[kMaxDimensions];
};

// A point's feature m before its bandwidth: for kinds known at run time alone.
template <typename T>
HOST_DEVICE T raw_feature(const FeatureSource& from, int64_t image, int64_t point, int m) {
  if (from.matrix != nullptr) {
    return static_cast<const T*>(
        from.matrix)[image * from.batch_stride + point * from.point_stride +
                     m * from.dimension_stride];
  }
  const int64_t line = point / from.tiles.size[0];
  const int64_t x = point - line * from.tiles.size[0];
  const int64_t z = line / from.tiles.size[1], y = line - z * from.tiles.size[1];
  if (m < from.sides) return static_cast<T>(m == 0 ? x : m == 1 ? y : z);
  const int64_t at = image * from.batch_stride + (m - from.sides) * from.channel_stride +
                     x * from.pixel_stride[0] + y * from.pixel_stride[1] + z * from.pixel_stride[2];
  switch (from.pixel_type) {
    case PixelType::kUint8:
      return static_cast<T>(static_cast<const uint8_t*>(from.image)[at]);
    case PixelType::kFloat32:
      return static_cast<T>(static_cast<const float*>(from.image)[at]);
    default:
      return static_cast<T>(static_cast<const double*>(from.image)[at]);
  }
}

// Whether the range of feature m is a matter of data, and not of shapes.
HOST_DEVICE bool has_data_range(const FeatureSource& from, int m) {
  return from.matrix != nullptr || (m >= from.sides && from.pixel_type != PixelType::kUint8);
}

}  // namespace densecrf::cuda
