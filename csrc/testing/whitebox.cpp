// The insides of the lattice code as a Python module, for the tests alone.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <vector>

#include "../cpu/band.h"
#include "../cpu/sections.h"
#include "../cuda/lattice_view.h"
#include "../embedding.h"
#include "../key_layout.h"

namespace py = pybind11;

namespace densecrf {

namespace {

template <typename T>
using Array = py::array_t<T, py::array::c_style>;
using Keys = py::array_t<uint64_t, py::array::c_style | py::array::forcecast>;

template <typename T>
Array<T> to_array(const std::vector<T>& values, std::vector<py::ssize_t> shape) {
  return Array<T>(std::move(shape), values.data());
}

template <typename T>
Array<T> copy_of(const T* values, int64_t count) {
  return Array<T>(count, values);
}

// Embeds kLanes points at a time, or one in ScalarLanes (kLanes = 0).
template <typename T, int kLanes>
struct LanesOf {
  using Type = VectorLanes<T, kLanes>;
};
template <typename T>
struct LanesOf<T, 0> {
  using Type = ScalarLanes<T>;
};

// Lane i of one value or a vector of them.
template <typename T, typename V>
T lane(const V& value, int i) {
  T result;
  std::memcpy(&result, reinterpret_cast<const char*>(&value) + i * sizeof(T), sizeof(T));
  return result;
}

// c [points, d] -> remainder, axis and weight [points, d + 1]
template <int kD, int kLanes, typename T>
py::tuple embed_all(const Array<T>& c) {
  using Lanes = typename LanesOf<T, kLanes>::Type;
  using V = typename Lanes::V;
  using I = typename Lanes::I;
  const int64_t points = c.shape(0);
  const int d = static_cast<int>(c.shape(1)), vertices = d + 1, step = std::max(kLanes, 1);
  std::vector<int64_t> remainder(points * vertices), axis(points * vertices);
  std::vector<T> weight(points * vertices);
  std::vector<V> in(d), elevated(vertices), rest(vertices), w(vertices);
  std::vector<I> rank(vertices), which(vertices);
  for (int64_t p = 0; p < points; p += step) {
    const int n = static_cast<int>(std::min<int64_t>(step, points - p));
    for (int m = 0; m < d; ++m) {
      T lanes[16] = {};
      for (int q = 0; q < n; ++q) lanes[q] = c.at(p + q, m);
      std::memcpy(&in[m], lanes, sizeof(V));
    }
    embed_point<kD, Lanes>(d, in.data(), elevated.data(), rest.data(), rank.data(), which.data(),
                           w.data());
    for (int q = 0; q < n; ++q) {
      for (int r = 0; r < vertices; ++r) {
        remainder[(p + q) * vertices + r] = static_cast<int64_t>(lane<T>(rest[r], q));
        axis[(p + q) * vertices + r] = lane<typename ScalarTraits<T>::Int>(which[r], q);
        weight[(p + q) * vertices + r] = lane<T>(w[r], q);
      }
    }
  }
  const std::vector<py::ssize_t> shape{points, vertices};
  return py::make_tuple(to_array(remainder, shape), to_array(axis, shape), to_array(weight, shape));
}

template <int kD, typename T>
py::tuple embed_in(const Array<T>& c, bool vectors) {
  return vectors ? embed_all<kD, kNativeLanes<T>>(c) : embed_all<kD, 0>(c);
}

template <typename T>
py::tuple embed(const Array<T>& c, bool fixed, bool vectors) {
  if (!fixed) return embed_in<-1>(c, vectors);
  switch (c.shape(1)) {
    case 1:
      return embed_in<1>(c, vectors);
    case 2:
      return embed_in<2>(c, vectors);
    case 3:
      return embed_in<3>(c, vectors);
    case 5:
      return embed_in<5>(c, vectors);
    case 8:
      return embed_in<8>(c, vectors);
    default:
      throw std::invalid_argument("embed is compiled for 1, 2, 3, 5 and 8 dimensions");
  }
}

// coordinates [vertices, d + 1] -> keys [vertices, words]
Array<uint64_t> pack(const KeyLayout& layout, const Array<int64_t>& coordinates) {
  const KeyView view = layout.view();
  std::vector<uint64_t> keys;
  for (py::ssize_t v = 0; v < coordinates.shape(0); ++v) {
    for (int w = 0; w < view.words; ++w) {
      uint64_t key = 0;
      for (py::ssize_t j = 0; j < coordinates.shape(1); ++j) {
        key += static_cast<uint64_t>(coordinates.at(v, j)) * view.factor[j * view.words + w];
      }
      keys.push_back(key - view.origin[w]);
    }
  }
  return to_array(keys, {coordinates.shape(0), view.words});
}

Array<uint64_t> steps(const KeyLayout& layout) {
  const KeyView view = layout.view();
  const auto axes = static_cast<py::ssize_t>(layout.widths().size());
  return Array<uint64_t>({axes, static_cast<py::ssize_t>(view.words)}, view.step);
}

// The rows of one band and the table that finds them.
class VertexSet {
 public:
  explicit VertexSet(int words) : words_(words), band_(workspace_, 0, words) {}

