// The filter's gradient with respect to the features of its lattice. Compiled without contraction
// of a*b+c: points must land where the lattice has them.
#include "channels.h"
#include "feature_gradient.h"
#include "lattice_pass.h"

namespace densecrf::cuda {

namespace {

template <typename T, int kD>
void launch_embedding(const Context& context, const EmbeddingGradient<T>& a, int64_t blocks) {
  launch(context.stream, differentiate_embedding<T, kD>, blocks, kTile, a);
}

// Points of 1 to 6 dimensions have code of their own.
template <typename T>
void through_embedding(const Context& context, EmbeddingGradient<T> a) {
  const int64_t blocks = tile_blocks(a.lattice.batch * a.lattice.tiles.tiles, kTile);
  switch (a.lattice.vertices_per_point - 1) {
    case 1:
      return launch_embedding<T, 1>(context, a, blocks);
    case 2:
      return launch_embedding<T, 2>(context, a, blocks);
    case 3:
      return launch_embedding<T, 3>(context, a, blocks);
    case 4:
      return launch_embedding<T, 4>(context, a, blocks);
    case 5:
      return launch_embedding<T, 5>(context, a, blocks);
    case 6:
      return launch_embedding<T, 6>(context, a, blocks);
    default: {
      const int64_t few = std::min<int64_t>(blocks, 128);  // each thread has scratch
      a.scratch = context.scratch<uint64_t>(few * kTile * 6 * a.lattice.vertices_per_point);
      return launch_embedding<T, -1>(context, a, few);
    }
  }
}

template <typename T>
void feature_gradient_of(const FeatureGradientArguments& arguments, const Context& context) {
  const LatticeShape& shape = arguments.lattice.shape;
  const TileMap& tiles = shape.tiles;
  const int64_t images = arguments.images, channels = arguments.channels;
  const auto widest = static_cast<int>(chunks_for<T>(std::min<int64_t>(channels, kWidest)));
  const int64_t lanes = shape.batch * tiles.tiles * kTile;
  const int64_t blocks = tile_blocks(shape.batch * tiles.tiles, kTile);
  LatticePass<T> forward(context, images, tiles, widest, arguments.adjoint, nullptr);
  LatticePass<T> backward(context, images, tiles, widest, !arguments.adjoint, nullptr);
  forward.add(arguments.lattice, arguments.normalization, T(1), nullptr);
  backward.add(arguments.lattice, arguments.normalization, T(1), nullptr);
  const LatticeView<T> lattice = forward.list().lattice[0].lattice;
  const auto rows = [&] {
    return context.scratch<T>(images * tiles.tiles * kTile * widest * kChunk<T>);
  };
  T *values = rows(), *gradient = rows();
  T* weights = context.scratch<T>(lanes * shape.vertices_per_point);
  T* sums = context.scratch<T>(lanes);
  const Normalization mode =
      arguments.adjoint ? transposed(arguments.normalization) : arguments.normalization;
  for (int64_t first = 0; first < channels; first += kWidest) {
    const auto count = static_cast<int>(std::min<int64_t>(channels - first, kWidest));
    const auto chunks = static_cast<int>(chunks_for<T>(count));
    const auto through = [&](LatticePass<T>& pass, const void* from, T* to) {
      pass.set_chunks(chunks);
      launch(context.stream, gather_channels<T>, tile_blocks(images * tiles.tiles, kTile), kTile,
             static_cast<const T*>(from), to, images, tiles, channels, first, count, chunks);
      pass.filter(to, chunks, 0);
    };
    through(forward, arguments.values, values);
    through(backward, arguments.gradient, gradient);
    launch(context.stream, differentiate_weights<T>, blocks, kTile,
           WeightGradient<T>{forward.list().lattice[0], backward.list().lattice[0], images, chunks,
                             values, gradient, mode, weights, sums, first == 0});
  }
  if (mode != Normalization::kNone) {
    // Ones are filtered forward, whichever way the values went.
    LatticePass<T> ones(context, shape.batch, tiles, 1, true, nullptr);
    ones.add(arguments.lattice, Normalization::kNone, T(1), nullptr);
    T* m = context.scratch<T>(lanes * kChunk<T>);
    launch(context.stream, prepare_normalizer<T>, blocks, kTile, lattice, sums, m);
    ones.filter(m, 1, 0);
    launch(context.stream, differentiate_normalizer<T>, blocks, kTile, ones.list().lattice[0], sums,
           weights);
  }
  through_embedding<T>(context, {lattice, static_cast<const T*>(arguments.features), weights,
                                 static_cast<T*>(arguments.result), nullptr});
}

}  // namespace

void feature_gradient(Scalar scalar, const FeatureGradientArguments& arguments,
                      const Context& context) {
  const LatticeShape& shape = arguments.lattice.shape;
  if (arguments.images == 0 || arguments.channels == 0) {
    const int64_t count = shape.batch * shape.tiles.points * (shape.vertices_per_point - 1);
    return set_bytes(context.stream, arguments.result, 0,
                     static_cast<size_t>(count * shape.scalar_size));
  }
  if (scalar == Scalar::kFloat32) {
    feature_gradient_of<float>(arguments, context);
  } else {
    feature_gradient_of<double>(arguments, context);
  }
}

}  // namespace densecrf::cuda
