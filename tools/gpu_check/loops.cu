// Mean field's iterations launch by launch and in one cooperative launch, and launch by launch with
// the blur from buffer to buffer and in place, on the GPU at hand: that all give the same bits, and
// how long a call takes, called and replayed as a CUDA graph. JSON on standard output. The CUDA
// backend is linked without torch.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <iterator>
#include <vector>

#include "cuda/backend.h"
#include "cuda/lattice_build.h"

namespace {

using namespace densecrf;
using namespace densecrf::cuda;

constexpr int kRepeats = 9;
constexpr int kIterations = 10;

void require(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(status));
  std::exit(1);
}

void* device_memory(size_t bytes) {
  void* at = nullptr;
  require(cudaMalloc(&at, bytes), "memory");
  return at;
}

template <typename T>
const T* on_device(const std::vector<T>& values) {
  void* at = device_memory(values.size() * sizeof(T));
  require(cudaMemcpy(at, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice), "copy");
  return static_cast<const T*>(at);
}

// The scratch memory of calls in one stream, each from the beginning.
class Scratch {
 public:
  [[nodiscard]] Context context(Stream stream) {
    used_ = 0;
    return {stream,
            [](void* self, size_t bytes) { return static_cast<Scratch*>(self)->take(bytes); },
            this};
  }

 private:
  void* take(size_t bytes) {
    void* at = base_ + used_;
    used_ += (bytes + 255) / 256 * 256;
    if (used_ > kBytes) {
      std::fprintf(stderr, "scratch memory is full\n");
      std::exit(1);
    }
    return at;
  }

  static constexpr size_t kBytes = size_t{6} << 30;
  char* base_ = static_cast<char*>(device_memory(kBytes));
  size_t used_ = 0;
};

// splitmix64, to 24 bits: the same numbers everywhere.
unsigned random_bits(uint64_t number) {
  uint64_t z = number * 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return static_cast<unsigned>((z ^ (z >> 31)) & 0xffffff);
}

struct Case {
  int64_t images, height, width, classes;
  double positions, colours;  // bandwidths of the bilateral kernel
  [[nodiscard]] int64_t points() const { return height * width; }
};

// Patches of one colour with a little noise, [images, 3, H, W].
std::vector<unsigned char> make_pictures(const Case& c) {
  std::vector<unsigned char> pixels;
  for (int64_t plane = 0; plane < c.images * 3; ++plane) {
    for (int64_t p = 0; p < c.points(); ++p) {
      const int64_t patch = p / c.width / 37 * 1000 + p % c.width / 41;
      const unsigned colour = random_bits(static_cast<uint64_t>(plane * 1000003 + patch)) % 200;
      const unsigned grain = random_bits(static_cast<uint64_t>(plane * c.points() + p)) % 24;
      pixels.push_back(static_cast<unsigned char>(colour + grain));
    }
  }
  return pixels;
}

std::vector<float> make_logits(const Case& c) {
  std::vector<float> logits;
  for (int64_t i = 0; i < c.images * c.classes * c.points(); ++i) {
    logits.push_back(static_cast<float>(random_bits(static_cast<uint64_t>(i))) / 0x400000 - 2.0f);
  }
  return logits;
}

// A lattice of positions, or with `pixels` of positions and colours.
Lattice build(const Case& c, const unsigned char* pixels, Stream stream, Scratch& scratch) {
  const int64_t grid[] = {c.height, c.width};
  BuildArguments a{};
  a.from.batch = pixels == nullptr ? 1 : c.images;
  a.from.dimensions = pixels == nullptr ? 2 : 5;
  a.from.tiles = tile_map(grid, 2);
  a.from.sides = 2;
  a.from.image = pixels;
  a.from.pixel_type = PixelType::kUint8;
  a.from.pixel_stride[0] = 1;
  a.from.pixel_stride[1] = c.width;
  a.from.channel_stride = c.points();
  a.from.batch_stride = 3 * c.points();
  for (int m = 0; m < 5; ++m) {
    a.sigmas.value[m] = pixels == nullptr ? 3.0 : m < 2 ? c.positions : c.colours;
  }
  a.max_vertices = c.points() * (a.from.dimensions + 1);
  const LatticeShape shape =
      plan_shape(a.from.batch, a.from.tiles, a.from.dimensions, sizeof(float), a.max_vertices);
  const LatticeOffsets at = lattice_offsets(shape);
  void* points = device_memory(static_cast<size_t>(at.points_bytes));
  void* vertices = device_memory(static_cast<size_t>(at.vertices_bytes));
  build_lattice(a, shape, points, vertices, scratch.context(stream));
  return {shape, points, vertices};
}

// Microseconds of a call, the median of several after one that warms up.
double time_of(Stream stream, const std::function<void()>& call) {
  cudaEvent_t begin, end;
  require(cudaEventCreate(&begin), "event");
  require(cudaEventCreate(&end), "event");
  std::vector<float> times;
  for (int i = 0; i <= kRepeats; ++i) {
    require(cudaEventRecord(begin, stream), "record");
    call();
    require(cudaEventRecord(end, stream), "record");
    require(cudaEventSynchronize(end), "run");
    float milliseconds = 0;
    require(cudaEventElapsedTime(&milliseconds, begin, end), "elapsed");
    if (i > 0) times.push_back(milliseconds);
  }
  std::sort(times.begin(), times.end());
  return 1e3 * static_cast<double>(times[times.size() / 2]);
}

