// One picture's mean field by the CUDA backend, run by the emulator, and by the CPU backend: how
// far apart they are, as JSON. `python -m benchmarks agreement` writes the problem's file and runs
// this.
//
// The file: int64 width, height, classes, iterations; double sxy, srgb, weight of the bilateral
// kernel, sxy, weight of the Gaussian one; uint8 image [H, W, 3]; float32 logits [C, H, W].
#include <chrono>
#include <fstream>
#include <memory>

#include "cuda_built.h"
#include "cuda_mean_fields.h"

namespace densecrf::testing {

namespace {

constexpr int kColours = 3;

struct Photograph {
  struct Header {
    int64_t width, height, classes, iterations;
    double bilateral_sxy, bilateral_srgb, bilateral_weight, gaussian_sxy, gaussian_weight;
  } header{};
  std::vector<uint8_t> image;
  std::vector<float> logits;

  [[nodiscard]] int64_t points() const { return header.width * header.height; }
};

Photograph read_file(const char* path) {
  std::ifstream file(path, std::ios::binary);
  Photograph p;
  file.read(reinterpret_cast<char*>(&p.header), sizeof p.header);
  require(file.good(), path, " holds no problem");
  p.image.resize(static_cast<size_t>(kColours * p.points()));
  p.logits.resize(static_cast<size_t>(p.header.classes * p.points()));
  file.read(reinterpret_cast<char*>(p.image.data()), static_cast<std::streamsize>(p.image.size()));
  file.read(reinterpret_cast<char*>(p.logits.data()),
            static_cast<std::streamsize>(p.logits.size() * sizeof(float)));
  require(file.good() && file.peek() == EOF, path, " is not as long as its first numbers say");
  return p;
}

// The bandwidths of the two kernels, positions first.
std::vector<double> sigmas_of(const Photograph& p, bool bilateral) {
  const Photograph::Header& h = p.header;
  if (!bilateral) return {h.gaussian_sxy, h.gaussian_sxy};
  return {h.bilateral_sxy, h.bilateral_sxy, h.bilateral_srgb, h.bilateral_srgb, h.bilateral_srgb};
}

cuda::BuildArguments for_cuda(const Photograph& p, bool bilateral) {
  const int64_t grid[] = {p.header.height, p.header.width};
  const std::vector<double> sigmas = sigmas_of(p, bilateral);
  cuda::BuildArguments a{};
  a.from.batch = 1;
  a.from.dimensions = static_cast<int>(sigmas.size());
  a.from.tiles = cuda::tile_map(grid, 2);
  a.from.sides = 2;
  a.from.image = bilateral ? p.image.data() : nullptr;
  a.from.pixel_stride[0] = kColours;
  a.from.pixel_stride[1] = kColours * p.header.width;
  a.from.channel_stride = 1;
  std::copy(sigmas.begin(), sigmas.end(), a.sigmas.value);
  a.max_vertices = p.points() * (a.from.dimensions + 1);
  return a;
}

Lattice<float> for_cpu(const Photograph& p, bool bilateral, const cpu::Executor& executor) {
  const std::vector<double> sigmas = sigmas_of(p, bilateral);
  cpu::FeatureSource from{};
  from.points = p.points();
  from.dimensions = static_cast<int>(sigmas.size());
  from.grid_dimensions = 2;
  from.grid_size[0] = p.header.width;
  from.grid_size[1] = p.header.height;
  from.grid_sigma[0] = sigmas[0];
  from.grid_sigma[1] = sigmas[1];
  from.grid_stride[0] = kColours;
  from.grid_stride[1] = kColours * p.header.width;
  from.channel_stride = 1;
  from.image = bilateral ? p.image.data() : nullptr;
  from.channels = bilateral ? kColours : 0;
  from.channel_sigma = sigmas.data() + 2;
  return build<float>(cpu::backend(), from, executor);
}

// Mean field by one of the backends, for any number of iterations.
struct OnCuda {
  const Photograph& p;
  Built<float> gaussian{for_cuda(p, false)}, bilateral{for_cuda(p, true)};

  [[nodiscard]] int64_t vertices() const { return *bilateral.view().image_count; }

