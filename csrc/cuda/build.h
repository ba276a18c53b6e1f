// Builds the lattices of a batch: which kernels, in which order, over which memory.
#pragma once

#include <utility>

#include "embed.h"
#include "number.h"
#include "ones.h"
#include "tile_rows.h"
#include "vertex_lists.h"

namespace densecrf::cuda {

// A part of the lattice that is being built.
template <typename P>
P* writable(const P* part) {
  return const_cast<P*>(part);
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

// The chains of neighbours, and the tile rows of every vertex in the order of tiles.
template <typename T>
void list_chains_and_tile_rows(const Context& context, const LatticeShape& shape,
                               const LatticeView<T>& lattice, const VertexArguments& v) {
  ListArguments l{};
  l.tiles = shape.batch * shape.tiles.tiles;
  l.batch = shape.batch;
  l.runs = (shape.capacity + kListRun - 1) / kListRun;
  l.failure = lattice.failure;
  l.image_first = lattice.image_first;
  l.place = v.place;
  l.tile_first = writable(lattice.tile_first);
  l.vertex_rows = v.vertex_rows;
  l.listed = context.scratch<int32_t>(l.runs);
  l.list_first = context.scratch<int32_t>(l.runs + 1);
  l.vertex_first = writable(lattice.vertex_first);
  l.tile_row = writable(lattice.tile_row);
  l.long_list = context.scratch<int32_t>(shape.tile_row_capacity / kShortList + 1);
  l.long_lists = v.long_lists;
  const ChainArguments chains{shape.batch,         shape.vertices_per_point,    shape.capacity,
                              lattice.image_first, lattice.neighbour,           v.chain_count,
                              v.longest_chain,     writable(lattice.chain_head)};
  for_items(context, begin_lists, shape.capacity * shape.vertices_per_point, chains, l);
  scan(context, l.listed, l.runs, l.list_first);
  for_blocks(context, open_lists, l.runs, l);
  for_items(context, fill_lists, shape.tile_row_capacity, l);
  const int64_t warps = shape.capacity * kWarp, blocks = l.tiles * kTile;
  for_items(context, sort_lists, warps > blocks ? warps : blocks, l);
}

// `shape` is that of the two tensors; see plan_shape.
template <typename T>
void build_lattice_of(const Context& context, const BuildArguments& a, const LatticeShape& shape,
                      void* points, void* vertices) {
  const LatticeView<T> lattice = lattice_view<T>(shape, points, vertices);
  const int64_t tiles = shape.batch * shape.tiles.tiles;
  const int64_t incidences = tiles * shape.vertices_per_point * kTile;

  const VertexCode code = choose_code<T>(a, shape);
  const Plan<T> plan = plan_code<T>(context, a, code, writable(lattice.failure));
  const KeyArray keys{context.scratch<uint64_t>(code.words * incidences), incidences};
  embed<T>(context, {a.from, plan, writable(lattice.weight), keys, nullptr}, tiles);

  auto* first_entry = context.scratch<uint16_t>(incidences);
  auto* count = context.scratch<int32_t>(tiles);
  find_rows(context, {tiles, shape.vertices_per_point, keys, plan.words, writable(lattice.row),
                      writable(lattice.entry), first_entry, count, nullptr});
  scan(context, count, tiles, writable(lattice.tile_first));

  VertexArguments v{};
  v.batch = shape.batch;
  v.tiles = shape.tiles.tiles;
  v.vertices_per_point = shape.vertices_per_point;
  v.max_vertices = a.max_vertices;
  v.capacity = shape.capacity;
  v.keys = keys;
  v.entry = lattice.entry;
  v.tile_entry_first = first_entry;
  v.tile_first = lattice.tile_first;
  v.entry_first = writable(lattice.entry_first);
  v.place = context.scratch<uint32_t>(shape.tile_row_capacity);
  v.vertex_rows = context.scratch<int32_t>(shape.capacity);
  v.row = writable(lattice.row);
  v.image_count = writable(lattice.image_count);
  v.image_first = writable(lattice.image_first);
  v.neighbour = writable(lattice.neighbour);
  v.failure = writable(lattice.failure);
  v.chain_count = writable(lattice.chain_count);
  v.longest_chain = writable(lattice.longest_chain);
  v.long_lists = context.scratch<int32_t>(1);
  number_vertices(context, shape, code, plan, v);
  list_chains_and_tile_rows(context, shape, lattice, v);
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
  for (int axis = 0; axis < to.vertices_per_point; ++axis) {
    copy(from.heads_along(axis), to.heads_along(axis), to.capacity / 2);
  }
  copy(from.chain_count, to.chain_count, to.vertices_per_point);
  copy(from.longest_chain, to.longest_chain, to.vertices_per_point);
  copy(from.ones, to.ones, to.capacity);
}

}  // namespace densecrf::cuda
