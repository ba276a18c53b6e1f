// What a call of the CUDA backend asks of the device: launches, memsets and copies, counted by the
// emulator. tests/cuda/test_cuda_work.py counts the same on a GPU. The numbers are part of the
// design; a later change that adds to them must say so here.
#include "cuda_images.h"
#include "cuda_mean_fields.h"
#include "testing/emulator/emulator.h"

namespace densecrf::testing {

namespace {

// Plan, embedding, tile rows and their scan, what numbers the vertices, lists chains and tile rows,
// then the normalisation with a blur along every axis: of positions and of the bilateral lattice.
constexpr int64_t kLaunchesOfBuilds = 41;
constexpr int64_t kMemsetsOfBuilds = 2;
constexpr int64_t kBilateralAxes = 6;
// Sums of partial rows, the blur of the widest lattice, a pass over the points.
constexpr int64_t kLaunchesOfIteration = 1 + kBilateralAxes + 1;
constexpr int64_t kLaunchesBeside = 3;  // the unaries, two foldings
constexpr int64_t kFirstPass = 1;

// README.md states these bounds of the memory, in bytes for each pixel, float32; for positions a
// lower one, since densecrf_gpu/cuda_layout.py bounds their vertices.
constexpr int64_t kPositionLattice = 162, kBilateralLattice = 504;
constexpr int64_t kBilateralVertex = 68;  // and for each vertex the bound leaves room for
constexpr int64_t kRows = 19;             // two buffers of 3 + 6 partial rows, and the unaries
constexpr int64_t kFolded = 44;           // weights and scales of both lattices

struct Work {
  emulator::Statistics builds, inference;
  int64_t position_lattice, bilateral_lattice, scratch;  // bytes
};

struct Call {
  std::vector<int64_t> grid{33, 40};
  int64_t images = 1;
  Contents contents = Contents::kPatches;
  cuda::VertexTable table = cuda::VertexTable::kAutomatic;
  int64_t iterations = 5;
  int64_t classes = 21;
  cuda::Loop loop = cuda::Loop::kLaunches;
  int64_t max_vertices = 0;  // of the bilateral lattice; 0: as many as there can be
};

// Both lattices and the mean field, from bytes to labels.
Work work_of(const Call& call) {
  ByteImages positions(call.grid, 0, 1, true, 3.0);
  ByteImages pictures(call.grid, 3, call.images, true, 20.0, 13.0, call.contents);
  positions.arguments.table = pictures.arguments.table = call.table;
  if (call.max_vertices > 0) pictures.arguments.max_vertices = call.max_vertices;
  emulator::reset_statistics();
  const Built<float> gaussian(positions.arguments), bilateral(pictures.arguments);
  Work work{};
  work.builds = emulator::statistics();
  const int64_t points = pictures.arguments.from.tiles.points;
  const auto logits = noise<float>(call.images * call.classes * points, -3.0, 3.0, 2);
  std::vector<int64_t> labels(static_cast<size_t>(call.images * points));
  const float weight = 2.0f;
  const cuda::Kernel kernels[] = {
      {gaussian.given(), Normalization::kSymmetric, Compatibility::kPotts, &weight},
      {bilateral.given(), Normalization::kSymmetric, Compatibility::kPotts, &weight}};
  Memory memory;
  emulator::reset_statistics();
  cuda::mean_field(
      kCudaScalar<float>,
      {call.images, call.classes, logits.data(), gaussian.shape.tiles, kernels, 2, call.iterations,
       0.0, 0.0, Output::kLabels, labels.data(), nullptr, nullptr, call.loop},
      memory.context());
  work.inference = emulator::statistics();
  work.position_lattice = gaussian.points.bytes() + gaussian.vertices.bytes();
  work.bilateral_lattice = bilateral.points.bytes() + bilateral.vertices.bytes();
  work.scratch = memory.bytes();
  return work;
}

void require_same(const Work& a, const Work& b, const char* what) {
  require(a.builds.launches == b.builds.launches && a.builds.memsets == b.builds.memsets, what,
          " changes the builds: ", a.builds.launches, " launches, then ", b.builds.launches);
  require(a.inference.launches == b.inference.launches, what,
          " changes the mean field: ", a.inference.launches, " launches, then ",
          b.inference.launches);
}

void builds_are_as_designed() {
  const emulator::Statistics found = work_of({}).builds;
  require(found.launches == kLaunchesOfBuilds, found.launches, " launches for two lattices");
  require(found.memsets <= kMemsetsOfBuilds, found.memsets, " memsets");
}

void iterations_are_as_designed() {
  for (const int64_t iterations : {1, 2, 12}) {
    const emulator::Statistics found = work_of({.iterations = iterations}).inference;
    const int64_t designed = kLaunchesBeside + kFirstPass + iterations * kLaunchesOfIteration;
    require(found.launches == designed, found.launches, " launches for ", iterations,
            " iterations");
    require(found.memsets == 0, found.memsets, " memsets");
  }
}

void a_loop_is_one_launch() {
  for (const int64_t iterations : {1, 12}) {
    const emulator::Statistics found =
        work_of({.iterations = iterations, .loop = cuda::Loop::kCooperative}).inference;
    require(found.launches == kLaunchesBeside + 1, found.launches, " launches for ", iterations,
            " iterations");
    require(found.memsets == 0, found.memsets, " memsets");
  }
}

void nothing_is_copied() {
  const Work work = work_of({});
  require(work.builds.copies == 0 && work.inference.copies == 0, work.builds.copies, " and ",
          work.inference.copies, " copies");
}

void shapes_alone_decide() {
  const Work once = work_of({});
  for (const Contents contents : {Contents::kConstant, Contents::kNoise}) {
    require_same(once, work_of({.contents = contents}), "what the image shows");
  }
  for (const auto table : {cuda::VertexTable::kHash, cuda::VertexTable::kBitmap}) {
    require_same(once, work_of({.table = table}), "how vertices are found");
  }
  require_same(once, work_of({.images = 3, .contents = Contents::kUnequal}), "a batch");
}

void require_bytes(const char* what, int64_t found, int64_t expected) {
  require(std::abs(found - expected) <= 4096, what, " takes ", found, " bytes, expected ",
          expected);
}

// Of whole tiles; a row of 21 classes has 24 values, 6 chunks of 16 bytes.
void memory_is_as_stated() {
  const std::vector<int64_t> grid{64, 80};
  const int64_t pixels = grid[0] * grid[1], row = 96, bound = 1000;
  const Work work = work_of({.grid = grid}), less = work_of({.grid = grid, .max_vertices = bound});
  require_bytes("the lattice of positions", work.position_lattice, kPositionLattice * pixels);
  require_bytes("the bilateral lattice", work.bilateral_lattice, kBilateralLattice * pixels);
  require_bytes("mean field", work.scratch, (kRows * row + kFolded) * pixels);
  require_bytes("what a bound saves", work.bilateral_lattice - less.bilateral_lattice,
                kBilateralVertex * (6 * pixels - bound));
}

void copies_and_memsets_are_counted() {
  float from = 1.0f, to = 0.0f;
  emulator::reset_statistics();
  cuda::copy_bytes({}, &to, &from, sizeof from);
  cuda::set_bytes({}, &from, 0, sizeof from);
  const emulator::Statistics found = emulator::statistics();
  require(found.copies == 1 && found.copied_bytes == 4 && found.memsets == 1 && to == 1.0f,
          "found ", found.copies, " copies of ", found.copied_bytes, " bytes, ", found.memsets,
          " memsets");
}

int run_all() {
  int failures = 0;
  failures += run_test("copies and memsets are counted", copies_and_memsets_are_counted);
  failures += run_test("builds ask for as much as designed", builds_are_as_designed);
  failures += run_test("iterations ask for as much as designed", iterations_are_as_designed);
  failures += run_test("a cooperative launch holds all iterations", a_loop_is_one_launch);
  failures += run_test("nothing is copied", nothing_is_copied);
  failures += run_test("memory is as stated", memory_is_as_stated);
  failures += run_test("shapes alone decide how much is asked for", shapes_alone_decide);
  return failures;
}

}  // namespace

}  // namespace densecrf::testing

int main() { return densecrf::testing::run_all() == 0 ? 0 : 1; }
