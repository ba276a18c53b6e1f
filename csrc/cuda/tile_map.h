// Tiles of 256 points: the unit in which the CUDA backend visits, stores and sums points.
//
// A picture is cut into 16 x 16 tiles, a volume into 8 x 8 x 4 (x, y, z), loose points into runs;
// where a side of the raster is shorter than a tile's, the tile is narrower there and longer
// elsewhere. All lattices of one mean field share one map.
#pragma once

#include <cstdint>

#include "../portable.h"

namespace densecrf::cuda {

constexpr int kTile = 256;  // points of a tile, and threads of the blocks that own one

struct TileMap {
  int64_t points;     // of one image
  int64_t tiles;      // of one image
  int64_t size[3];    // of the raster, x first
  int64_t count[3];   // tiles along each side
  int log_extent[3];  // of a tile; they add up to 8

  // The index of a tile's point, or -1 where the tile sticks out of the raster.
  HOST_DEVICE int64_t point(int64_t tile, int lane) const {
    const int64_t row = tile / count[0];
    const int64_t x = ((tile - row * count[0]) << log_extent[0]) + (lane & mask(0));
    const int64_t y = ((row % count[1]) << log_extent[1]) + ((lane >> log_extent[0]) & mask(1));
    const int64_t z =
        ((row / count[1]) << log_extent[2]) + (lane >> (log_extent[0] + log_extent[1]));
    if (x >= size[0] || y >= size[1] || z >= size[2]) return -1;
    return (z * size[1] + y) * size[0] + x;
  }

  // How many points a tile holds: 256, or fewer at the border.
  HOST_DEVICE int points_in(int64_t tile) const {
    const int64_t row = tile / count[0];
    return clipped(0, tile - row * count[0]) * clipped(1, row % count[1]) *
           clipped(2, row / count[1]);
  }

 private:
  HOST_DEVICE int mask(int axis) const { return (1 << log_extent[axis]) - 1; }
  HOST_DEVICE int clipped(int axis, int64_t at) const {
    const int64_t left = size[axis] - (at << log_extent[axis]);
    const int64_t whole = int64_t{1} << log_extent[axis];
    return static_cast<int>(left < whole ? left : whole);
  }
};

// The tiles of a raster of 1 to 3 sides, slowest first as the array has them.
inline TileMap tile_map(const int64_t* grid, int sides) {
  TileMap map{};
  for (int a = 0; a < 3; ++a) map.size[a] = a < sides ? grid[sides - 1 - a] : 1;
  const auto ceil_log = [](int64_t extent) {
    int bits = 0;
    while ((int64_t{1} << bits) < extent) ++bits;
    return bits;
  };
  const auto at_most = [](int bits, int bound) { return bits < bound ? bits : bound; };
  int left = 8;
  map.log_extent[2] = at_most(ceil_log(map.size[2]), 2);
  left -= map.log_extent[2];
  map.log_extent[1] = at_most(ceil_log(map.size[1]), left / 2);
  map.log_extent[0] = at_most(ceil_log(map.size[0]), left - map.log_extent[1]);
  map.log_extent[1] = left - map.log_extent[0];
  map.points = map.tiles = 1;
  for (int a = 0; a < 3; ++a) {
    const int64_t extent = int64_t{1} << map.log_extent[a];
    map.count[a] = (map.size[a] + extent - 1) / extent;
    map.points *= map.size[a];
    map.tiles *= map.count[a];
  }
  return map;
}

}  // namespace densecrf::cuda
