// The one bilinear sampler: which pixels a position reads, and with which weights.
//
// S(y, x) is bilinear over the four pixels around (y, x). A corner outside the map counts as zero
// on its own and is never read. S = 0 when y <= -1, y >= height, x <= -1 or x >= width; a NaN or
// infinite position is outside as well.
//
// A position is the sum of a whole number (where the filter's tap lies) and a float32 offset. The
// two are never added in float32, which would round the position to a step that grows with the
// map: 1.5e-5 of a pixel from pixel 128 on. Only the offset's fraction becomes a weight, so that
// the precision is the offset's own, everywhere on the map.

#ifndef DCN_DEPLOY_CORE_BILINEAR_H_
#define DCN_DEPLOY_CORE_BILINEAR_H_

#include <stdint.h>

#if defined(__CUDACC__)
#define DCN_DEPLOY_HOST_DEVICE __host__ __device__
#else
#define DCN_DEPLOY_HOST_DEVICE
#endif

namespace dcn_deploy {

// Bases, sizes and their sums with any offset below this stay within 32 bits.
constexpr int32_t kMaxExtent = 1 << 30;

// One axis of a position: the pixels at `first` and `first + 1` with their weights, and whether
// each counts.
struct BilinearAxis {
  int32_t first;  // of no meaning where neither counts
  bool has_first;
  bool has_second;
  float weight_first;
  float weight_second;
};

// The greatest whole number that is not above `value`, which is within 32 bits.
DCN_DEPLOY_HOST_DEVICE static inline int32_t floor_of(float value) {
#if defined(__CUDA_ARCH__)
  return __float2int_rd(value);
#else
  // Truncation goes towards zero, so up for negative values.
  const int32_t truncated = static_cast<int32_t>(value);
  return truncated - (value < static_cast<float>(truncated) ? 1 : 0);
#endif
}

// The position base + offset on an axis of `size` pixels, 1 <= size <= kMaxExtent, |base| <=
// kMaxExtent. Internal linkage: see half.h.
DCN_DEPLOY_HOST_DEVICE static inline BilinearAxis bilinear_axis(int32_t base, float offset,
                                                                int32_t size) {
  const float limit = static_cast<float>(kMaxExtent);
  // Written so that NaN fails it. What passes can be converted to an integer.
  const bool in_range = offset > -limit && offset < limit;
  const float safe = in_range ? offset : 0.0f;
  const int32_t whole = floor_of(safe);
  const float fraction = safe - static_cast<float>(whole);
  BilinearAxis axis;
  axis.first = base + whole;
  // A pixel below zero is far above `size` as an unsigned number.
  axis.has_first = in_range && static_cast<uint32_t>(axis.first) < static_cast<uint32_t>(size);
  // At -1 exactly nothing is sampled, not even pixel 0 with a weight of zero: it may be NaN.
  axis.has_second = in_range &&
                    static_cast<uint32_t>(axis.first + 1) < static_cast<uint32_t>(size) &&
                    (axis.first >= 0 || fraction > 0.0f);
  axis.weight_first = 1.0f - fraction;
  axis.weight_second = fraction;
  return axis;
}

}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_CORE_BILINEAR_H_
