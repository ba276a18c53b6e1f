// Blocks of channels on their way into the lattice.
#pragma once

#include "pass_list.h"

namespace densecrf::cuda {

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

}  // namespace densecrf::cuda
