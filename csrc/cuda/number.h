// Finds and numbers the vertices of a batch: by a hash table of keys or by a bitmap of cells, and
// with which launches over which memory.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#include "../key_layout.h"
#include "cell_numbering.h"
#include "key_numbering.h"
#include "lattice_build.h"

namespace densecrf::cuda {

// What stands for a vertex: a key of so many words, or a cell.
struct VertexCode {
  int words;
  bool by_cell;
  CellLayout cells;
};

// Slots of the hash table of an image: a quarter to half of them are taken at most. Only where
// there are more than 2^30 incidences it may become full but for one: a slot's number has 31 bits,
// beside KeyNumbering::kHead.
inline int64_t hash_slots(const LatticeShape& shape) {
  const int64_t incidences = shape.tiles.points * shape.vertices_per_point;
  int64_t slots = 1;
  while (slots < 2 * incidences && slots < int64_t{KeyNumbering::kHead}) slots *= 2;
  return slots;
}

// The cells that an image can have. A bitmap that nobody insists on takes no more memory than the
// hash table in whose place it stands.
inline int64_t most_cells(const LatticeShape& shape, VertexTable table) {
  if (table == VertexTable::kHash) return 0;
  const int64_t table_bytes = hash_slots(shape) * int64_t{sizeof(uint32_t)};
  const int64_t as_large = table_bytes / kRunBytes * kRunCells;
  const int64_t of_batch = kMostCellsOfBatch / shape.batch / kRunCells * kRunCells;
  const int64_t most = kMostCells < of_batch ? kMostCells : of_batch;
  return table == VertexTable::kAutomatic && as_large < most ? as_large : most;
}

// Throws std::invalid_argument where features of known range span too many bandwidths. The keys
// need exactly so many words where the ranges of all features are known, else at most.
template <typename T>
VertexCode choose_code(const BuildArguments& a, const LatticeShape& shape) {
  const int d = a.from.dimensions;
  VertexCode code{most_words<T>(d), false, {}};
  bool known = true;
  for (int m = 0; m < d; ++m) known = known && !has_data_range(a.from, m);
  if (known) {
    std::vector<double> low(d, 0.0), high(d);
    for (int m = 0; m < d; ++m) {
      const double last = m < a.from.sides ? static_cast<double>(a.from.tiles.size[m] - 1) : 255.0;
      high[m] = last / a.sigmas.value[m] * feature_scale<double>(m, d);
    }
    code.words = KeyLayout(low, high, ScalarTraits<T>::kMaxElevated).words();
    code.by_cell = plan_cells(d, low.data(), high.data(), most_cells(shape, a.table), code.cells);
  }
  if (code.by_cell) code.words = 1;
  if (a.table == VertexTable::kBitmap && !code.by_cell) {
    throw std::invalid_argument("the features' range is not known, or takes more than " +
                                std::to_string(most_cells(shape, a.table)) + " cells");
  }
  return code;
}

template <typename T>
void plan_keys_of(const Context& context, const BuildArguments& a, Plan<T>& plan,
                  int32_t* failure) {
  const int d = a.from.dimensions;
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
}

template <typename T>
Plan<T> plan_code(const Context& context, const BuildArguments& a, const VertexCode& code,
                  int32_t* failure) {
  const int d = a.from.dimensions;
  Plan<T> plan{};
  plan.most_words = code.words;
  plan.sigma = context.scratch<T>(d);
  plan.scale = context.scratch<T>(d);
  plan.words = context.scratch<int32_t>(1);
  plan.factor = context.scratch<uint64_t>(int64_t{d + 1} * code.words);
  plan.origin = context.scratch<uint64_t>(code.words);
  plan.step = context.scratch<uint64_t>(int64_t{d + 1} * (code.by_cell ? 2 : code.words));
  if (code.by_cell) {
    launch(context.stream, write_cell_plan<T>, 1, kPlanThreads, code.cells, a.sigmas, plan,
           failure);
  } else {
    plan_keys_of<T>(context, a, plan, failure);
  }
  return plan;
}

// Launches a kernel whose blocks own an item each.
template <typename... Parameters, typename... Arguments>
void for_blocks(const Context& context, void (*kernel)(Parameters...), int64_t items,
                const Arguments&... arguments) {
  launch(context.stream, kernel, grid_blocks(items, 1, kTile), kTile, arguments...);
}

// Launches a kernel whose threads own an item each.
template <typename... Parameters, typename... Arguments>
void for_items(const Context& context, void (*kernel)(Parameters...), int64_t items,
               const Arguments&... arguments) {
  launch(context.stream, kernel, grid_blocks(items, kTile, kTile), kTile, arguments...);
}

// The launches of both ways; `mark`, `count` and `open` are one's own.
template <typename Numbering>
void number_with(const Context& context, const VertexArguments& v, const Numbering& numbering,
                 void (*mark)(VertexArguments, Numbering),
                 void (*count)(VertexArguments, Numbering),
                 void (*open)(VertexArguments, Numbering)) {
  const int64_t tiles = v.batch * v.tiles, parts = v.batch * v.parts;
  for_blocks(context, mark, tiles, v, numbering);
  for_blocks(context, count, parts, v, numbering);
  launch(context.stream, bound_images, 1, kScanThreads, v);
  for_blocks(context, open, parts, v, numbering);
  const int64_t joins = v.capacity * v.vertices_per_point, points = tiles * kTile;
  for_items(context, link<Numbering>, joins > points ? joins : points, v, numbering);
}

template <typename T>
void number_by_key(const Context& context, const LatticeShape& shape, const Plan<T>& plan,
                   VertexArguments v) {
  v.parts = v.tiles;
  v.part_count = context.scratch<int32_t>(v.batch * v.parts);
  v.part_first = context.scratch<int32_t>(v.batch * v.parts + 1);
  const int64_t slots = hash_slots(shape);
  KeyNumbering numbering{};
  numbering.words = plan.words;
  numbering.step = plan.step;
  numbering.step_stride = plan.most_words;
  numbering.slot = context.scratch<uint32_t>(v.batch * slots);
  numbering.slot_mask = static_cast<uint32_t>(slots - 1);
  numbering.vertex_keys = {context.scratch<uint64_t>(plan.most_words * v.capacity), v.capacity};
  set_bytes(context.stream, numbering.slot, 0xff, static_cast<size_t>(v.batch * slots) * 4);
  number_with(context, v, numbering, offer_tile_rows, count_heads, number_heads);
}

template <typename T>
void number_by_cell(const Context& context, const CellLayout& layout, const Plan<T>& plan,
                    VertexArguments v) {
  v.parts = runs_of_image(layout.cells);
  v.part_count = context.scratch<int32_t>(v.batch * v.parts);
  v.part_first = context.scratch<int32_t>(v.batch * v.parts + 1);
  const int64_t cells = v.batch * v.parts * kRunCells;
  CellNumbering numbering{};
  numbering.image_cells = static_cast<uint32_t>(v.parts * kRunCells);
  numbering.step = plan.step;
  numbering.bits = context.scratch<uint32_t>(cells / kWordCells);
  numbering.before = context.scratch<uint16_t>(cells / kPairCells);
  numbering.run_first = v.part_first;
  numbering.vertex_cell = context.scratch<uint32_t>(v.capacity);
  set_bytes(context.stream, numbering.bits, 0, static_cast<size_t>(cells / 8));
  number_with(context, v, numbering, mark_cells, count_cells, open_cells);
}

// v.parts, part_count and part_first are for this to fill in.
template <typename T>
void number_vertices(const Context& context, const LatticeShape& shape, const VertexCode& code,
                     const Plan<T>& plan, const VertexArguments& v) {
  if (code.by_cell) {
    number_by_cell(context, code.cells, plan, v);
  } else {
    number_by_key(context, shape, plan, v);
  }
}

}  // namespace densecrf::cuda
