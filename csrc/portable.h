// What lets one body serve host and device: function qualifiers and the namespace of an ISA tier.
// Knows neither torch nor the CUDA runtime.
#pragma once

// Always inlined: the CPU backend is compiled once per instruction set, and an out-of-line copy
// shared between those objects could bring AVX-512 code to a machine that has none.
#if defined(__CUDACC__)
#define HOST_DEVICE __host__ __device__ __forceinline__
#else
#define HOST_DEVICE __attribute__((always_inline)) inline
#endif
#define ALWAYS_INLINE __attribute__((always_inline))

// The instruction set a translation unit is compiled for; an inline namespace of this name keeps
// the tiers' symbols apart.
#ifndef DENSECRF_ISA
#define DENSECRF_ISA portable
#endif

// Unrolls the loop that follows, whose trip count is small where it is known.
#if defined(__CUDA_ARCH__)
#define UNROLL _Pragma("unroll")
#elif defined(__CUDACC__)
#define UNROLL  // nvcc's pass for the host knows no such pragma
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif
