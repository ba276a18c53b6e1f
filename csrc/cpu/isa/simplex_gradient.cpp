// The end of the feature gradient: from the gradient of the barycentric weights to that of the
// features, through the embedding. Compiled once per instruction set, without contraction of a*b+c:
// points must land where the lattice has them.
#include "../band.h"
#include "../parallel.h"
#include "../tile.h"
#include "tier.h"

namespace densecrf::inline DENSECRF_ISA {

namespace {

// Numbers of the workspace's buffers.
enum : size_t { kTables, kScratch };

template <typename T>
class SimplexGradient {
 public:
  SimplexGradient(const cpu::FeatureGradientArguments& arguments, const T* weight_gradient)
      : arguments_(arguments),
        lattice_(arguments.lattice.points, arguments.lattice.vertices),
        vertices_(lattice_.vertices_per_point),
        weight_gradient_(weight_gradient) {}

  // False if the features are not those of the lattice.
  bool run(const cpu::Executor& executor) {
    const cpu::FeatureSource& source = arguments_.features;
    const int d = source.dimensions;
    const ScaledFeatures<T> features(source, workspace_.buffer(kTables));
    // Scratch of a band: embed_block's vectors, features [d, 64], remainders and weights
    // [d+1, 64], axes [d+1, 64], the gradient of a point's elevated coordinates, and the verdict.
    const auto vertices = static_cast<size_t>(vertices_);
    const size_t bytes = vertices * (6 * 64 + kBlock * (3 * sizeof(T) + sizeof(int32_t)) + 64) + 64;
    char* memory = static_cast<char*>(
        workspace_.buffer(kScratch).reserve(bytes * static_cast<size_t>(lattice_.bands), 0));
    parallel(executor, lattice_.bands, [&](int band) {
      char* verdict = memory + bytes * static_cast<size_t>(band);
      T* work = reinterpret_cast<T*>(verdict + 64);
      T* c = reinterpret_cast<T*>(verdict + 64 + vertices * 6 * 64);
      T* remainder = c + vertices_ * kBlock;
      T* weight = remainder + vertices_ * kBlock;
      auto* axis = reinterpret_cast<int32_t*>(weight + vertices_ * kBlock);
      T* elevated = reinterpret_cast<T*>(axis + vertices_ * kBlock);
      bool same = true;
      for (int64_t block = lattice_.first_block[band]; block < lattice_.first_block[band + 1];
           ++block) {
        const int64_t first = block * kBlock, left = lattice_.points - first;
        const int n = left < kBlock ? static_cast<int>(left) : kBlock;
        features.fill(first, n, c);
        embed_block<-1>(d, c, remainder, axis, weight, work);
        for (int q = 0; q < n; ++q) {
          same = same && has_weights(first + q, weight);
          point_gradient(first + q, axis + q, elevated);
        }
      }
      *verdict = same ? 1 : 0;
    });
    bool same = true;
    for (int band = 0; band < lattice_.bands; ++band) {
      same = same && memory[bytes * static_cast<size_t>(band)] != 0;
    }
    return same;
  }

 private:
  // Whether the lattice holds the weights of `block_weight` for point p.
  bool has_weights(int64_t p, const T* block_weight) const {
    const int64_t here = record_of(p, vertices_), there = record_of(p % kBlock, vertices_);
    bool same = true;
    for (int r = 0; r < vertices_; ++r) {
      same = same && lattice_.weight[here + r * kGroup] == block_weight[there + r * kGroup];
    }
    return same;
  }

  // axis[r * kBlock]: the elevated coordinate of rank r of the point; `elevated` is scratch.
  void point_gradient(int64_t p, const int32_t* axis, T* elevated) {
    const int d = vertices_ - 1;
    const T inverse = T(1) / static_cast<T>(vertices_);
    const T* gradient = weight_gradient_ + record_of(p, vertices_);
    // Coordinate of rank r: in the weight of vertex d - r with its sign, in the next's against it.
    for (int r = 0; r <= d; ++r) {
      const int up = d - r, down = r == 0 ? 0 : d - r + 1;
      elevated[axis[r * kBlock]] = (gradient[up * kGroup] - gradient[down * kGroup]) * inverse;
    }
    T* to = static_cast<T*>(arguments_.result) + p * d;
    T below = elevated[0];
    for (int m = 1; m <= d; ++m) {
      const T value = (below - static_cast<T>(m) * elevated[m]) * feature_scale<T>(m - 1, d);
      to[m - 1] = arguments_.accumulate ? to[m - 1] + value : value;
      below += elevated[m];
    }
  }

  const cpu::FeatureGradientArguments& arguments_;
  cpu::Workspace workspace_;
  LatticeView<T> lattice_;
  int vertices_;
  const T* weight_gradient_;  // [groups, d + 1, 16]
};

}  // namespace

bool simplex_gradient(Scalar scalar, const cpu::FeatureGradientArguments& arguments,
                      const void* weight_gradient, const cpu::Executor& executor) {
  if (scalar == Scalar::kFloat32) {
    return SimplexGradient<float>(arguments, static_cast<const float*>(weight_gradient))
        .run(executor);
  }
  return SimplexGradient<double>(arguments, static_cast<const double*>(weight_gradient))
      .run(executor);
}

}  // namespace densecrf::inline DENSECRF_ISA