  std::vector<int64_t> add(const Keys& keys) {
    std::vector<int64_t> rows;
    for (py::ssize_t i = 0; i < keys.shape(0); ++i) {
      rows.push_back(band_.find_or_add(at(keys, i), words_));
    }
    return rows;
  }

  // Rows of the keys, -1 for those that were not added.
  [[nodiscard]] std::vector<int64_t> find(const Keys& keys) const {
    std::vector<int64_t> rows;
    for (py::ssize_t i = 0; i < keys.shape(0); ++i) {
      const uint64_t* key = at(keys, i);
      const uint64_t slot = band_.table().probe(fingerprint(key, words_), key, words_,
                                                [this](uint32_t row) { return band_.key(row); });
      const uint32_t row = band_.table().slots[slot].row;
      rows.push_back(row == kNoRow ? -1 : static_cast<int64_t>(row));
    }
    return rows;
  }

  [[nodiscard]] int64_t slots() const { return static_cast<int64_t>(band_.table().size()); }
  [[nodiscard]] Array<uint64_t> keys() const {
    return Array<uint64_t>({band_.count(), static_cast<int64_t>(words_)}, band_.keys());
  }

 private:
  const uint64_t* at(const Keys& keys, py::ssize_t i) const {
    if (keys.ndim() != 2 || keys.shape(1) != words_) {
      throw std::invalid_argument("keys must be [count, words]");
    }
    return keys.data(i, 0);
  }

  int words_;
  cpu::Workspace workspace_;
  BandVertices<float> band_;
};

// A table of 2^bits slots after offers of (key, row): its (key, row) pairs.
std::vector<std::pair<uint64_t, uint32_t>> offer(
    int bits, const std::vector<std::pair<uint64_t, uint32_t>>& offers) {
  std::vector<Slot> slots(size_t{1} << bits);
  const KeyTable table{slots.data(), bits};
  table.clear();
  for (const auto& [key, row] : offers) table.offer(key, row);
  std::vector<std::pair<uint64_t, uint32_t>> found;
  for (const Slot& slot : slots) {
    if (slot.key != kNoKey) found.emplace_back(slot.key, slot.row);
  }
  return found;
}

// Runs the tasks of a phase one after another, in an order of its own each time.
struct ShuffledExecutor {
  explicit ShuffledExecutor(int threads, uint32_t seed)
      : random(seed), executor{threads, &ShuffledExecutor::run, this} {}

  static void run(void* self, int tasks, void (*body)(void*, int), void* context) {
    std::vector<int> order(tasks);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), static_cast<ShuffledExecutor*>(self)->random);
    for (const int task : order) body(context, task);
  }

  std::mt19937 random;
  cpu::Executor executor;
};

