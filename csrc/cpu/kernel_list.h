// The kernels of a pass, with the number of vertices per point known to the compiler where it is
// the image CRF's.
#pragma once

#include "pass.h"

namespace densecrf::inline DENSECRF_ISA {

// The kernels of a segment: two with kFirst and kSecond vertices per point, held in the object
// itself so that no store to a row can seem to change them, or (kFirst = 0) any list.
template <typename T, int kFirst, int kSecond>
struct KernelList {
  PassKernel<T> first{}, second{};
  const PassKernel<T>* all;
  int count;

  HOST_DEVICE explicit KernelList(const Segment<T>& segment)
      : all(segment.kernels), count(segment.kernel_count) {
    if constexpr (kFirst > 0) {
      first = segment.kernels[0];
      second = segment.kernels[1];
    }
  }

  // visit<vertices>(kernel), vertices 0 where only the kernel knows.
  template <typename Visit>
  HOST_DEVICE void for_each(const Visit& visit) const {
    if constexpr (kFirst > 0) {
      visit.template operator()<kFirst>(first);
      visit.template operator()<kSecond>(second);
    } else {
      for (int k = 0; k < count; ++k) visit.template operator()<0>(all[k]);
    }
  }
};

// x <- unary + the messages of all kernels to point q of the group.
template <typename T, int kWidth, int kFirst, int kSecond>
HOST_DEVICE void slice_all(const Labels<T, kWidth>& labels,
                           const KernelList<T, kFirst, kSecond>& kernels, const T* unary,
                           int64_t group, int q, typename Labels<T, kWidth>::Chunk* x) {
  constexpr int64_t kLine = 64 / sizeof(T);
  const T* at = unary + (group * kGroup + q) * labels.stride();
  prefetch(at + kGroup * labels.stride());
  prefetch(at + kGroup * labels.stride() + kLine);
  labels.load(x, at);
  kernels.for_each([&]<int kVertices>(const PassKernel<T>& kernel) ALWAYS_INLINE {
    const int vertices = kVertices > 0 ? kVertices : kernel.vertices;
    slice_point<kVertices>(labels, kernel, group * kGroup * vertices + q, x);
  });
}

template <typename T, int kWidth, int kFirst, int kSecond>
HOST_DEVICE void splat_all(const Labels<T, kWidth>& labels,
                           const KernelList<T, kFirst, kSecond>& kernels, int64_t group, int q,
                           const typename Labels<T, kWidth>::Chunk* x) {
  kernels.for_each([&]<int kVertices>(const PassKernel<T>& kernel) ALWAYS_INLINE {
    const int vertices = kVertices > 0 ? kVertices : kernel.vertices;
    splat_point<kVertices>(labels, kernel, group * kGroup * vertices + q, x);
  });
}

}  // namespace densecrf::inline DENSECRF_ISA
