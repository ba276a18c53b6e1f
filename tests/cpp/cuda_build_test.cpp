// The CUDA backend's build, run by the emulator, against lattices made from their definition.
#include <limits>

#include "cuda_images.h"
#include "cuda_schedules.h"

namespace densecrf::testing {

namespace {

template <typename T>
void require_same(const cuda::LatticeView<T>& got, const cuda::LatticeView<T>& expected) {
  const int64_t tiles = expected.batch * expected.tiles.tiles;
  const int vertices_per_point = expected.vertices_per_point;
  const int64_t incidences = tiles * vertices_per_point * cuda::kTile;
  require_equal("failure", got.failure, expected.failure, 1);
  require_equal("image_count", got.image_count, expected.image_count, expected.batch);
  require_equal("image_first", got.image_first, expected.image_first, expected.batch + 1);
  require_equal("weight", got.weight, expected.weight, incidences);
  require_equal("tile_first", got.tile_first, expected.tile_first, tiles + 1);
  require_equal("row", got.row, expected.row, incidences);
  const int64_t rows = expected.tile_first[tiles];
  require_equal("entry_first", got.entry_first, expected.entry_first, rows);
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const int64_t base = tile * vertices_per_point * cuda::kTile;
    require_equal("entry", got.entry + base, expected.entry + base,
                  expected.tiles.points_in(tile % expected.tiles.tiles) * vertices_per_point);
  }
  const int64_t vertices = expected.image_first[expected.batch];
  require_equal("vertex_first", got.vertex_first, expected.vertex_first, vertices + 1);
  require_equal("tile_row", got.tile_row, expected.tile_row, rows);
  for (int plane = 0; plane < 2 * vertices_per_point; ++plane) {
    require_equal("neighbour", got.neighbour + plane * got.capacity,
                  expected.neighbour + plane * expected.capacity, vertices);
  }
  require_same_chains(got, expected, [](int32_t vertex) { return vertex; });
  const double allowed = sizeof(T) == 4 ? 3e-6 : 1e-14;
  for (int64_t v = 0; v < vertices; ++v) {
    const double error = std::abs(static_cast<double>(got.ones[v] - expected.ones[v]));
    require(error <= allowed * (1.0 + static_cast<double>(expected.ones[v])), "ones[", v, "] is ",
            got.ones[v], ", expected ", expected.ones[v]);
  }
}

template <typename T>
void equals_definition(const Scene<T>& scene) {
  const CudaLattice<T> expected = cuda_lattice(scene);
  under_all_schedules([&] { require_same(Built<T>(from_matrix(scene)).view(), expected.view()); });
}

// Points of any dimension near a corner of the range that their dtype resolves, some at the other.
template <typename T>
Scene<T> corners(int64_t points, int d, uint64_t seed) {
  Scene<T> scene{{points}, d, 1, {}};
  // |elevated_j| <= (d + j) max |c|, and c is a feature times at most feature_scale(0).
  const double reach =
      0.99 * ScalarTraits<T>::kMaxElevated / (2.0 * d) / feature_scale<double>(0, d);
  Random random(seed);
  for (int64_t i = 0; i < points * d; ++i) {
    const double side = random.below(5) == 0 ? -reach : reach;
    scene.features.push_back(static_cast<T>(side + 3.0 * random.real()));
  }
  return scene;
}

void byte_images(std::vector<int64_t> grid, int channels, int64_t batch, bool pixel_by_pixel) {
  ByteImages images(std::move(grid), channels, batch, pixel_by_pixel);
  images.arguments.table = cuda::VertexTable::kHash;
  const CudaLattice<float> expected = cuda_lattice(images.scene());
  under_all_schedules(
      [&] { require_same(Built<float>(images.arguments).view(), expected.view()); });
}

void image_of_a_batch_is_as_alone() {
  Scene<float> scene = picture<float>({20, 18}, 5, 6.0, 4, 3);
  for (int64_t p = 0; p < scene.points() * scene.d; ++p) {
    scene.features[p] = 0.25f;                                  // image 0: constant
    scene.features[2 * scene.points() * scene.d + p] *= 50.0f;  // image 2: noise
  }
  equals_definition(scene);
  const Built<float> batch(from_matrix(scene));
  for (int64_t b = 0; b < scene.batch; ++b) {
    const Scene<float> one{scene.grid, scene.d, 1, scene.of_image(scene.features, b)};
    const Built<float> single(from_matrix(one));
    const int64_t first = batch.view().image_first[b];
    const int64_t count = single.view().image_first[1];
    require(batch.view().image_first[b + 1] - first == count, "image ", b, " has other vertices");
    require_equal("ones", batch.view().ones + first, single.view().ones, count);
  }
}

void too_many_vertices() {
  const Scene<float> scene = picture<float>({20, 18}, 5, 6.0, 4);
  cuda::BuildArguments arguments = from_matrix(scene);
  const Built<float> unbounded(arguments);
  const int64_t count = unbounded.view().image_first[1];
  arguments.max_vertices = count;
  require_same(Built<float>(arguments).view(), unbounded.view());
  arguments.max_vertices = count - 1;
  fails_as<float>(arguments, cuda::kTooManyVertices, -1 - count);
}

void out_of_range() {
  for (const float value :
       {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity(), 1e9f}) {
    for (const size_t at : {size_t{0}, size_t{700}, size_t{1799}}) {
      Scene<float> scene = picture<float>({20, 18}, 5, 6.0, 4);
      scene.features[at] = value;
      fails_as<float>(from_matrix(scene), cuda::kOutOfRange, -1);
    }
  }
}

void sizes_are_counted() {
  const Scene<float> scene = picture<float>({20, 18}, 5, 6.0, 4, 2);
  const Built<float> built(from_matrix(scene));
  std::vector<int64_t> sizes(2);
  Memory scratch;
  cuda::count_vertices(built.shape, built.vertices.data(), sizes.data(), scratch.context());
  for (int b = 0; b < 2; ++b) {
    const int32_t* first = built.view().image_first;
    require(sizes[b] == first[b + 1] - first[b], "image ", b, " has size ", sizes[b]);
  }
}

void copy_has_the_room_it_needs() {
  const Scene<double> scene = picture<double>({20, 18}, 5, 6.0, 4, 2);
  const Built<double> full(from_matrix(scene));
  const int64_t tiles = full.shape.batch * full.shape.tiles.tiles;
  cuda::LatticeShape needed = full.shape;
  needed.capacity = cuda::round_capacity(full.view().image_first[2]);
  needed.tile_row_capacity = cuda::round_capacity(full.view().tile_first[tiles]);
  require(needed.capacity < full.shape.capacity, "there was nothing to spare");
  require_same(Built<double>(full, needed).view(), full.view());
}

// Tiles that meet in few slots of the table, under many schedules.
void table_under_many_schedules() {
  Scene<float> scene = picture<float>({768}, 2, 300.0, 9);
  const CudaLattice<float> expected = cuda_lattice(scene);
  for (uint64_t seed = 1; seed <= (kFewSchedules ? 10 : 40); ++seed) {
    emulator::set_schedule({emulator::Order::kShuffled, seed, 3});
    require_same(Built<float>(from_matrix(scene)).view(), expected.view());
  }
  emulator::set_schedule({});
}

void small_picture() { equals_definition(picture<float>({20, 18}, 5, 6.0, 4)); }

void crowd() { equals_definition(constant<float>({1024}, 2)); }

const Mistakes kMistakes({
    {"nothing", small_picture, {}, true},
    {"claims and minima in two steps", crowd, {.split_atomics = true}},
    {"the first barrier does nothing", small_picture, {.skipped_barrier = 0}},
    {"the second barrier does nothing", small_picture, {.skipped_barrier = 1}},
    {"the third barrier does nothing", small_picture, {.skipped_barrier = 2}},
});

int run_all() {
  int failures = 0;
  const auto test = [&](const char* sentence, const std::function<void()>& body) {
    failures += run_test(sentence, body);
  };
  test("one pixel", [] { equals_definition(picture<float>({1, 1}, 5, 8.0, 1)); });
  test("a constant image", [] { equals_definition(constant<float>({33, 40}, 5)); });
  test("more tiles on a vertex than a warp sorts",
       [] { equals_definition(constant<float>({40 * 256 + 3}, 2)); });
  test("noise: every point on vertices of its own",
       [] { equals_definition(far_flung<float>({19, 23}, 5)); });
  test("tiles at the border", [] { equals_definition(picture<float>({37, 41}, 5, 8.0, 1)); });
  test("a narrow image", [] { equals_definition(picture<float>({3, 200}, 5, 8.0, 1)); });
  test("a volume", [] { equals_definition(picture<float>({5, 9, 11}, 4, 4.0, 1)); });
  test("loose points of every dimension", [] {
    for (int d = 1; d <= 9; ++d) equals_definition(picture<float>({300}, d, 20.0, d));
    equals_definition(picture<float>({40}, 20, 20.0, 20));
  });
  test("double precision", [] {
    equals_definition(picture<double>({20, 18}, 5, 6.0, 1));
    equals_definition(picture<double>({300}, 7, 20.0, 7));
  });
  test("images of bytes in both layouts", [] {
    byte_images({20, 18}, 3, 2, false);
    byte_images({20, 18}, 3, 1, true);
    byte_images({5, 9, 11}, 1, 1, false);
  });
  test("keys at the limit of the range, of one and more words", [] {
    for (const int d : {1, 3, 4, 8}) equals_definition(corners<float>(300, d, d));
    for (const int d : {1, 2, 3, 5}) equals_definition(corners<double>(300, d, d));
  });
  test("an image of a batch is as alone", image_of_a_batch_is_as_alone);
  test("too many vertices are refused", too_many_vertices);
  test("features out of range are refused", out_of_range);
  test("sizes are counted", sizes_are_counted);
  test("a copy has the room it needs", copy_has_the_room_it_needs);
  test("the table under many schedules", table_under_many_schedules);
  return failures + kMistakes.run_all();
}

}  // namespace

}  // namespace densecrf::testing

int main(int arguments, char** argument) {
  using namespace densecrf::testing;
  if (arguments > 1) return kMistakes.make(argument[1]);
  return run_all() == 0 ? 0 : 1;
}