// A lattice as cpu::backend() builds it for features [points, d] with so many threads, taken apart.
template <typename T>
py::dict build_lattice(const Array<T>& features, int threads, uint32_t seed) {
  const Scalar scalar = sizeof(T) == 4 ? Scalar::kFloat32 : Scalar::kFloat64;
  cpu::FeatureSource source{};
  source.points = features.shape(0);
  source.dimensions = static_cast<int>(features.shape(1));
  source.matrix = features.data();
  source.point_stride = features.shape(1);
  source.dimension_stride = 1;
  const KeyLayout layout = cpu::plan_keys(scalar, source);
  std::vector<char> points(point_section_bytes(source.points, source.dimensions, sizeof(T)));
  std::vector<char> vertices;
  const cpu::Allocator allocator{[](void* context, size_t bytes) -> void* {
                                   auto& section = *static_cast<std::vector<char>*>(context);
                                   section.resize(bytes);
                                   return section.data();
                                 },
                                 &vertices};
  const ShuffledExecutor shuffled(threads, seed);
  cpu::backend().build_lattice(scalar, source, layout.view(), shuffled.executor, points.data(),
                               allocator);

  const LatticeView<T> view(points.data(), vertices.data());
  const VertexHeader& header = *view.header;
  const int axes = view.vertices_per_point;
  py::dict result;
  result["words"] = layout.words();
  result["points"] = header.points;
  result["dimensions"] = header.dimensions;
  result["bands"] = header.bands;
  result["parts"] = header.parts;
  result["rows"] = header.rows;
  result["vertices"] = header.vertices;
  result["bytes"] = header.bytes;
  result["section_bytes"] = vertices.size();
  result["first_block"] = copy_of(view.first_block, view.bands + 1);
  result["row_base"] = copy_of(view.row_base, view.bands + 1);
  const int64_t blocks = view.first_block[view.bands];
  result["first_rows"] = copy_of(view.first_rows, blocks + view.bands);
  std::vector<std::pair<uint32_t, uint32_t>> copies;
  for (int64_t i = 0; i < header.copies; ++i) {
    copies.emplace_back(view.copies[i].primary, view.copies[i].copy);
  }
  result["copies"] = copies;
  result["copy_cuts"] = copy_of(view.copy_cuts, view.parts + 1);
  result["ones"] = copy_of(view.ones, view.rows);

  // chains[axis]: the rows of each chain; part_chains[axis]: chains before the end of each part.
  std::vector<std::vector<std::vector<uint32_t>>> chains(axes);
  std::vector<std::vector<size_t>> part_chains(axes);
  for (int axis = 0; axis < axes; ++axis) {
    const uint32_t* entries = view.chains + axis * view.chain_stride;
    const int64_t* cuts = view.chain_cuts + axis * (view.parts + 1);
    for (int part = 0; part < view.parts; ++part) {
      bool open = false;
      for (int64_t e = cuts[part]; e < cuts[part + 1]; ++e) {
        if (!open) chains[axis].emplace_back();
        chains[axis].back().push_back(entries[e] >> 1);
        open = (entries[e] & 1) == 0;
      }
      if (open) throw std::runtime_error("a part ends inside a chain");
      part_chains[axis].push_back(chains[axis].size());
    }
  }
  result["chains"] = chains;
  result["part_chains"] = part_chains;

  // The records, by points; padding included.
  const int64_t padded = groups_of(view.points) * kGroup;
  std::vector<uint32_t> row(padded * axes);
  std::vector<T> weight(padded * axes);
  for (int64_t p = 0; p < padded; ++p) {
    for (int r = 0; r < axes; ++r) {
      const int64_t record = (p / kGroup * axes + r) * kGroup + p % kGroup;
      row[p * axes + r] = view.row[record];
      weight[p * axes + r] = view.weight[record];
    }
  }
  result["row"] = to_array(row, {padded, axes});
  result["weight"] = to_array(weight, {padded, axes});
  return result;
}

