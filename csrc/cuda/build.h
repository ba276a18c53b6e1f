// Builds the lattices of a batch: which kernels, in which order, over which memory.
#pragma once

#include <utility>
#include <vector>

#include "../key_layout.h"
#include "embed.h"
#include "lattice_build.h"
#include "ones.h"
#include "tile_rows.h"
#include "vertex_lists.h"
#include "vertices.h"

namespace densecrf::cuda {

// Words that the keys can need: exactly, where the ranges of all features are known. Throws
// std::invalid_argument where features of known range span too many bandwidths.
template <typename T>
int key_words(const BuildArguments& a) {
  const int d = a.from.dimensions;
  std::vector<double> low(d, 0.0), high(d);
  for (int m = 0; m < d; ++m) {
    if (has_data_range(a.from, m)) return most_words<T>(d);
    const double last = m < a.from.sides ? static_cast<double>(a.from.tiles.size[m] - 1) : 255.0;
    high[m] = last / a.sigmas.value[m] * feature_scale<double>(m, d);
  }
  return KeyLayout(low, high, ScalarTraits<T>::kMaxElevated).words();
}

template <typename T, int kD>
void launch_embed(const Context& context, const EmbedArguments<T>& a, int64_t blocks) {
  launch(context.stream, embed_tiles<T, kD>, blocks, kTile, a);
}

// Points of 1 to 6 dimensions have code of their own.
template <typename T>
void embed(const Context& context, EmbedArguments<T> a, int64_t tiles) {
  const int64_t blocks = grid_blocks(tiles, 1, kTile);
  switch (a.from.dimensions) {
    case 1:
      return launch_embed<T, 1>(context, a, blocks);
    case 2:
      return launch_embed<T, 2>(context, a, blocks);
    case 3:
      return launch_embed<T, 3>(context, a, blocks);
    case 4:
      return launch_embed<T, 4>(context, a, blocks);
    case 5:
      return launch_embed<T, 5>(context, a, blocks);
    case 6:
      return launch_embed<T, 6>(context, a, blocks);
    default: {
      constexpr int64_t kFewBlocks = 128;  // each thread has scratch
      const int64_t few = blocks < kFewBlocks ? blocks : kFewBlocks;
      a.scratch = context.scratch<uint64_t>(few * kTile * 6 * (a.from.dimensions + 1));
      return launch_embed<T, -1>(context, a, few);
    }
  }
}

template <typename T>
Plan<T> plan(const Context& context, const BuildArguments& a, int words, int32_t* failure) {
  const int d = a.from.dimensions;
  Plan<T> plan{};
  plan.most_words = words;
  plan.sigma = context.scratch<T>(d);
  plan.scale = context.scratch<T>(d);
  plan.words = context.scratch<int32_t>(1);
  plan.factor = context.scratch<uint64_t>(int64_t{d + 1} * words);
  plan.origin = context.scratch<uint64_t>(words);
  plan.step = context.scratch<uint64_t>(int64_t{d + 1} * words);
  plan.partial = context.scratch<double>(int64_t{2} * d * kRangeBlocks);
  plan.low = context.scratch<double>(d);
  plan.high = context.scratch<double>(d);
  plan.field = context.scratch<KeyField>(d + 1);
  int64_t blocks = 0;
  if (has_data_range(a.from, d - 1)) {
    const int64_t points = a.from.batch * a.from.tiles.points;
    const int64_t wanted = grid_blocks(points, kPlanThreads, kPlanThreads);
    blocks = wanted < kRangeBlocks ? wanted : kRangeBlocks;
    launch(context.stream, measure_ranges<T>, blocks, kPlanThreads, a.from, plan.partial);
  }
  launch(context.stream, plan_keys<T>, 1, kPlanThreads, a.from, a.sigmas, static_cast<int>(blocks),
         plan, failure);
  return plan;
}

inline void find_rows(const Context& context, TileRowArguments a) {
  const int64_t blocks = grid_blocks(a.tiles, 1, kTile);
  if (a.vertices_per_point <= kSharedVertices) {
    launch(context.stream, find_tile_rows<true>, blocks, kTile, a);
  } else {
    const int64_t each = tile_slots(a.vertices_per_point) + a.vertices_per_point * kTile;
    a.scratch = context.scratch<uint32_t>(blocks * each);
    launch(context.stream, find_tile_rows<false>, blocks, kTile, a);
  }
}

// Launches a kernel whose blocks own a tile each.
template <typename Arguments>
void for_tiles(const Context& context, void (*kernel)(Arguments), int64_t tiles,
               const Arguments& a) {
  launch(context.stream, kernel, grid_blocks(tiles, 1, kTile), kTile, a);
}

// Launches a kernel whose threads own an item each.
template <typename Arguments>
void for_items(const Context& context, void (*kernel)(Arguments), int64_t items,
               const Arguments& a) {
  launch(context.stream, kernel, grid_blocks(items, kTile, kTile), kTile, a);
}

inline void scan(const Context& context, const int32_t* count, int64_t n, int32_t* first) {
  launch(context.stream, scan_counts, 1, kScanThreads, count, n, first);
}

template <typename T>
void filter_ones(const Context& context, const LatticeView<T>& lattice, T* ones) {
  const int64_t tiles = lattice.batch * lattice.tiles.tiles;
  T* partial = context.scratch<T>(lattice.tile_row_capacity);
  T* other = context.scratch<T>(lattice.capacity);
  launch(context.stream, sum_tile_rows<T>, grid_blocks(tiles, 1, kTile), kTile, lattice, partial);
  const int axes = lattice.vertices_per_point;
  T* from = axes % 2 == 0 ? ones : other;  // so that the last axis writes `ones`
  T* to = axes % 2 == 0 ? other : ones;
  launch(context.stream, sum_vertices<T>, grid_blocks(lattice.capacity, kTile / 8, kTile), kTile,
         lattice, partial, from);
  for (int axis = 0; axis < axes; ++axis) {
    launch(context.stream, blur_ones<T>, grid_blocks(lattice.capacity, kTile, kTile), kTile,
           lattice, axis, from, to);
    std::swap(from, to);
  }
}

// `shape` is that of the two tensors; see plan_shape.
template <typename T>
void build_lattice_of(const Context& context, const BuildArguments& a, const LatticeShape& shape,
                      void* points, void* vertices) {
  const LatticeView<T> lattice = lattice_view<T>(shape, points, vertices);
  const int64_t tiles = shape.batch * shape.tiles.tiles;
  const int64_t incidences = tiles * shape.vertices_per_point * kTile;
  const auto writable = []<typename P>(const P* part) { return const_cast<P*>(part); };
  auto* failure = writable(lattice.failure);

  const int words = key_words<T>(a);
  const Plan<T> keys = plan<T>(context, a, words, failure);
  const KeyArray incidence_keys{context.scratch<uint64_t>(words * incidences), incidences};
  embed<T>(context, {a.from, keys, writable(lattice.weight), incidence_keys, nullptr}, tiles);

  auto* tile_entry_first = context.scratch<uint16_t>(incidences);
  auto* count = context.scratch<int32_t>(tiles);
  auto* tile_first = writable(lattice.tile_first);
  find_rows(context,
            {tiles, shape.vertices_per_point, incidence_keys, keys.words, writable(lattice.row),
             writable(lattice.entry), tile_entry_first, count, nullptr});
  scan(context, count, tiles, tile_first);

  const int64_t image_incidences = shape.tiles.points * shape.vertices_per_point;
  int64_t slots = 1;
  while (slots < 2 * image_incidences) slots *= 2;
  VertexArguments v{};
  v.batch = shape.batch;
  v.tiles = shape.tiles.tiles;
  v.vertices_per_point = shape.vertices_per_point;
  v.max_vertices = a.max_vertices;
  v.capacity = shape.capacity;
  v.keys = incidence_keys;
  v.words = keys.words;
  v.step = keys.step;
  v.step_stride = words;
  v.slot = context.scratch<uint32_t>(shape.batch * slots);
  v.slot_mask = static_cast<uint32_t>(slots - 1);
  v.entry = lattice.entry;
  v.tile_entry_first = tile_entry_first;
  v.tile_first = tile_first;
  v.entry_first = writable(lattice.entry_first);
  v.place = context.scratch<uint32_t>(shape.tile_row_capacity);
  v.heads = count;
  v.head_first = context.scratch<int32_t>(tiles + 1);
  v.vertex_keys = {context.scratch<uint64_t>(words * shape.capacity), shape.capacity};
  v.vertex_rows = context.scratch<int32_t>(shape.capacity);
  v.row = writable(lattice.row);
  v.image_count = writable(lattice.image_count);
  v.image_first = writable(lattice.image_first);
  v.neighbour = writable(lattice.neighbour);
  v.failure = failure;
  set_bytes(context.stream, v.slot, 0xff, static_cast<size_t>(shape.batch * slots) * 4);
  for_tiles(context, offer_tile_rows, tiles, v);
  for_tiles(context, count_heads, tiles, v);
  scan(context, v.heads, tiles, v.head_first);
  launch(context.stream, bound_images, 1, kTile, v);
  for_tiles(context, number_vertices, tiles, v);
  for_tiles(context, link_points, tiles, v);
  for_items(context, link_neighbours, shape.capacity * shape.vertices_per_point, v);

  ListArguments l{};
  l.tiles = tiles;
  l.batch = shape.batch;
  l.failure = failure;
  l.image_first = lattice.image_first;
  l.head_first = v.head_first;
  l.place = v.place;
  l.tile_first = tile_first;
  l.vertex_rows = v.vertex_rows;
  l.listed = count;
  l.list_first = context.scratch<int32_t>(tiles + 1);
  l.vertex_first = writable(lattice.vertex_first);
  l.tile_row = writable(lattice.tile_row);
  l.long_list = context.scratch<int32_t>(shape.tile_row_capacity / kShortList + 1);
  l.long_lists = context.scratch<int32_t>(1);
  set_bytes(context.stream, l.long_lists, 0, sizeof(int32_t));
  for_tiles(context, count_listed, tiles, l);
  scan(context, l.listed, tiles, l.list_first);
  for_tiles(context, open_lists, tiles, l);
  for_items(context, fill_lists, shape.tile_row_capacity, l);
  for_items(context, sort_short_lists, shape.capacity * kWarp, l);
  for_tiles(context, sort_long_lists, tiles, l);

  filter_ones<T>(context, lattice, writable(lattice.ones));
}

// Copies a lattice into tensors that have less room to spare.
template <typename T>
void copy_lattice_of(const Context& context, const LatticeShape& from_shape,
                     const void* from_points, const void* from_vertices,
                     const LatticeShape& to_shape, void* to_points, void* to_vertices) {
  const LatticeView<T> from = lattice_view<T>(from_shape, from_points, from_vertices);
  const LatticeView<T> to = lattice_view<T>(to_shape, to_points, to_vertices);
  const int64_t tiles = to.batch * to.tiles.tiles;
  const int64_t incidences = tiles * to.vertices_per_point * kTile;
  const auto copy = [&]<typename P>(const P* source, const P* target, int64_t count) {
    copy_bytes(context.stream, const_cast<P*>(target), source,
               static_cast<size_t>(count) * sizeof(P));
  };
  copy(from.row, to.row, incidences);
  copy(from.weight, to.weight, incidences);
  copy(from.entry, to.entry, incidences);
  copy(from.tile_first, to.tile_first, tiles + 1);
  copy(from.entry_first, to.entry_first, to.tile_row_capacity);
  copy(from.tile_row, to.tile_row, to.tile_row_capacity);
  copy(from.failure, to.failure, 1);
  copy(from.image_count, to.image_count, to.batch);
  copy(from.image_first, to.image_first, to.batch + 1);
  copy(from.vertex_first, to.vertex_first, to.capacity + 1);
  for (int plane = 0; plane < 2 * to.vertices_per_point; ++plane) {
    copy(from.neighbour + plane * from.capacity, to.neighbour + plane * to.capacity, to.capacity);
  }
  copy(from.ones, to.ones, to.capacity);
}

}  // namespace densecrf::cuda