double time_of_graph(Stream stream, const std::function<void()>& call) {
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  require(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "begin capture");
  call();
  require(cudaStreamEndCapture(stream, &graph), "end capture");
  require(cudaGraphInstantiate(&executable, graph, 0), "instantiate");
  const double time =
      time_of(stream, [&] { require(cudaGraphLaunch(executable, stream), "graph launch"); });
  require(cudaGraphExecDestroy(executable), "destroy");
  require(cudaGraphDestroy(graph), "destroy");
  return time;
}

struct Way {
  const char* name;
  Loop loop;
  BlurWay blur;
  double call_us, graph_us;
  std::vector<float> result;
};

// Whether all ways gave the same bits, the graphs' replays included.
bool measure(const Case& c, Stream stream, Scratch& scratch, bool first) {
  const std::vector<unsigned char> pictures = make_pictures(c);
  const unsigned char* pixels = on_device(pictures);
  const float *logits = on_device(make_logits(c)), *weights = on_device<float>({3.0f, 5.0f});
  const Kernel kernels[] = {{build(c, nullptr, stream, scratch), Normalization::kSymmetric,
                             Compatibility::kPotts, weights},
                            {build(c, pixels, stream, scratch), Normalization::kSymmetric,
                             Compatibility::kPotts, weights + 1}};
  const size_t values = static_cast<size_t>(c.images * c.classes * c.points());
  auto* result = static_cast<float*>(device_memory(values * sizeof(float)));
  Way ways[] = {{"launches", Loop::kLaunches, BlurWay::kAutomatic, 0, 0, {}},
                {"cooperative", Loop::kCooperative, BlurWay::kAutomatic, 0, 0, {}},
                {"two_buffers", Loop::kLaunches, BlurWay::kTwoBuffers, 0, 0, {}},
                {"in_place", Loop::kLaunches, BlurWay::kInPlace, 0, 0, {}}};
  for (Way& way : ways) {
    const auto call = [&] {
      Context context = scratch.context(stream);
      context.blur = way.blur;
      mean_field(
          Scalar::kFloat32,
          {c.images, c.classes, logits, kernels[0].lattice.shape.tiles, kernels, 2, kIterations,
           0.0, 0.0, Output::kProbabilities, result, nullptr, nullptr, way.loop},
          context);
    };
    way.result.resize(values);
    way.call_us = time_of(stream, call);
    way.graph_us = time_of_graph(stream, call);
    require(cudaMemcpy(way.result.data(), result, values * sizeof(float), cudaMemcpyDeviceToHost),
            "copy");
  }
  const bool same = std::all_of(std::begin(ways), std::end(ways), [&](const Way& way) {
    return way.result == ways[0].result;  // NaN would differ
  });
  std::printf(
      "%s{\"images\": %lld, \"height\": %lld, \"width\": %lld, \"classes\": %lld, "
      "\"sxy\": %.0f, \"srgb\": %.0f, \"tiles\": %lld, \"same_bits\": %s",
      first ? "" : ", ", static_cast<long long>(c.images), static_cast<long long>(c.height),
      static_cast<long long>(c.width), static_cast<long long>(c.classes), c.positions, c.colours,
      static_cast<long long>(c.images * kernels[0].lattice.shape.tiles.tiles),
      same ? "true" : "false");
  for (const Way& way : ways) {
    std::printf(", \"%s_us\": %.1f, \"%s_graph_us\": %.1f", way.name, way.call_us, way.name,
                way.graph_us);
  }
  std::printf("}");
  for (const Kernel& kernel : kernels) {
    require(cudaFree(const_cast<void*>(kernel.lattice.points)), "free");
    require(cudaFree(const_cast<void*>(kernel.lattice.vertices)), "free");
  }
  for (const void* each : {static_cast<const void*>(pixels), static_cast<const void*>(logits),
                           static_cast<const void*>(weights), static_cast<const void*>(result)}) {
    require(cudaFree(const_cast<void*>(each)), "free");
  }
  return same;
}

}  // namespace

int main() {
  cudaDeviceProp about{};
  require(cudaGetDeviceProperties(&about, 0), "properties");
  cudaStream_t stream;
  require(cudaStreamCreate(&stream), "stream");
  Scratch scratch;
  const Case cases[] = {{1, 64, 64, 21, 80, 13},    {1, 128, 128, 21, 80, 13},
                        {1, 256, 256, 21, 80, 13},  {1, 375, 500, 2, 80, 13},
                        {1, 375, 500, 21, 80, 13},  {1, 512, 512, 21, 80, 13},
                        {1, 768, 1024, 21, 80, 13}, {4, 256, 256, 21, 80, 13},
                        {1, 375, 500, 21, 67, 3},   {1, 768, 1024, 21, 67, 3}};
  bool same = true;
  std::printf("{\"gpu\": \"%s\", \"processors\": %d, \"iterations\": %d, \"cases\": [", about.name,
              about.multiProcessorCount, kIterations);
  for (const Case& c : cases) same = measure(c, stream, scratch, &c == cases) && same;
  std::printf("]}\n");
  require(cudaDeviceSynchronize(), "end");
  return same ? 0 : 2;
}