// 2^x, by vectors of the width the tier of this file has.
template <typename T>
Array<T> exp2_of(const Array<T>& x, bool near) {
  constexpr int kLanes = kNativeLanes<T>;
  using V = Vec<T, kLanes>;
  std::vector<T> padded(x.data(), x.data() + x.size());
  padded.resize((padded.size() + kLanes - 1) / kLanes * kLanes);
  for (size_t i = 0; i < padded.size(); i += kLanes) {
    const V value = load<V>(padded.data() + i);
    store(padded.data() + i, near ? exp2_near<T, kLanes>(value) : exp2<T, kLanes>(value));
  }
  return copy_of(padded.data(), x.size());
}

// from [rows, columns] -> [columns, rows], as part of larger matrices of these strides.
template <typename T>
Array<T> transposed(const Array<T>& from, int64_t from_stride, int64_t to_stride) {
  const int64_t rows = from.shape(0), columns = from.shape(1);
  std::vector<T> in(rows * from_stride, T(-1)), out(columns * to_stride, T(-1));
  for (int64_t r = 0; r < rows; ++r) std::copy_n(from.data(r, 0), columns, &in[r * from_stride]);
  transpose(in.data(), from_stride, rows, columns, out.data(), to_stride);
  return to_array(out, {columns, to_stride});
}

template <typename T>
void add_functions(py::module_& m) {
  using py::arg;
  m.def("embed", &embed<T>, arg("c").noconvert(), arg("fixed"), arg("vectors"));
  m.def("build_lattice", &build_lattice<T>, arg("features").noconvert(), arg("threads"),
        arg("seed") = 0);
  m.def("exp2", &exp2_of<T>, arg("x").noconvert(), arg("near") = false);
  m.def("transpose", &transposed<T>, arg("from").noconvert(), arg("from_stride"), arg("to_stride"));
}

// The last extents of a CUDA lattice's tensors, its tiles, and the room that tensors of these
// extents have beyond what was asked for.
std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t> cuda_lattice(
    int64_t batch, const std::vector<int64_t>& grid, int dimensions, int scalar_size,
    int64_t max_vertices) {
  const cuda::TileMap tiles = cuda::tile_map(grid.data(), static_cast<int>(grid.size()));
  const cuda::LatticeShape asked =
      cuda::plan_shape(batch, tiles, dimensions, scalar_size, max_vertices);
  const int64_t points = cuda::points_extent(asked), vertices = cuda::vertices_extent(asked);
  cuda::LatticeShape found = asked;
  cuda::set_capacities(found, batch * tiles.points * points,
                       batch * scalar_size * (dimensions + 1) * vertices);
  return {points, vertices, tiles.tiles, found.capacity - asked.capacity,
          found.tile_row_capacity - asked.tile_row_capacity};
}

}  // namespace

}  // namespace densecrf

PYBIND11_MODULE(_whitebox, m) {
  using namespace densecrf;
  m.def("isa", [] { return cpu::backend().name; });
  m.def("feature_scale", &feature_scale<double>);
  m.def("feature_scale32", &feature_scale<float>);
  m.def("max_elevated", [](bool wide) {
    return wide ? ScalarTraits<double>::kMaxElevated : ScalarTraits<float>::kMaxElevated;
  });
  add_functions<float>(m);
  add_functions<double>(m);
  py::class_<KeyLayout>(m, "KeyLayout")
      .def(py::init<const std::vector<double>&, const std::vector<double>&, double>())
      .def_property_readonly("words", &KeyLayout::words)
      .def_property_readonly("widths", &KeyLayout::widths)
      .def_property_readonly("steps", &steps)
      .def("pack", &pack);
  py::class_<VertexSet>(m, "VertexSet")
      .def(py::init<int>())
      .def("add", &VertexSet::add)
      .def("find", &VertexSet::find)
      .def_property_readonly("slots", &VertexSet::slots)
      .def_property_readonly("keys", &VertexSet::keys);
  m.def("offer", &offer);
  m.def("cuda_lattice", &cuda_lattice);
}
