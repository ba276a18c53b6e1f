// Values of points through lattices, on the host's side: memory, launches, and their order.
#pragma once

#include <algorithm>
#include <vector>

#include "backend.h"
#include "blur.h"
#include "fold.h"
#include "splat.h"

namespace densecrf::cuda {

// Up to kListed lattices that values go through together: splat, blur along all axes, slice.
template <typename T>
class LatticePass {
 public:
  // `chunks`: of the widest rows to come.
  LatticePass(const Context& context, int64_t images, const TileMap& tiles, int chunks,
              bool adjoint, const int32_t* running)
      : context_(context), widest_(chunks) {
    list_.adjoint = adjoint;
    list_.chunks = chunks;
    list_.images = images;
    list_.tiles = tiles;
    list_.running = running;
  }

  [[nodiscard]] bool is_full() const { return list_.count == kListed; }
  [[nodiscard]] const PassList<T>& list() const { return list_; }

  // `unit` and, where there is one, the `attraction` on the device scale what slice gives.
  void add(const Lattice& given, Normalization normalization, T unit, const T* attraction) {
    PassLattice<T>& pass = list_.lattice[list_.count++];
    pass.lattice = lattice_view<T>(given.shape, given.points, given.vertices);
    pass.way = context_.blur;
    pass.copies = pass.lattice.batch == list_.images ? 1 : list_.images;
    const int64_t lanes = pass.lattice.batch * list_.tiles.tiles * kTile;
    const auto mode = list_.adjoint ? transposed(normalization) : normalization;
    const bool plain = mode == Normalization::kNone || mode == Normalization::kAfter;
    T* weight = plain ? nullptr : context_.scratch<T>(lanes * pass.lattice.vertices_per_point);
    T* scale = context_.scratch<T>(lanes);
    launch(context_.stream, fold_normalization<T>,
           tile_blocks(pass.lattice.batch * list_.tiles.tiles, kTile), kTile,
           FoldArguments<T>{pass.lattice, mode, unit, attraction, weight, scale});
    pass.weight = plain ? pass.lattice.weight : weight;
    pass.scale = scale;
    const int64_t rows =
        pass.copies * std::max(pass.lattice.capacity, pass.lattice.tile_row_capacity);
    for (T*& buffer : pass.buffer) buffer = context_.scratch<T>(rows * widest_ * kChunk<T>);
  }

  // The width of the rows from now on.
  void set_chunks(int chunks) { list_.chunks = chunks; }
  void set_round(int round) { list_.round = round; }
  // Steps of the blur: axes of the lattice that has most.
  [[nodiscard]] int steps() const {
    int most = 0;
    for (int k = 0; k < list_.count; ++k) {
      most = std::max(most, list_.lattice[k].lattice.vertices_per_point);
    }
    return most;
  }

  // source [images, tiles, 256, stride chunks], of which the chunks from `first` on are filtered.
  void filter(const T* source, int64_t stride, int64_t first) {
    launch(context_.stream, splat_tiles<T>, tile_blocks(list_.images * list_.tiles.tiles, kTile),
           kTile, list_, source, stride, first);
    blur();
  }

  // From partial rows that have been splatted to rows that can be sliced.
  void blur() {
    // Few vertices may have long lists: a block for every few.
    const BlockShares sums = share_blocks(kSumsOfBlock);
    launch(context_.stream, add_partial_rows<T>, sums.first[list_.count], kTile, list_, sums);
    const BlockShares shares = share_blocks(kTile / std::min(list_.chunks, kWarp));
    for (int step = 0; step < steps(); ++step) {
      launch(context_.stream, blur_rows<T>, shares.first[list_.count], kTile, list_, step, shares);
    }
  }

 private:
  static constexpr int64_t kSumsOfBlock = 4;

  // Every lattice gets blocks for as many rows as it may have, so many a block.
  [[nodiscard]] BlockShares share_blocks(int64_t per_block) const {
    BlockShares shares{};
    for (int k = 0; k < list_.count; ++k) {
      const PassLattice<T>& pass = list_.lattice[k];
      shares.first[k + 1] =
          shares.first[k] + grid_blocks(pass.copies * pass.lattice.capacity, per_block, kTile);
    }
    return shares;
  }

  const Context& context_;
  int widest_;
  PassList<T> list_{};
};

}  // namespace densecrf::cuda
