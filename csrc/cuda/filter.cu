// The high-dimensional Gaussian filter of any number of channels, and its adjoint (Adams, Baek and
// Davis 2010). Channels go through the lattice in blocks, so that the rows' memory stays bounded.
#include "channels.h"
#include "lattice_pass.h"
#include "slice.h"

namespace densecrf::cuda {

namespace {

template <typename T>
void filter_all(const FilterArguments& arguments, const Context& context) {
  const TileMap& tiles = arguments.lattice.shape.tiles;
  const int64_t images = arguments.images, channels = arguments.channels;
  const auto widest = static_cast<int>(chunks_for<T>(std::min<int64_t>(channels, kWidest)));
  const int64_t blocks = tile_blocks(images * tiles.tiles, kTile);
  LatticePass<T> pass(context, images, tiles, widest, arguments.adjoint, nullptr);
  pass.add(arguments.lattice, arguments.normalization, T(1), nullptr);
  T* rows = context.scratch<T>(images * tiles.tiles * kTile * widest * kChunk<T>);
  const T* values = static_cast<const T*>(arguments.values);
  for (int64_t first = 0; first < channels; first += kWidest) {
    const auto count = static_cast<int>(std::min<int64_t>(channels - first, kWidest));
    const auto chunks = static_cast<int>(chunks_for<T>(count));
    pass.set_chunks(chunks);
    launch(context.stream, gather_channels<T>, blocks, kTile, values, rows, images, tiles, channels,
           first, count, chunks);
    pass.filter(rows, chunks, 0);
    launch(context.stream, slice_channels<T>, blocks, kTile, pass.list(),
           static_cast<T*>(arguments.result), channels, first, count);
  }
}

}  // namespace

void filter(Scalar scalar, const FilterArguments& arguments, const Context& context) {
  if (arguments.images == 0 || arguments.channels == 0) return;
  if (scalar == Scalar::kFloat32) {
    filter_all<float>(arguments, context);
  } else {
    filter_all<double>(arguments, context);
  }
}

}  // namespace densecrf::cuda
