// Vertices found by a bitmap of cells: the same lattice as by hash table but for the numbers of the
// vertices, and the same results bit by bit.
#include <algorithm>
#include <functional>
#include <stdexcept>

#include "cuda/build.h"
#include "cuda_images.h"
#include "cuda_schedules.h"

namespace densecrf::testing {

namespace {

using cuda::VertexTable;

template <typename T = float>
Built<T> built_by(VertexTable table, const ByteImages& images) {
  cuda::BuildArguments arguments = images.arguments;
  arguments.table = table;
  return Built<T>(arguments);
}

// number[v] is what `other` calls vertex v of `one`.
template <typename T>
std::vector<int32_t> renumbering(const cuda::LatticeView<T>& one,
                                 const cuda::LatticeView<T>& other) {
  const int64_t per_tile = int64_t{one.vertices_per_point} * cuda::kTile;
  std::vector<int32_t> number(one.image_first[one.batch], -1), back(number.size(), -1);
  for (int64_t tile = 0; tile < one.batch * one.tiles.tiles; ++tile) {
    for (int64_t i = tile * per_tile; i < (tile + 1) * per_tile; ++i) {
      if (one.tiles.point(tile % one.tiles.tiles, static_cast<int>(i % cuda::kTile)) < 0) {
        require(one.row[i] == 0 && other.row[i] == 0, "a lane without point has a row");
        continue;
      }
      const int32_t from = one.row[i], to = other.row[i];
      require(to >= 0 && to < static_cast<int32_t>(back.size()), "row ", i, " is ", to);
      if (number[from] < 0 && back[to] < 0) {
        number[from] = to;
        back[to] = from;
      }
      require(number[from] == to && back[to] == from, "incidence ", i, " has another vertex");
    }
  }
  for (size_t v = 0; v < number.size(); ++v) require(number[v] >= 0, "vertex ", v, " is nobody's");
  return number;
}

template <typename T>
void require_same_lists(const cuda::LatticeView<T>& got, const cuda::LatticeView<T>& expected,
                        const std::vector<int32_t>& number) {
  for (size_t v = 0; v < number.size(); ++v) {
    const int32_t first = expected.vertex_first[v], length = expected.vertex_first[v + 1] - first;
    const int32_t at = got.vertex_first[number[v]];
    require(got.vertex_first[number[v] + 1] - at == length, "vertex ", v, " has another list");
    require_equal("tile_row", got.tile_row + at, expected.tile_row + first, length);
    for (int plane = 0; plane < 2 * got.vertices_per_point; ++plane) {
      const int32_t neighbour = expected.neighbour[plane * expected.capacity + v];
      require(got.neighbour[plane * got.capacity + number[v]] ==
                  (neighbour < 0 ? -1 : number[neighbour]),
              "vertex ", v, " has another neighbour in plane ", plane);
    }
    require(got.ones[number[v]] == expected.ones[v], "vertex ", v, " has other ones");
  }
  require_same_chains(got, expected, [&](int32_t vertex) { return number[vertex]; });
  require_equal("image_count", got.image_count, expected.image_count, expected.batch);
  require_equal("image_first", got.image_first, expected.image_first, expected.batch + 1);
}

// The parts by tile and point do not depend on the vertices' numbers.
template <typename T>
void require_same_tiles(const cuda::LatticeView<T>& got, const cuda::LatticeView<T>& expected) {
  const int64_t tiles = expected.batch * expected.tiles.tiles;
  const int64_t per_tile = int64_t{expected.vertices_per_point} * cuda::kTile;
  require_equal("failure", got.failure, expected.failure, 1);
  require_equal("weight", got.weight, expected.weight, tiles * per_tile);
  require_equal("tile_first", got.tile_first, expected.tile_first, tiles + 1);
  require_equal("entry_first", got.entry_first, expected.entry_first, expected.tile_first[tiles]);
  for (int64_t tile = 0; tile < tiles; ++tile) {
    require_equal(
        "entry", got.entry + tile * per_tile, expected.entry + tile * per_tile,
        expected.tiles.points_in(tile % expected.tiles.tiles) * expected.vertices_per_point);
  }
}

template <typename T>
std::vector<T> filtered(const Built<T>& lattice, int64_t channels, bool adjoint) {
  const int64_t count = lattice.shape.batch * lattice.shape.tiles.points * channels;
  const std::vector<T> values = noise<T>(count, -1.0, 1.0, 5);
  std::vector<T> result(values.size(), T(7));
  Memory memory;
  cuda::filter(kCudaScalar<T>,
               {lattice.given(), lattice.shape.batch, channels, values.data(), result.data(),
                Normalization::kSymmetric, adjoint},
               memory.context());
  return result;
}

template <typename T>
std::vector<T> inferred(const Built<T>& lattice, int64_t classes) {
  const int64_t images = lattice.shape.batch, points = lattice.shape.tiles.points;
  const std::vector<T> logits = noise<T>(images * points * classes, -2.0, 2.0, 6);
  const T weight = T(3);
  const cuda::Kernel kernel{lattice.given(), Normalization::kSymmetric, Compatibility::kPotts,
                            &weight};
  std::vector<T> result(logits.size(), T(7));
  Memory memory;
  cuda::mean_field(kCudaScalar<T>,
                   {images, classes, logits.data(), lattice.shape.tiles, &kernel, 1, 3, 0.0, 0.0,
                    Output::kProbabilities, result.data(), nullptr, nullptr},
                   memory.context());
  return result;
}

template <typename T = float>
void both_agree(const ByteImages& images) {
  const Built<T> by_hash = built_by<T>(VertexTable::kHash, images);
  const auto smooth = filtered(by_hash, 2, false), adjoint = filtered(by_hash, 5, true);
  const auto marginals = inferred(by_hash, 3);
  std::vector<int32_t> first;
  under_all_schedules([&] {
    const Built<T> by_cell = built_by<T>(VertexTable::kBitmap, images);
    require_same_tiles(by_cell.view(), by_hash.view());
    const std::vector<int32_t> number = renumbering(by_hash.view(), by_cell.view());
    require_same_lists(by_cell.view(), by_hash.view(), number);
    if (first.empty()) first = number;
    require(number == first, "another schedule, other numbers");
  });
  const Built<T> by_cell = built_by<T>(VertexTable::kBitmap, images);
  require(filtered(by_cell, 2, false) == smooth, "the filter has other bits");
  require(filtered(by_cell, 5, true) == adjoint, "the adjoint has other bits");
  require(inferred(by_cell, 3) == marginals, "the mean field has other bits");
}

void every_dimension() {
  both_agree({{300}, 0, 1, false, 4.0});            // d = 1
  both_agree({{33, 20}, 0, 2, false, 3.0});         // d = 2
  both_agree({{5, 9, 11}, 0, 1, false, 2.0});       // d = 3
  both_agree({{300}, 3, 1, true, 20.0, 30.0});      // d = 4
  both_agree({{20, 18}, 3, 1, false});              // d = 5
  both_agree({{5, 9, 11}, 3, 1, true, 9.0, 50.0});  // d = 6
  both_agree({{20, 9}, 6, 1, true, 60.0, 400.0});   // d = 8
}

void double_precision() { both_agree<double>({{33, 20}, 0, 1, false, 3.0}); }

void hard_images() {
  for (const std::vector<int64_t>& grid :
       {std::vector<int64_t>{1, 1}, {1, 300}, {300, 1}, {33, 40}}) {
    for (const Contents contents : {Contents::kConstant, Contents::kNoise}) {
      both_agree({grid, 3, 1, false, 8.0, 13.0, contents});
    }
  }
}

void unequal_batch() {
  both_agree({{20, 18}, 3, 4, true, 8.0, 13.0, Contents::kUnequal});
  both_agree({{9, 8}, 1, 40, false, 8.0, 40.0, Contents::kUnequal});
}

void image_of_a_batch_is_as_alone() {
  const ByteImages images({20, 18}, 3, 3, false, 8.0, 13.0, Contents::kUnequal);
  const Built<float> batch = built_by(VertexTable::kBitmap, images);
  const auto all = filtered(batch, 2, false);
  for (int64_t b = 0; b < 3; ++b) {
    cuda::BuildArguments one = images.arguments;
    one.table = VertexTable::kBitmap;
    one.from.batch = 1;
    one.from.image = images.bytes.data() + b * one.from.batch_stride;
    const Built<float> single(one);
    const int64_t first = batch.view().image_first[b], count = single.view().image_first[1];
    require(batch.view().image_first[b + 1] - first == count, "image ", b, " has other vertices");
    require_equal("ones", batch.view().ones + first, single.view().ones, count);
    const int64_t rows = 6 * cuda::kTile * single.shape.tiles.tiles;
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t lane = i % cuda::kTile, tile = i / (6 * cuda::kTile);
      if (single.shape.tiles.point(tile, static_cast<int>(lane)) < 0) continue;
      require(batch.view().row[b * rows + i] - first == single.view().row[i], "image ", b,
              " has other numbers");
    }
  }
}

void too_many_vertices() {
  ByteImages images({20, 18}, 3, 2, false, 8.0, 13.0, Contents::kUnequal);
  const Built<float> unbounded = built_by(VertexTable::kBitmap, images);
  const int32_t* counts = unbounded.view().image_count;
  const int64_t most = std::max(counts[0], counts[1]);
  images.arguments.table = VertexTable::kBitmap;
  images.arguments.max_vertices = most;
  both_agree(images);
  images.arguments.max_vertices = most - 1;
  fails_as<float>(images.arguments, cuda::kTooManyVertices, -1 - counts[0]);
}

// The bitmap is taken up to the limit and not beyond, and only where the host knows the range.
void the_limit_decides() {
  int taken = 0, refused = 0;
  for (double color = 7.0; color < 80.0; color *= 1.3) {
    const ByteImages images({40, 50}, 3, 2, false, 20.0, color);
    const cuda::LatticeShape shape =
        cuda::plan_shape(2, images.arguments.from.tiles, 5, 4, images.arguments.max_vertices);
    cuda::BuildArguments arguments = images.arguments;
    const bool by_cell = cuda::choose_code<float>(arguments, shape).by_cell;
    arguments.table = VertexTable::kBitmap;
    const int64_t cells = cuda::choose_code<float>(arguments, shape).cells.cells;
    const int64_t most = cuda::most_cells(shape, VertexTable::kAutomatic);
    require(by_cell == (cells <= most), cells, " cells of ", most, ", by cell: ", by_cell);
    arguments.table = VertexTable::kHash;
    require(!cuda::choose_code<float>(arguments, shape).by_cell, "a bitmap for a hash table");
    ++(by_cell ? taken : refused);

    const Built<float> found = built_by(VertexTable::kAutomatic, images);
    const Built<float> expected =
        built_by(by_cell ? VertexTable::kBitmap : VertexTable::kHash, images);
    require_equal("row", found.view().row, expected.view().row,
                  shape.batch * shape.tiles.tiles * 6 * cuda::kTile);
  }
  require(taken > 1 && refused > 1, "of the bandwidths ", taken, " take a bitmap, ", refused,
          " a hash table");
}

void require_refused(cuda::BuildArguments arguments, const std::string& why) {
  const cuda::FeatureSource& from = arguments.from;
  const cuda::LatticeShape shape =
      cuda::plan_shape(from.batch, from.tiles, from.dimensions, 4, arguments.max_vertices);
  require(!cuda::choose_code<float>(arguments, shape).by_cell, why, ": a bitmap is taken");
  arguments.table = VertexTable::kBitmap;
  try {
    cuda::choose_code<float>(arguments, shape);
  } catch (const std::invalid_argument&) {
    return;
  }
  fail(why, ": a bitmap that cannot be is not refused");
}

void what_no_bitmap_holds_is_refused() {
  const ByteImages images({20, 18}, 3, 1, false);
  cuda::BuildArguments floats = images.arguments;
  floats.from.pixel_type = PixelType::kFloat32;
  require_refused(floats, "an image of floats");
  require_refused(from_matrix(images.scene()), "a matrix");
  require_refused(ByteImages({20, 18}, 3, 1, false, 8.0, 1.0).arguments, "too many cells");
  require_refused(ByteImages({4, 4}, 10, 1, false, 1e6, 1e6).arguments, "12 dimensions");
  ByteImages many({20, 18}, 1, 1, false, 8.0, 1.0);
  many.arguments.from.batch = 5000;
  require_refused(many.arguments, "too many cells of the batch");
}

// A memory no smaller than the hash table's is never asked for unless a bitmap is insisted on.
void the_bitmap_takes_no_more_memory_than_the_table() {
  for (const int64_t side : {4, 16, 60, 240, 1000}) {
    const int64_t grid[] = {side, side};
    for (const int64_t batch : {1, 3, 50}) {
      if (batch * side * side > 5'000'000) continue;
      const auto shape =
          cuda::plan_shape(batch, cuda::tile_map(grid, 2), 5, 4, int64_t{6} * side * side);
      const int64_t cells = cuda::most_cells(shape, VertexTable::kAutomatic);
      const int64_t bytes = cuda::runs_of_image(cells) * cuda::kRunBytes;
      require(bytes <= cuda::hash_slots(shape) * 4, "side ", side, ": ", bytes, " bytes");
      require(batch * cells <= cuda::kMostCellsOfBatch && cells <= kMostCells, "side ", side,
              ", batch ", batch, ": ", cells, " cells");
      require(side < 60 || cells > 0, "side ", side, " has no cells");
    }
  }
}

// The scratch memory of a build; csrc/README.md states it for each pair of point and vertex.
int64_t scratch_of(const ByteImages& images, VertexTable table) {
  cuda::BuildArguments arguments = images.arguments;
  arguments.table = table;
  const Built<float> room(arguments);
  Bytes points(room.points.bytes()), vertices(room.vertices.bytes());
  Memory memory;
  cuda::build_lattice(arguments, room.shape, points.data(), vertices.data(), memory.context());
  return memory.bytes();
}

void scratch_is_as_stated() {
  const ByteImages images({64, 80}, 3, 1, true, 20.0, 30.0);
  const int64_t pairs = 64 * 80 * 6, spare = 16 * 1024;
  const int64_t hash = scratch_of(images, VertexTable::kHash);
  const int64_t bitmap = scratch_of(images, VertexTable::kBitmap);
  require(scratch_of(images, VertexTable::kAutomatic) == bitmap, "no bitmap is taken");
  require(hash >= 42 * pairs && hash <= 51 * pairs + spare, "by hash table ", hash, " bytes for ",
          pairs, " pairs");
  require(bitmap >= 30 * pairs && bitmap <= hash - 4 * pairs + spare, "by bitmap ", bitmap,
          " bytes, ", hash, " by hash table");
}

void small_picture() { both_agree({{20, 18}, 3, 1, false}); }

// Beside a slot's number lies a bit that marks heads, however many points there are.
void slots_can_be_numbered() {
  for (const int64_t side : {1, 16, 512, 1 << 13, 1 << 14}) {
    const int64_t grid[] = {side, side};
    const cuda::LatticeShape shape = cuda::plan_shape(1, cuda::tile_map(grid, 2), 5, 4, 1);
    const int64_t slots = cuda::hash_slots(shape), incidences = 6 * side * side;
    require(slots > incidences, slots, " slots for ", incidences, " keys");
    require(slots - 1 < int64_t{cuda::KeyNumbering::kHead}, slots, " slots for 31 bits");
  }
}

const Mistakes kMistakes({
    {"nothing", small_picture, {}, true},
    {"atomics in two steps", small_picture, {.split_atomics = true}},
});

int run_all() {
  int failures = 0;
  const auto test = [&](const char* sentence, const std::function<void()>& body) {
    failures += run_test(sentence, body);
  };
  test("slots of the hash table can be numbered", slots_can_be_numbered);
  test("bitmap and hash table agree in every dimension", every_dimension);
  test("and in double precision", double_precision);
  test("and on one pixel, lines, constant images and noise", hard_images);
  test("and on batches of unequal contents", unequal_batch);
  test("an image of a batch is as alone", image_of_a_batch_is_as_alone);
  test("too many vertices are refused", too_many_vertices);
  test("the number of cells decides", the_limit_decides);
  test("what no bitmap holds is refused", what_no_bitmap_holds_is_refused);
  test("the bitmap takes no more memory than the table",
       the_bitmap_takes_no_more_memory_than_the_table);
  test("a build takes as much scratch memory as is stated", scratch_is_as_stated);
  return failures + kMistakes.run_all();
}

}  // namespace

}  // namespace densecrf::testing

int main(int arguments, char** argument) {
  using namespace densecrf::testing;
  if (arguments > 1) return kMistakes.make(argument[1]);
  return run_all() == 0 ? 0 : 1;
}
