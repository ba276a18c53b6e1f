// The memory layout of a built lattice: two position-independent blocks.
//
//   points    per 16 points: d+1 x 16 row numbers, then (in a second part) d+1 x 16 weights.
//             A row is a vertex as one band numbers it.
//   vertices  a header, then chains, copies, zeroing marks and the filter of ones.
//
// Points are cut into bands of whole blocks, one per thread of the build. Every band numbers the
// vertices it touches by itself, in order of first touch; rows of band b are stored from
// row_base[b]. A vertex touched by several bands has its primary row in the first of them and
// copies in the others: copies are added to the primary before a blur and refreshed after it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../portable.h"
#include "backend.h"

namespace densecrf::inline DENSECRF_ISA {

constexpr int kGroup = 16;     // points whose records are interleaved
constexpr int kBlock = 64;     // points embedded, and rows zeroed, at a time
constexpr int kChainPad = 32;  // entries behind a chain list that may be read ahead

// Offsets are in bytes from the start of the block.
struct VertexHeader {
  uint64_t magic;
  int64_t bytes;
  int64_t points;
  int32_t dimensions;
  int32_t scalar;
  int32_t bands;
  int32_t parts;     // every chain list is cut into so many
  int64_t rows;      // copies included
  int64_t vertices;  // copies excluded
  int64_t copies;
  int64_t first_block;  // int64 [bands + 1]: first block of every band
  int64_t row_base;     // int64 [bands + 1]
  int64_t first_rows;   // uint32 [blocks + bands]: rows known before a block, from its band's base
  int64_t copy_list;    // Copy [copies], by primary row
  int64_t copy_cuts;    // int64 [parts + 1]
  int64_t ones;         // scalar [rows]: blurred filter of ones
  int64_t chain_cuts;   // int64 [d + 1, parts + 1]
  int64_t chains;       // uint32 [d + 1, chain_stride]: 2 * row, plus 1 at a chain's end
  int64_t chain_stride;
};

constexpr uint64_t kVertexMagic = 0x3174614c46524344;  // "DCRFLat1"

HOST_DEVICE int64_t groups_of(int64_t points) {
  return (points + kBlock - 1) / kBlock * (kBlock / kGroup);
}

// Bytes of the points section; torch-side fakes know the same formula.
HOST_DEVICE size_t point_section_bytes(int64_t points, int d, size_t scalar_size) {
  return static_cast<size_t>(groups_of(points)) * kGroup * (d + 1) *
         (sizeof(uint32_t) + scalar_size);
}

// Values in a row of labels: so many that rows of up to 32 floats fill registers, else whole
// sixteens. The states kept for backward are such rows, of points padded to whole blocks;
// torch-side fakes know both formulas.
HOST_DEVICE int64_t label_stride(size_t scalar_size, int64_t classes) {
  if (scalar_size == sizeof(float) && classes <= 32) {
    return classes <= 4 ? 4 : classes <= 8 ? 8 : (classes + 7) / 8 * 8;
  }
  return (classes + 15) / 16 * 16;
}

HOST_DEVICE int64_t padded_points(int64_t points) { return groups_of(points) * kGroup; }

// Read access to both blocks.
template <typename T>
struct LatticeView {
  const VertexHeader* header;
  int64_t points;
  int vertices_per_point;  // d + 1
  int bands;
  int parts;
  int64_t rows;
  const int64_t* first_block;
  const int64_t* row_base;
  const uint32_t* first_rows;
  const cpu::Copy* copies;
  const int64_t* copy_cuts;
  const T* ones;
  const int64_t* chain_cuts;
  const uint32_t* chains;
  int64_t chain_stride;
  const uint32_t* row;  // [groups, d + 1, 16]
  const T* weight;      // [groups, d + 1, 16]

  HOST_DEVICE LatticeView() = default;
  HOST_DEVICE LatticeView(const void* point_section, const void* vertex_section) {
    const char* at = static_cast<const char*>(vertex_section);
    header = static_cast<const VertexHeader*>(vertex_section);
    points = header->points;
    vertices_per_point = header->dimensions + 1;
    bands = header->bands;
    parts = header->parts;
    rows = header->rows;
    first_block = reinterpret_cast<const int64_t*>(at + header->first_block);
    row_base = reinterpret_cast<const int64_t*>(at + header->row_base);
    first_rows = reinterpret_cast<const uint32_t*>(at + header->first_rows);
    copies = reinterpret_cast<const cpu::Copy*>(at + header->copy_list);
    copy_cuts = reinterpret_cast<const int64_t*>(at + header->copy_cuts);
    ones = reinterpret_cast<const T*>(at + header->ones);
    chain_cuts = reinterpret_cast<const int64_t*>(at + header->chain_cuts);
    chains = reinterpret_cast<const uint32_t*>(at + header->chains);
    chain_stride = header->chain_stride;
    row = static_cast<const uint32_t*>(point_section);
    weight = reinterpret_cast<const T*>(row + groups_of(points) * kGroup * vertices_per_point);
  }

  // Rows that block `block` of band `band` touches first: [begin, end) from the band's base.
  HOST_DEVICE uint32_t rows_before(int band, int64_t block) const {
    return first_rows[block + band];
  }
};

}  // namespace densecrf::inline DENSECRF_ISA
