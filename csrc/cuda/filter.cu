// The high-dimensional Gaussian filter of any number of channels, and its adjoint (Adams, Baek and
// Davis 2010). Channels go through the lattice in blocks, so that the rows' memory stays bounded.
#include "lattice_pass.h"
#include "slice.h"

namespace densecrf::cuda {

namespace {

constexpr int kWidest = 32;  // channels at a time

// values [images, N, channels] -> rows [images, tiles, 256, chunks] of the `count` channels from
// `first` on; zeros where there is no point or no channel.
template <typename T>
__global__ void __launch_bounds__(kTile, kResident)
    gather_channels(const T* values, T* rows, int64_t images, const TileMap tiles, int64_t channels,
                    int64_t first, int count, int chunks) {
  const RowShare mine = share_rows(chunks);
  if (mine.row >= mine.rows) return;
  for (int64_t item = blockIdx.x; item < images * tiles.tiles; item += gridDim.x) {
    const auto [image, tile] = batch_tile(item, tiles);
    for (int lane = mine.row; lane < kTile; lane += mine.rows) {
      const int64_t point = tiles.point(tile, lane);
      const T* from = values + (image * tiles.points + point) * channels + first;
      Chunk<T>* to = as_chunks(rows) + (item * kTile + lane) * chunks;
      for (int c = mine.chunk; c < chunks; c += mine.lanes) {
        Chunk<T> x = Chunk<T>::zero();
        for (int i = 0; i < kChunk<T>; ++i) {
          const int channel = c * kChunk<T> + i;
          if (point >= 0 && channel < count) x.value[i] = from[channel];
        }
        to[c] = x;
      }
    }
  }
}

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
