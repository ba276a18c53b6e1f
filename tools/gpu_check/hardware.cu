// What the designs of the CUDA backend rest on, measured on the GPU at hand: JSON on standard
// output.
//
// * copy: a large array read and written once, the ceiling of every streaming pass.
// * gather: rows of 96 bytes (21 labels, padded) read at random from tables of several sizes, which
//   is what a slice costs.
// * scatter: the same rows added to with vector reductions, what a splat by atomics would cost.
// * shared: 16-byte reads of shared memory.
// * launch: an empty kernel, one after another, and as nodes of a graph.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace {

constexpr int kThreads = 256;
constexpr int kRowChunks = 6;  // of 16 bytes
constexpr int kRepeats = 9;

void require(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(status));
  std::exit(1);
}

__global__ void copy(const float4* from, float4* to, size_t count) {
  const size_t step = static_cast<size_t>(gridDim.x) * blockDim.x;
  for (size_t i = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += step) {
    to[i] = from[i];
  }
}

// A row for every eight lanes, of which six carry a chunk each; the row's number is a hash of the
// reader's, so that neither order nor index arrays help or hinder.
__device__ unsigned random_row(unsigned reader, unsigned rows) {
  unsigned h = reader * 2654435761u;
  h ^= h >> 15;
  h *= 2246822519u;
  h ^= h >> 13;
  return static_cast<unsigned>((static_cast<unsigned long long>(h) * rows) >> 32);
}

__global__ void gather(const float4* table, unsigned rows, unsigned reads, float4* sink) {
  const unsigned lane = threadIdx.x & 7u;
  const unsigned step = gridDim.x * blockDim.x / 8;
  float4 sum{0, 0, 0, 0};
  if (lane >= kRowChunks) return;
  for (unsigned i = (blockIdx.x * blockDim.x + threadIdx.x) / 8; i < reads; i += step) {
    const float4 x = table[static_cast<size_t>(random_row(i, rows)) * kRowChunks + lane];
    sum.x += x.x;
    sum.y += x.y;
    sum.z += x.z;
    sum.w += x.w;
  }
  if (sum.x == -1.0f) sink[threadIdx.x] = sum;  // never, but the compiler cannot know
}

__global__ void scatter(float4* table, unsigned rows, unsigned writes) {
  const unsigned lane = threadIdx.x & 7u;
  const unsigned step = gridDim.x * blockDim.x / 8;
  if (lane >= kRowChunks) return;
  for (unsigned i = (blockIdx.x * blockDim.x + threadIdx.x) / 8; i < writes; i += step) {
    float4* at = table + static_cast<size_t>(random_row(i, rows)) * kRowChunks + lane;
#if __CUDA_ARCH__ >= 900
    atomicAdd(at, float4{1, 1, 1, 1});
#else
    atomicAdd(&at->x, 1.0f);
    atomicAdd(&at->y, 1.0f);
    atomicAdd(&at->z, 1.0f);
    atomicAdd(&at->w, 1.0f);
#endif
  }
}

__global__ void read_shared(int rounds, float4* sink) {
  __shared__ float4 memory[1024];
  for (int i = threadIdx.x; i < 1024; i += blockDim.x) memory[i] = float4{1, 2, 3, 4};
  __syncthreads();
  float4 sum{0, 0, 0, 0};
  unsigned at = threadIdx.x;
  for (int round = 0; round < rounds; ++round) {
    const float4 x = memory[at & 1023u];
    sum.x += x.x;
    sum.y += x.y;
    sum.z += x.z;
    sum.w += x.w;
    at += 32;
  }
  if (sum.x == -1.0f) sink[threadIdx.x] = sum;
}

__global__ void nothing() {}

// Milliseconds of one call, the median of several after one that warms up.
template <typename Call>
double time_of(Call call) {
  cudaEvent_t begin, end;
  require(cudaEventCreate(&begin), "event");
  require(cudaEventCreate(&end), "event");
  std::vector<float> times;
  for (int i = 0; i <= kRepeats; ++i) {
    require(cudaEventRecord(begin), "record");
    call();
    require(cudaEventRecord(end), "record");
    require(cudaEventSynchronize(end), "run");
    float milliseconds = 0;
    require(cudaEventElapsedTime(&milliseconds, begin, end), "elapsed");
    if (i > 0) times.push_back(milliseconds);
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

double gigabytes_per_second(double bytes, double milliseconds) {
  return bytes / milliseconds / 1e6;
}

// Microseconds of a launch: many in a row, so that the host's part shows if it is the longer one.
double launch_cost() {
  constexpr int kLaunches = 2000;
  const double milliseconds = time_of([] {
    for (int i = 0; i < kLaunches; ++i) nothing<<<1, 32>>>();
  });
  return 1e3 * milliseconds / kLaunches;
}

double graph_node_cost() {
  constexpr int kNodes = 500;
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  require(cudaStreamCreate(&stream), "stream");
  require(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
  for (int i = 0; i < kNodes; ++i) nothing<<<1, 32, 0, stream>>>();
  require(cudaStreamEndCapture(stream, &graph), "capture");
  require(cudaGraphInstantiate(&executable, graph, 0), "instantiate");
  const double milliseconds =
      time_of([&] { require(cudaGraphLaunch(executable, nullptr), "graph"); });
  return 1e3 * milliseconds / kNodes;
}

}  // namespace

int main() {
  cudaDeviceProp about{};
  require(cudaGetDeviceProperties(&about, 0), "properties");
  const unsigned blocks =
      about.multiProcessorCount * (about.maxThreadsPerMultiProcessor / kThreads);

  constexpr size_t kBytes = size_t{1} << 30;
  float4 *source = nullptr, *target = nullptr;
  require(cudaMalloc(&source, kBytes), "memory");
  require(cudaMalloc(&target, kBytes), "memory");
  require(cudaMemset(source, 0, kBytes), "memset");
  const double copied = time_of([&] { copy<<<blocks, kThreads>>>(source, target, kBytes / 16); });
  std::printf("{\"gpu\": \"%s\", \"l2_mib\": %.1f, \"copy_gb_s\": %.1f", about.name,
              about.l2CacheSize / 1048576.0, gigabytes_per_second(2.0 * kBytes, copied));

  std::printf(", \"rows\": [");
  const char* comma = "";
  for (const size_t mib : {1, 4, 16, 32, 128, 512}) {
    const auto rows = static_cast<unsigned>((mib << 20) / (16 * kRowChunks));
    constexpr unsigned kAccesses = 1u << 24;
    const double bytes = 16.0 * kRowChunks * kAccesses;
    const double read =
        time_of([&] { gather<<<blocks, kThreads>>>(source, rows, kAccesses, target); });
    const double added = time_of([&] { scatter<<<blocks, kThreads>>>(source, rows, kAccesses); });
    std::printf("%s{\"table_mib\": %zu, \"gather_gb_s\": %.1f, \"scatter_gb_s\": %.1f}", comma, mib,
                gigabytes_per_second(bytes, read), gigabytes_per_second(bytes, added));
    comma = ", ";
  }

  constexpr int kRounds = 4096;
  const double shared = time_of([&] { read_shared<<<blocks, kThreads>>>(kRounds, target); });
  std::printf("], \"shared_gb_s\": %.1f, \"launch_us\": %.3f, \"graph_node_us\": %.3f}\n",
              gigabytes_per_second(16.0 * kRounds * kThreads * blocks, shared), launch_cost(),
              graph_node_cost());
  require(cudaDeviceSynchronize(), "end");
  return 0;
}
