// What a built lattice looks like on the device, and where its parts lie in the two opaque tensors.
//
// Everything a kernel launch needs follows from the shapes of the tensors, so no operator has to
// wait for the device:
//
//   points    uint8 [B, *grid, bytes]            loose points: grid is [N]
//   vertices  uint8 [B, sizeof(T), d + 1, bytes]
//
// The last extent is whatever makes room for the parts; the capacities below are what fits. Counts
// and the failure flag live on the device. A lattice of batch 1 serves any batch.
//
// Names. Incidence: point and vertex number r of its simplex, r * 256 + lane within a tile. Tile
// row: a vertex as one tile sees it, numbered by image, tile, first incidence. Entries: the
// incidences of a tile sorted by (tile row, incidence).
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "tile_map.h"

namespace densecrf::cuda {

// So that the incidences of a tile number less than 2^16.
constexpr int kMaxDimensions = 254;

// Why a lattice must not be used. Every kernel stays within its memory all the same; results of
// such a lattice are NaN, labels -1.
enum Failure : int32_t {
  kSound = 0,
  kOutOfRange = 1,       // features that are not finite, or span too many bandwidths
  kTooManyVertices = 2,  // an image has more than the bound that was asked for
};

// The longest chain of neighbours that is blurred in place. Its vertices are dependent loads one
// after another, in the build, which measures it, as in the blur. A photograph's longest chains
// have 5 ... 28 vertices at the published bandwidths of colour; positions alone have chains as long
// as the picture.
constexpr int kLongestChain = 32;

template <typename T>
struct LatticeView {
  int64_t batch;               // images B the lattice was built for
  int vertices_per_point;      // V = d + 1, at most 255
  TileMap tiles;               // of one image
  int64_t capacity;            // room for vertices, of the whole batch
  int64_t tile_row_capacity;   // room for tile rows, of the whole batch
  const int32_t* failure;      // [1] a Failure
  const int32_t* image_count;  // [B] vertices of each image, true even where there is no room
  const int32_t* image_first;  // [B + 1] first vertex of each image; the last is the total
  // By tile. Lanes without a point have row 0 and weight 0, and no entries.
  const int32_t* row;         // [B, tiles, V, 256] vertex, numbered through the batch
  const T* weight;            // [B, tiles, V, 256] barycentric
  const uint16_t* entry;      // [B, tiles, V * 256] incidences; see runs_of_tile
  const int32_t* tile_first;  // [B * tiles + 1] first tile row of each tile
  // By tile row.
  const uint16_t* entry_first;  // [tile_row_capacity] its first entry, counted within the tile
  const int32_t* tile_row;      // [tile_row_capacity] tile rows by vertex, in the order of tiles
  // By vertex, image by image; in which order is a matter of the build, never of threads.
  const int32_t* vertex_first;  // [capacity + 1] its first place in `tile_row`
  const int32_t* neighbour;     // [V, 2, capacity] previous and next along each axis; -1: none
  const T* ones;                // [capacity] blurred splat of ones
  // By axis, the chains that neighbours form: of two vertices or more, so at most capacity / 2.
  const int32_t* chain_count;    // [V]
  const int32_t* longest_chain;  // [V] vertices of the longest, counted up to kLongestChain + 1
  const int32_t* chain_head;     // [V, capacity / 2] first vertices, in no particular order

