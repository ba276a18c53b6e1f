// Builds a lattice. Compiled once per instruction set, without contraction of a*b+c.
#include "../backend.h"
#include "../blur.h"
#include "../neighbours.h"
#include "tier.h"

namespace densecrf::inline DENSECRF_ISA {

namespace {

constexpr int64_t kBandPoints = 4096;  // fewer points do not repay a second thread
constexpr int64_t kBandIncidences = int64_t{1} << 31;

// Numbers of the workspace's buffers.
enum : size_t { kTables, kBandList, kSlots, kSlotOf, kCopies, kNext, kHasPrevious, kBands };

int band_count(int64_t points, int vertices, int threads) {
  const int64_t by_size = points / kBandPoints > 0 ? points / kBandPoints : 1;
  const int64_t wanted = by_size < threads ? by_size : threads;
  const int64_t needed = (points * vertices + kBandIncidences - 1) / kBandIncidences;
  return static_cast<int>(wanted > needed ? wanted : needed);
}

struct SectionWriter {
  static constexpr int64_t kLine = 64;
  int64_t bytes = 0;

  // Room for count items at a cache line.
  int64_t add(int64_t count, size_t size) {
    const int64_t at = bytes;
    bytes += (count * static_cast<int64_t>(size) + kLine - 1) / kLine * kLine;
    return at;
  }
};

// Points of 1 to 8 dimensions with keys of one word have code of their own.
template <typename T>
void embed(const ScaledFeatures<T>& f, const KeyView& k, int d, int64_t n, int64_t first,
           int64_t last, BandVertices<T>& band, uint32_t* row, T* weight, uint32_t* first_rows) {
  if (k.words > 1) {
    return embed_band<-1, true>(f, k, d, n, first, last, band, row, weight, first_rows);
  }
  switch (d) {
    case 1:
      return embed_band<1, false>(f, k, d, n, first, last, band, row, weight, first_rows);
    case 2:
      return embed_band<2, false>(f, k, d, n, first, last, band, row, weight, first_rows);
    case 3:
      return embed_band<3, false>(f, k, d, n, first, last, band, row, weight, first_rows);
    case 4:
      return embed_band<4, false>(f, k, d, n, first, last, band, row, weight, first_rows);
    case 5:
      return embed_band<5, false>(f, k, d, n, first, last, band, row, weight, first_rows);
    case 6:
      return embed_band<6, false>(f, k, d, n, first, last, band, row, weight, first_rows);
    case 7:
      return embed_band<7, false>(f, k, d, n, first, last, band, row, weight, first_rows);
    case 8:
      return embed_band<8, false>(f, k, d, n, first, last, band, row, weight, first_rows);
    default:
      return embed_band<-1, false>(f, k, d, n, first, last, band, row, weight, first_rows);
  }
}

template <typename T>
void build(const cpu::FeatureSource& source, const KeyView& keys, const cpu::Executor& executor,
           void* point_section, const cpu::Allocator& allocator) {
  const int d = source.dimensions;
  const int vertices = d + 1;
  const int64_t points = source.points;
  const int64_t blocks = (points + kBlock - 1) / kBlock;
  const int bands = band_count(points, vertices, executor.threads);
  auto* row = static_cast<uint32_t*>(point_section);
  T* weight = reinterpret_cast<T*>(row + groups_of(points) * kGroup * vertices);

  cpu::Workspace workspace;
  const ScaledFeatures<T> features(source, workspace.buffer(kTables));
  const auto list_bytes = static_cast<size_t>(bands + 1) * (sizeof(BandVertices<T>) + 16) +
                          static_cast<size_t>(blocks + bands) * sizeof(uint32_t);
  char* lists = static_cast<char*>(workspace.buffer(kBandList).reserve(list_bytes, 0));
  auto* band = reinterpret_cast<BandVertices<T>*>(lists);
  auto* first_block = reinterpret_cast<int64_t*>(band + bands + 1);
  int64_t* row_base = first_block + bands + 1;
  auto* first_rows = reinterpret_cast<uint32_t*>(row_base + bands + 1);
  for (int b = 0; b < bands; ++b) {
    first_block[b] = share(blocks, bands, b).begin;
    band[b] = BandVertices<T>(workspace, kBands + b * BandVertices<T>::kBuffers, keys.words);
  }
  first_block[bands] = blocks;

  parallel(executor, bands, [&](int b) {
    embed<T>(features, keys, d, points, first_block[b], first_block[b + 1], band[b], row, weight,
             first_rows + first_block[b] + b);
  });

  row_base[0] = 0;
  for (int b = 0; b < bands; ++b) row_base[b + 1] = row_base[b] + band[b].count();
  const int64_t rows = row_base[bands];
  if (rows >= kBandIncidences) cpu::fail_too_many_vertices(rows);

  Assembly<T> lattice{band, bands, row_base, keys, {}, nullptr, nullptr, 0};
  enter_rows(lattice, executor, workspace.buffer(kSlots), workspace.buffer(kSlotOf));
  list_copies(lattice, executor, workspace.buffer(kCopies));
  const auto links = static_cast<size_t>(vertices) * static_cast<size_t>(rows);
  auto* next = static_cast<uint32_t*>(workspace.buffer(kNext).reserve(links * 4, 0));
  auto* has_previous = static_cast<uint8_t*>(workspace.buffer(kHasPrevious).reserve(links, 0));
  if (keys.words == 1) {
    link_neighbours<false>(lattice, vertices, executor, next, has_previous);
  } else {
    link_neighbours<true>(lattice, vertices, executor, next, has_previous);
  }

  const int parts = bands;
  SectionWriter section;
  section.add(1, sizeof(VertexHeader));
  VertexHeader header{};
  header.magic = kVertexMagic;
  header.points = points;
  header.dimensions = d;
  header.scalar = static_cast<int32_t>(sizeof(T) == 4 ? Scalar::kFloat32 : Scalar::kFloat64);
  header.bands = bands;
  header.parts = parts;
  header.rows = rows;
  header.vertices = rows - lattice.copy_count;
  header.copies = lattice.copy_count;
  header.chain_stride = rows + kChainPad;
  header.first_block = section.add(bands + 1, sizeof(int64_t));
  header.row_base = section.add(bands + 1, sizeof(int64_t));
  header.first_rows = section.add(blocks + bands, sizeof(uint32_t));
  header.copy_list = section.add(lattice.copy_count, sizeof(cpu::Copy));
  header.copy_cuts = section.add(parts + 1, sizeof(int64_t));
  header.ones = section.add(rows, sizeof(T));
  header.chain_cuts = section.add(int64_t{vertices} * (parts + 1), sizeof(int64_t));
  header.chains = section.add(vertices * header.chain_stride, sizeof(uint32_t));
  header.bytes = section.bytes;

  char* out =
      static_cast<char*>(allocator.allocate(allocator.context, static_cast<size_t>(section.bytes)));
  // The padding between the parts, so that equal lattices are equal byte by byte.
  for (const int64_t end :
       {header.first_block, header.row_base, header.first_rows, header.copy_list, header.copy_cuts,
        header.ones, header.chain_cuts, header.chains, header.bytes}) {
    __builtin_memset(out + end - SectionWriter::kLine, 0, SectionWriter::kLine);
  }
  const auto put = [&](int64_t offset, const void* from, int64_t count, size_t size) {
    if (count > 0) __builtin_memcpy(out + offset, from, static_cast<size_t>(count) * size);
  };
  put(0, &header, 1, sizeof header);
  put(header.first_block, first_block, bands + 1, sizeof(int64_t));
  put(header.row_base, row_base, bands + 1, sizeof(int64_t));
  put(header.first_rows, first_rows, blocks + bands, sizeof(uint32_t));
  put(header.copy_list, lattice.copies, lattice.copy_count, sizeof(cpu::Copy));
  auto* cuts = reinterpret_cast<int64_t*>(out + header.copy_cuts);
  for (int p = 0; p <= parts; ++p) {
    int64_t cut = lattice.copy_count * p / parts;
    while (cut > 0 && cut < lattice.copy_count &&
           lattice.copies[cut].primary == lattice.copies[cut - 1].primary) {
      ++cut;
    }
    cuts[p] = cut;
  }
  T* ones = reinterpret_cast<T*>(out + header.ones);
  for (int b = 0; b < bands; ++b) {
    __builtin_memcpy(ones + row_base[b], band[b].ones(),
                     static_cast<size_t>(band[b].count()) * sizeof(T));
  }
  auto* chains = reinterpret_cast<uint32_t*>(out + header.chains);
  auto* chain_cuts = reinterpret_cast<int64_t*>(out + header.chain_cuts);
  parallel(executor, vertices, [&](int axis) {
    list_chains(rows, next + axis * rows, has_previous + axis * rows,
                chains + axis * header.chain_stride, header.chain_stride, parts,
                chain_cuts + axis * (parts + 1));
  });
  blur<T, 1>(LatticeView<T>(point_section, out), ones, 1, false, executor);
}

}  // namespace

void build_lattice(Scalar scalar, const cpu::FeatureSource& source, const KeyView& keys,
                   const cpu::Executor& executor, void* point_section,
                   const cpu::Allocator& allocator) {
  if (scalar == Scalar::kFloat32) {
    build<float>(source, keys, executor, point_section, allocator);
  } else {
    build<double>(source, keys, executor, point_section, allocator);
  }
}

}  // namespace densecrf::inline DENSECRF_ISA
