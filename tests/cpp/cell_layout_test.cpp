// The cells of vertices against brute force: every vertex of every simplex that points in a box can
// have, and its neighbours, in a set of coordinates.
#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>
#include <vector>

#include "cell_layout.h"
#include "check.h"
#include "embedding.h"

namespace densecrf::testing {

namespace {

using Vertex = std::vector<int64_t>;  // coordinates

Vertex next_along(Vertex vertex, int axis) {
  for (int64_t& coordinate : vertex) ++coordinate;
  vertex[axis] -= static_cast<int64_t>(vertex.size());
  return vertex;
}

Vertex previous_along(Vertex vertex, int axis) {
  for (int64_t& coordinate : vertex) --coordinate;
  vertex[axis] += static_cast<int64_t>(vertex.size());
  return vertex;
}

int residue_of(const Vertex& vertex) {
  const auto n = static_cast<int64_t>(vertex.size());
  return static_cast<int>((vertex[0] % n + n) % n);
}

// By way of the vertex of residue 0 that lies r steps back, as the embedding goes.
int64_t cell_of(const CellLayout& layout, const Vertex& vertex) {
  Vertex first = vertex;
  int64_t steps = 0;
  for (int r = residue_of(vertex); r > 0; --r) {
    first = previous_along(first, r % static_cast<int>(vertex.size()));
    steps += layout.step(r % static_cast<int>(vertex.size()));
  }
  return layout.cell(first.data()) + steps;
}

struct Box {
  std::vector<double> low, high;  // of scaled features
};

// The vertices of the simplices around random points, the corners of the box among them.
template <typename T>
std::set<Vertex> vertices_of(const Box& box, int points, Random& random) {
  const auto d = static_cast<int>(box.low.size());
  std::vector<T> c(d), elevated(d + 1), remainder(d + 1), weight(d + 1);
  std::vector<typename ScalarTraits<T>::Int> rank(d + 1), axis(d + 1);
  std::set<Vertex> vertices;
  for (int p = 0; p < points; ++p) {
    for (int m = 0; m < d; ++m) {
      const int64_t where = random.below(3);
      const double value = where == 0   ? box.low[m]
                           : where == 1 ? box.high[m]
                                        : random.real(box.low[m], box.high[m]);
      c[m] = static_cast<T>(value);
    }
    embed_point<-1, ScalarLanes<T>>(d, c.data(), elevated.data(), remainder.data(), rank.data(),
                                    axis.data(), weight.data());
    Vertex vertex(remainder.begin(), remainder.end());
    for (int r = 0; r <= d; ++r) {
      vertices.insert(vertex);
      if (r < d) vertex = next_along(vertex, static_cast<int>(axis[d - r]));
    }
  }
  return vertices;
}

Box random_box(int d, double widest, Random& random) {
  Box box;
  for (int m = 0; m < d; ++m) {
    const double at = random.below(2) == 0 ? 0.0 : random.real(-50.0, 50.0);
    box.low.push_back(at);
    box.high.push_back(at + (random.below(4) == 0 ? 0.0 : random.real(0.0, widest)));
  }
  return box;
}

// Every vertex with all coordinates within d of those that points in the box can have: more than
// their simplices have.
std::set<Vertex> all_vertices(const Box& box) {
  const auto d = static_cast<int>(box.low.size()), n = d + 1;
  std::vector<double> first(n), last(n);
  for (int j = 0; j <= d; ++j) {
    const CoordinateRange range = coordinate_range(j, d, box.low.data(), box.high.data());
    first[j] = range.low - d;
    last[j] = range.high + d;
  }
  std::set<Vertex> vertices;
  for (int r = 0; r <= d; ++r) {
    std::vector<Vertex> begun = {{}};
    for (int j = 0; j < d; ++j) {
      std::vector<Vertex> longer;
      for (const Vertex& vertex : begun) {
        auto at = static_cast<int64_t>(std::ceil((first[j] - r) / n)) * n + r;
        for (; static_cast<double>(at) <= last[j]; at += n) {
          longer.push_back(vertex);
          longer.back().push_back(at);
        }
      }
      begun = std::move(longer);
    }
    for (Vertex& vertex : begun) {
      vertex.push_back(-std::accumulate(vertex.begin(), vertex.end(), int64_t{0}));
      const auto rest = static_cast<double>(vertex.back());
      if (rest >= first[d] && rest <= last[d]) vertices.insert(vertex);
    }
  }
  return vertices;
}

// Every vertex has a cell of its own, a step leads to that of its next neighbour, and where there
// is no neighbour to a cell of no vertex: always within the range.
void check(const Box& box, const std::set<Vertex>& vertices) {
  const auto d = static_cast<int>(box.low.size());
  CellLayout layout{};
  require(plan_cells(d, box.low.data(), box.high.data(), int64_t{1} << 40, layout), "no layout");
  std::map<int64_t, const Vertex*> vertex_at;
  for (const Vertex& vertex : vertices) {
    const int64_t cell = cell_of(layout, vertex);
    require(cell >= 0 && cell < layout.cells, "cell ", cell, " of ", layout.cells);
    require(vertex_at.emplace(cell, &vertex).second, "cell ", cell, " has two vertices");
    require(cell % (d + 1) == residue_of(vertex), "cell ", cell, " has another residue");
  }
  for (const auto& [cell, vertex] : vertex_at) {
    for (int axis = 0; axis <= d; ++axis) {
      const int64_t next =
          cell + (residue_of(*vertex) == d ? layout.wrap(axis) : layout.step(axis));
      require(next >= 0 && next < layout.cells, "neighbour's cell ", next, " of ", layout.cells);
      const Vertex neighbour = next_along(*vertex, axis);
      const auto found = vertex_at.find(next);
      if (vertices.count(neighbour) != 0) {
        require(found != vertex_at.end() && *found->second == neighbour, "a neighbour is missed");
      } else {
        require(found == vertex_at.end(), "a missing neighbour's cell has a vertex");
      }
    }
  }
}

template <typename T>
void check_box(const Box& box, int points, Random& random) {
  check(box, vertices_of<T>(box, points, random));
}

template <typename T>
void random_boxes() {
  Random random(1);
  for (int d = 1; d <= kMostCellDimensions; ++d) {
    const double widest[] = {0.5, 2.0 * (d + 1), 12.0 * (d + 1)};
    for (int trial = 0; trial < 60; ++trial) {
      // As many cells as the 2^40 that are allowed hold in many dimensions.
      const double extent = d > 6 ? 0.5 * (1 + trial % 8) : widest[trial % 3];
      check_box<T>(random_box(d, extent, random), d > 6 ? 40 : 250, random);
    }
  }
}

void all_that_could_be() {
  Random random(2);
  const int trials[] = {0, 100, 60, 30, 10};
  for (int d = 1; d <= 4; ++d) {
    for (int trial = 0; trial < trials[d]; ++trial) {
      const Box box = random_box(d, 3.0 * (d + 1), random);
      check(box, all_vertices(box));
    }
  }
}

void reach_of_floats() {
  Random random(3);
  const double reach = 0.99 * ScalarTraits<float>::kMaxElevated;
  for (int trial = 0; trial < 20; ++trial) {
    check_box<float>({{reach - 90.0}, {reach}}, 300, random);
    check_box<float>({{0.0}, {reach}}, 300, random);
    check_box<float>({{0.0, reach / 3 - 40.0}, {30.0, reach / 3}}, 300, random);
  }
}

// Fields of the features of a picture: 500 x 375 at 80/13 fits, at 67/3 it does not.
void limits_are_kept() {
  const auto cells = [](double spatial, double color, int64_t most) {
    const double last[] = {499.0 / spatial, 374.0 / spatial, 255.0 / color, 255.0 / color,
                           255.0 / color};
    std::vector<double> low(5, 0.0), high(5);
    for (int m = 0; m < 5; ++m) high[m] = last[m] * feature_scale<double>(m, 5);
    CellLayout layout{};
    return plan_cells(5, low.data(), high.data(), most, layout) ? layout.cells : 0;
  };
  const int64_t coarse = cells(80.0, 13.0, kMostCells);
  // Five of six coordinates, each with an empty value, the slowest with two: 20 * 20 * 19 * 21
  // * 20.
  require(coarse == 6 * 3'192'000, "80/13 takes ", coarse, " cells");
  require(cells(80.0, 13.0, coarse) == coarse, "exactly as many as are allowed are too many");
  require(cells(80.0, 13.0, coarse - 1) == 0, "one more than allowed passes");
  require(cells(67.0, 3.0, kMostCells) == 0, "67/3 fits");
  require(cells(1e-3, 1e-3, kMostCells) == 0, "a huge range fits");
  require(cells(std::nan(""), 13.0, kMostCells) == 0, "NaN fits");
  CellLayout layout{};
  for (const int d : {kMostCellDimensions, kMostCellDimensions + 1}) {
    const std::vector<double> point(d, 0.0);
    const bool fits = plan_cells(d, point.data(), point.data(), kMostCells, layout);
    require(fits == (d == kMostCellDimensions), d, " dimensions", fits ? "" : " do not fit");
  }
}

}  // namespace

}  // namespace densecrf::testing

int main() {
  using namespace densecrf::testing;
  int failures = 0;
  failures += run_test("vertices and neighbours in random boxes, float32", random_boxes<float>);
  failures += run_test("vertices and neighbours in random boxes, float64", random_boxes<double>);
  failures += run_test("all vertices that there could be", all_that_could_be);
  failures += run_test("boxes at the end of what float32 resolves", reach_of_floats);
  failures += run_test("limits are kept", limits_are_kept);
  return failures == 0 ? 0 : 1;
}