  HOST_DEVICE const int32_t* previous_along(int axis) const {
    return neighbour + 2 * axis * capacity;
  }
  HOST_DEVICE const int32_t* next_along(int axis) const { return previous_along(axis) + capacity; }
  HOST_DEVICE const int32_t* heads_along(int axis) const {
    return chain_head + axis * (capacity / 2);
  }
};

// All that the host knows of a lattice.
struct LatticeShape {
  int64_t batch;
  TileMap tiles;
  int vertices_per_point;
  int scalar_size;  // 4 or 8
  int64_t capacity;
  int64_t tile_row_capacity;
};

// Byte offsets of the parts in the two tensors.
struct LatticeOffsets {
  int64_t row, weight, entry, tile_first, entry_first, tile_row, points_bytes;
  int64_t failure, image_count, image_first, vertex_first, neighbour, ones, chain_count,
      longest_chain, chain_head, vertices_bytes;
};

// Puts parts one after another, each where 16-byte loads may start.
struct PartList {
  static constexpr int64_t kAlign = 16;
  int64_t bytes = 0;
  int64_t add(int64_t count, int64_t size) {
    const int64_t at = bytes;
    bytes += (count * size + kAlign - 1) / kAlign * kAlign;
    return at;
  }
};

inline LatticeOffsets lattice_offsets(const LatticeShape& shape) {
  const int64_t tiles = shape.batch * shape.tiles.tiles;
  const int64_t incidences = tiles * shape.vertices_per_point * kTile;
  LatticeOffsets at{};
  PartList points;
  at.row = points.add(incidences, 4);
  at.weight = points.add(incidences, shape.scalar_size);
  at.entry = points.add(incidences, 2);
  at.tile_first = points.add(tiles + 1, 4);
  at.entry_first = points.add(shape.tile_row_capacity, 2);
  at.tile_row = points.add(shape.tile_row_capacity, 4);
  at.points_bytes = points.bytes;
  PartList vertices;
  at.failure = vertices.add(1, 4);
  at.image_count = vertices.add(shape.batch, 4);
  at.image_first = vertices.add(shape.batch + 1, 4);
  at.vertex_first = vertices.add(shape.capacity + 1, 4);
  at.neighbour = vertices.add(2 * shape.vertices_per_point * shape.capacity, 4);
  at.ones = vertices.add(shape.capacity, shape.scalar_size);
  at.chain_count = vertices.add(2 * shape.vertices_per_point, 4);
  at.longest_chain = at.chain_count + 4 * int64_t{shape.vertices_per_point};
  at.chain_head = vertices.add(shape.vertices_per_point * (shape.capacity / 2), 4);
  at.vertices_bytes = vertices.bytes;
  return at;
}

// Capacities are whole multiples of this, so that parts end where the next may start.
constexpr int64_t kCapacityStep = 16;

inline int64_t round_capacity(int64_t count) {
  return (count + kCapacityStep - 1) / kCapacityStep * kCapacityStep;
}

// The shape of the lattices of a batch with room for `max_vertices` an image, or for as many as
// there can be. Throws std::invalid_argument where its numbers would not fit 32 bits.
inline LatticeShape plan_shape(int64_t batch, const TileMap& tiles, int dimensions, int scalar_size,
                               int64_t max_vertices) {
  if (dimensions > kMaxDimensions) {
    throw std::invalid_argument("points have " + std::to_string(dimensions) +
                                " dimensions, on CUDA at most " + std::to_string(kMaxDimensions));
  }
  const int64_t vertices = dimensions + 1;
  const int64_t most = (int64_t{1} << 31) - 1, incidences = batch * tiles.tiles * kTile * vertices;
  if (incidences > most) {
    throw std::invalid_argument("a batch has " + std::to_string(incidences) +
                                " pairs of point and vertex, on CUDA at most " +
                                std::to_string(most) + ": split it");
  }
  const int64_t can_be = tiles.points * vertices;
  LatticeShape shape{batch, tiles, static_cast<int>(vertices), scalar_size, 0, 0};
  shape.capacity = round_capacity(batch * (max_vertices < can_be ? max_vertices : can_be));
  shape.tile_row_capacity = round_capacity(batch * can_be);
  return shape;
}

// The capacities that tensors of so many bytes have; at least those they were made for.
inline void set_capacities(LatticeShape& shape, int64_t points_bytes, int64_t vertices_bytes) {
  shape.capacity = shape.tile_row_capacity = 0;
  const LatticeOffsets empty = lattice_offsets(shape);
  const auto fit = [](int64_t bytes, int64_t each) {
    return bytes < 0 ? int64_t{0} : bytes / each / kCapacityStep * kCapacityStep;
  };
  shape.tile_row_capacity = fit(points_bytes - empty.points_bytes, 6);
  shape.capacity = fit(vertices_bytes - empty.vertices_bytes,
                       4 + 10 * int64_t{shape.vertices_per_point} + shape.scalar_size);
}

// The last extents of the two tensors.
inline int64_t points_extent(const LatticeShape& shape) {
  const int64_t rows = shape.batch * shape.tiles.points;
  return (lattice_offsets(shape).points_bytes + rows - 1) / rows;
}
inline int64_t vertices_extent(const LatticeShape& shape) {
  const int64_t rows = shape.batch * shape.scalar_size * shape.vertices_per_point;
  return (lattice_offsets(shape).vertices_bytes + rows - 1) / rows;
}

template <typename T>
LatticeView<T> lattice_view(const LatticeShape& shape, const void* points, const void* vertices) {
  const LatticeOffsets at = lattice_offsets(shape);
  const auto in = []<typename P>(const void* tensor, int64_t offset, const P*& part) {
    part = reinterpret_cast<const P*>(static_cast<const char*>(tensor) + offset);
  };
  LatticeView<T> view{};
  view.batch = shape.batch;
  view.vertices_per_point = shape.vertices_per_point;
  view.tiles = shape.tiles;
  view.capacity = shape.capacity;
  view.tile_row_capacity = shape.tile_row_capacity;
  in(points, at.row, view.row);
  in(points, at.weight, view.weight);
  in(points, at.entry, view.entry);
  in(points, at.tile_first, view.tile_first);
  in(points, at.entry_first, view.entry_first);
  in(points, at.tile_row, view.tile_row);
  in(vertices, at.failure, view.failure);
  in(vertices, at.image_count, view.image_count);
  in(vertices, at.image_first, view.image_first);
  in(vertices, at.vertex_first, view.vertex_first);
  in(vertices, at.neighbour, view.neighbour);
  in(vertices, at.ones, view.ones);
  in(vertices, at.chain_count, view.chain_count);
  in(vertices, at.longest_chain, view.longest_chain);
  in(vertices, at.chain_head, view.chain_head);
  return view;
}

}  // namespace densecrf::cuda