  template <typename Result>
  void infer(int64_t iterations, Output output, std::vector<Result>& result) const {
    const std::vector<float> weights = {static_cast<float>(p.header.gaussian_weight),
                                        static_cast<float>(p.header.bilateral_weight)};
    const cuda::Kernel kernels[] = {
        {gaussian.given(), Normalization::kSymmetric, Compatibility::kPotts, &weights[0]},
        {bilateral.given(), Normalization::kSymmetric, Compatibility::kPotts, &weights[1]}};
    Memory memory;
    cuda::mean_field(kCudaScalar<float>,
                     {1, p.header.classes, p.logits.data(), gaussian.shape.tiles, kernels, 2,
                      iterations, 0.0, 0.0, output, result.data(), nullptr, nullptr},
                     memory.context());
  }
};

struct OnCpu {
  const Photograph& p;
  const cpu::Executor& executor;
  Lattice<float> gaussian{for_cpu(p, false, executor)}, bilateral{for_cpu(p, true, executor)};

  [[nodiscard]] int64_t vertices() const { return bilateral.view().header->vertices; }

  template <typename Result>
  void infer(int64_t iterations, Output output, std::vector<Result>& result) const {
    const std::vector<float> weights = {static_cast<float>(p.header.gaussian_weight),
                                        static_cast<float>(p.header.bilateral_weight)};
    const cpu::Kernel kernels[] = {
        {gaussian.sections(), Normalization::kSymmetric, Compatibility::kPotts, &weights[0]},
        {bilateral.sections(), Normalization::kSymmetric, Compatibility::kPotts, &weights[1]}};
    cpu::backend().mean_field(kScalar<float>,
                              {p.points(), p.header.classes, p.logits.data(), kernels, 2,
                               iterations, 0.0, 0.0, output, result.data(), nullptr, nullptr},
                              executor);
  }
};

template <typename Result>
std::vector<Result> results(const Photograph& p, Output output) {
  const int64_t classes = output == Output::kLabels ? 1 : p.header.classes;
  // Not zeros: every value must be written.
  return std::vector<Result>(static_cast<size_t>(classes * p.points()), static_cast<Result>(7));
}

double farthest(const std::vector<float>& a, const std::vector<float>& b) {
  double most = 0.0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double apart = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    most = apart <= most ? most : apart;  // a NaN stays
  }
  return most;
}

double seconds() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double>(now).count();
}

// The worst that a label that differs is worth: by how much its class leads the other's. [C, N]
double widest_lead(const std::vector<float>& q, const std::vector<int64_t>& labels,
                   const std::vector<int64_t>& others) {
  const size_t points = labels.size();
  double widest = 0.0;
  for (size_t i = 0; i < points; ++i) {
    const auto at = [&](int64_t label) {
      return static_cast<double>(q[static_cast<size_t>(label) * points + i]);
    };
    if (labels[i] != others[i]) widest = std::max(widest, at(labels[i]) - at(others[i]));
  }
  return widest;
}

void compare(const Photograph& p) {
  const double start = seconds();
  const OnCuda cuda{p};
  auto found = results<float>(p, Output::kProbabilities);
  cuda.infer(1, Output::kProbabilities, found);
  auto labels = results<int64_t>(p, Output::kLabels);
  cuda.infer(p.header.iterations, Output::kLabels, labels);
  const double emulated = seconds() - start;
  with_team(1, [&](const cpu::Executor& executor) {
    const OnCpu cpu{p, executor};
    auto expected = results<float>(p, Output::kProbabilities);
    cpu.infer(1, Output::kProbabilities, expected);
    const double apart = farthest(found, expected);
    auto wanted = results<int64_t>(p, Output::kLabels);
    cpu.infer(p.header.iterations, Output::kLabels, wanted);
    cpu.infer(p.header.iterations, Output::kProbabilities, expected);
    int64_t differing = 0;
    for (size_t i = 0; i < labels.size(); ++i) differing += labels[i] != wanted[i] ? 1 : 0;
    for (const int64_t label : labels) {
      require(label >= 0 && label < p.header.classes, "the emulator gives label ", label);
    }
    std::printf(
        "{\"vertices\": %lld, \"vertices_cpu\": %lld, \"max_dq_after_one\": %.9g, "
        "\"differing_labels\": %lld, \"widest_lead_of_these\": %.9g, \"emulated_seconds\": %.1f}\n",
        static_cast<long long>(cuda.vertices()), static_cast<long long>(cpu.vertices()), apart,
        static_cast<long long>(differing), widest_lead(expected, wanted, labels), emulated);
  });
}

}  // namespace

}  // namespace densecrf::testing

int main(int count, char** arguments) {
  try {
    densecrf::testing::require(count == 2, "expected the file of a problem");
    densecrf::testing::compare(densecrf::testing::read_file(arguments[1]));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
