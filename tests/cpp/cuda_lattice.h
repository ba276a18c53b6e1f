// Lattices as the CUDA backend sees them, built on the host from their definition: vertices in a
// std::map by image and coordinates. Slow and short; what the device builds must equal it.
#pragma once

#include <algorithm>
#include <array>
#include <map>
#include <vector>

#include "check.h"
#include "cuda/backend.h"
#include "embedding.h"

namespace densecrf::testing {

template <typename T>
constexpr Scalar kCudaScalar = sizeof(T) == 4 ? Scalar::kFloat32 : Scalar::kFloat64;

// 16-byte aligned memory that ends where the data end.
class Bytes {
 public:
  explicit Bytes(int64_t bytes) : words_(static_cast<size_t>(bytes + 15) / 16) {}
  [[nodiscard]] void* data() { return words_.data(); }
  [[nodiscard]] const void* data() const { return words_.data(); }
  [[nodiscard]] int64_t bytes() const { return static_cast<int64_t>(words_.size()) * 16; }

 private:
  struct alignas(16) Word {
    unsigned char byte[16];
  };
  std::vector<Word> words_;
};

// The scratch memory of calls; starts as the schedule's garbage.
class Memory {
 public:
  [[nodiscard]] cuda::Context context() {
    return {
        {}, [](void* self, size_t bytes) { return static_cast<Memory*>(self)->take(bytes); }, this};
  }
  [[nodiscard]] int64_t bytes() const {
    int64_t sum = 0;
    for (const Bytes& piece : taken_) sum += piece.bytes();
    return sum;
  }

 private:
  void* take(size_t bytes) {
    taken_.emplace_back(static_cast<int64_t>(bytes));
    std::memset(taken_.back().data(), emulator::garbage(),
                static_cast<size_t>(taken_.back().bytes()));
    return taken_.back().data();
  }
  std::vector<Bytes> taken_;
};

template <typename T>
class CudaLattice {
 public:
  // features [batch, points, d], divided by their bandwidths; the points are a raster of `grid`.
  // `spare`: room for so many more vertices and tile rows than there are.
  CudaLattice(const std::vector<T>& features, int d, int64_t batch,
              const std::vector<int64_t>& grid, int64_t spare = 0)
      : d_(d), features_(features) {
    shape_.batch = batch;
    shape_.tiles = cuda::tile_map(grid.data(), static_cast<int>(grid.size()));
    shape_.vertices_per_point = d + 1;
    shape_.scalar_size = sizeof(T);
    embed();
    number_vertices();
    shape_.capacity = cuda::round_capacity(static_cast<int64_t>(vertices_.size()) + spare);
    shape_.tile_row_capacity = cuda::round_capacity(tile_rows() + spare);
    const cuda::LatticeOffsets at = cuda::lattice_offsets(shape_);
    points_.emplace_back(at.points_bytes);
    others_.emplace_back(at.vertices_bytes);
    std::memset(points_[0].data(), 0, static_cast<size_t>(points_[0].bytes()));
    std::memset(others_[0].data(), 0, static_cast<size_t>(others_[0].bytes()));
    write_points();
    write_vertices();
    write_ones();
  }

  [[nodiscard]] cuda::Lattice given() const {
    return {shape_, points_[0].data(), others_[0].data()};
  }
  [[nodiscard]] cuda::LatticeView<T> view() const {
    return cuda::lattice_view<T>(shape_, points_[0].data(), others_[0].data());
  }
  [[nodiscard]] const cuda::TileMap& tiles() const { return shape_.tiles; }
  void fail() { part(view().failure)[0] = cuda::kTooManyVertices; }

 private:
  using Key = std::vector<int64_t>;  // image, then the coordinates

  template <typename P>
  static P* part(const P* from) {
    return const_cast<P*>(from);
  }
  [[nodiscard]] int vertices_per_point() const { return d_ + 1; }
  [[nodiscard]] int64_t tiles_of_batch() const { return shape_.batch * shape_.tiles.tiles; }

  // keys_ and weights_ [batch, points, V]
  void embed() {
    const int n = vertices_per_point();
    std::vector<T> c(d_), elevated(n), remainder(n), weight(n);
    std::vector<typename ScalarTraits<T>::Int> rank(n), axis(n);
    for (int64_t p = 0; p < shape_.batch * shape_.tiles.points; ++p) {
      for (int m = 0; m < d_; ++m) c[m] = features_[p * d_ + m] * feature_scale<T>(m, d_);
      embed_point<-1, ScalarLanes<T>>(d_, c.data(), elevated.data(), remainder.data(), rank.data(),
                                      axis.data(), weight.data());
      Key key{p / shape_.tiles.points};
      key.insert(key.end(), remainder.begin(), remainder.end());
      for (int r = 0; r < n; ++r) {
        keys_.push_back(key);
        weights_.push_back(weight[r]);
        if (r < d_) key = step(key, static_cast<int>(axis[d_ - r]), 1);
      }
    }
  }

  [[nodiscard]] Key step(Key key, int axis, int64_t direction) const {
    for (size_t i = 1; i < key.size(); ++i) key[i] += direction;
    key[axis + 1] -= direction * vertices_per_point();
    return key;
  }

  // Visits (tile of the batch, incidence, point of the batch, vertex number) in order.
  template <typename Visit>
  void for_each_incidence(const Visit& visit) const {
    for (int64_t at = 0; at < tiles_of_batch(); ++at) {
      const int64_t image = at / shape_.tiles.tiles, tile = at % shape_.tiles.tiles;
      for (int i = 0; i < vertices_per_point() * cuda::kTile; ++i) {
        const int64_t point = shape_.tiles.point(tile, i % cuda::kTile);
        if (point >= 0) visit(at, i, image * shape_.tiles.points + point, i / cuda::kTile);
      }
    }
  }

  void number_vertices() {
    entries_.resize(static_cast<size_t>(tiles_of_batch()));
    std::map<std::pair<int64_t, int64_t>, size_t> place;
    for_each_incidence([&](int64_t at, int i, int64_t point, int r) {
      const Key& key = keys_[point * vertices_per_point() + r];
      const auto [vertex, fresh] = ids_.try_emplace(key, static_cast<int64_t>(ids_.size()));
      if (fresh) vertices_.push_back(key);
      const auto [where, first] = place.try_emplace({at, vertex->second}, entries_[at].size());
      if (first) entries_[at].push_back({vertex->second, {}});
      entries_[at][where->second].incidences.push_back(static_cast<uint16_t>(i));
    });
  }

  [[nodiscard]] int64_t tile_rows() const {
    int64_t sum = 0;
    for (const auto& rows : entries_) sum += static_cast<int64_t>(rows.size());
    return sum;
  }

  void write_points() {
    const cuda::LatticeView<T> to = view();
    const int64_t stride = int64_t{vertices_per_point()} * cuda::kTile;
    for_each_incidence([&](int64_t at, int i, int64_t point, int r) {
      const int64_t from = point * vertices_per_point() + r;
      part(to.row)[at * stride + i] = static_cast<int32_t>(ids_.at(keys_[from]));
      part(to.weight)[at * stride + i] = weights_[from];
    });
    int32_t row = 0;
    for (int64_t at = 0; at < tiles_of_batch(); ++at) {
      part(to.tile_first)[at] = row;
      int64_t entry = 0;
      for (const TileRow& tile_row : entries_[at]) {
        part(to.entry_first)[row++] = static_cast<uint16_t>(entry);
        for (const uint16_t i : tile_row.incidences) {
          part(to.entry)[at * stride + entry++] = i;
        }
      }
    }
    part(to.tile_first)[tiles_of_batch()] = row;
  }

  void write_vertices() {
    const cuda::LatticeView<T> to = view();
    std::vector<std::vector<int32_t>> rows_of(vertices_.size());
    int32_t row = 0;
    for (const auto& rows : entries_) {
      for (const TileRow& tile_row : rows) rows_of[tile_row.vertex].push_back(row++);
    }
    int32_t place = 0;
    for (size_t v = 0; v < vertices_.size(); ++v) {
      part(to.vertex_first)[v] = place;
      for (const int32_t r : rows_of[v]) part(to.tile_row)[place++] = r;
      for (int a = 0; a < vertices_per_point(); ++a) {
        for (int side = 0; side < 2; ++side) {
          const auto found = ids_.find(step(vertices_[v], a, side == 0 ? -1 : 1));
          part(to.neighbour)[(2 * a + side) * shape_.capacity + v] =
              found == ids_.end() ? -1 : static_cast<int32_t>(found->second);
        }
      }
      const int64_t image = vertices_[v][0];
      ++part(to.image_count)[image];
      part(to.image_first)[image + 1] = static_cast<int32_t>(v + 1);
    }
    part(to.vertex_first)[vertices_.size()] = place;
    write_chains();
  }

  void write_chains() {
    const cuda::LatticeView<T> to = view();
    for (int a = 0; a < vertices_per_point(); ++a) {
      int32_t* count = part(to.chain_count) + a;
      int32_t* longest = part(to.longest_chain) + a;
      for (size_t v = 0; v < vertices_.size(); ++v) {
        if (to.previous_along(a)[v] >= 0 || to.next_along(a)[v] < 0) continue;
        part(to.heads_along(a))[(*count)++] = static_cast<int32_t>(v);
        int32_t length = 0;
        for (auto at = static_cast<int32_t>(v); at >= 0; at = to.next_along(a)[at]) ++length;
        *longest = std::max(*longest, std::min(length, cuda::kLongestChain + 1));
      }
    }
  }

  void write_ones() {
    const cuda::LatticeView<T> to = view();
    std::vector<double> ones(vertices_.size());
    for_each_incidence([&](int64_t, int, int64_t point, int r) {
      const int64_t from = point * vertices_per_point() + r;
      ones[ids_.at(keys_[from])] += static_cast<double>(weights_[from]);
    });
    for (int a = 0; a < vertices_per_point(); ++a) {
      const std::vector<double> old = ones;
      for (size_t v = 0; v < ones.size(); ++v) {
        for (int side = 0; side < 2; ++side) {
          const int32_t other = to.neighbour[(2 * a + side) * shape_.capacity + v];
          if (other >= 0) ones[v] += 0.5 * old[other];
        }
      }
    }
    for (size_t v = 0; v < ones.size(); ++v) part(to.ones)[v] = static_cast<T>(ones[v]);
  }

  struct TileRow {
    int64_t vertex;
    std::vector<uint16_t> incidences;
  };

  int d_;
  std::vector<T> features_;
  cuda::LatticeShape shape_{};
  std::vector<Key> keys_;
  std::vector<T> weights_;
  std::map<Key, int64_t> ids_;
  std::vector<Key> vertices_;
  std::vector<std::vector<TileRow>> entries_;  // by tile of the batch
  std::vector<Bytes> points_, others_;
};

}  // namespace densecrf::testing
