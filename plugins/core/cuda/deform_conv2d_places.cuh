// What both kernels of the deformable convolution ask of their arguments: where an output pixel
// lies, where a tap of the filter samples for it, and where an element of X is.

#ifndef DCN_DEPLOY_CORE_CUDA_DEFORM_CONV2D_PLACES_CUH_
#define DCN_DEPLOY_CORE_CUDA_DEFORM_CONV2D_PLACES_CUH_

#include "core/cuda/deform_conv2d_kernel.h"
#include "core/cuda/device.cuh"
#include "core/cuda/number.cuh"
#include "core/cuda/sampling.cuh"

namespace dcn_deploy {
namespace cuda {

// Of an output pixel, counted over all images: image (kOutside beyond the last pixel), place in its
// map, and row and column where the filter's first tap lies before offsets. All int32.
__device__ __forceinline__ Vec16 pixel_info(const DeformConv2dArguments& a, int64_t pixel) {
  const bool exists = DCN_DEPLOY_FAULT(2) ? pixel <= a.pixels : pixel < a.pixels;
  if (!exists) return {static_cast<uint32_t>(kOutside), 0, 0, 0};
  const int32_t place = static_cast<int32_t>(pixel % a.out_plane);
  return {static_cast<uint32_t>(pixel / a.out_plane), static_cast<uint32_t>(place),
          static_cast<uint32_t>(place / a.out_w * a.stride_h - a.pad_top),
          static_cast<uint32_t>(place % a.out_w * a.stride_w - a.pad_left)};
}

__device__ __forceinline__ int offset_group_of(const DeformConv2dArguments& a, int channel) {
  return a.by_offset_group_channels.divide(channel);
}

// What the inputs say of where a tap samples, as it is stored.
struct PlaceBits {
  uint32_t y;
  uint32_t x;
  uint32_t mask;
};

__device__ __forceinline__ uint32_t load_bits(const unsigned char* address, bool wide) {
  return wide ? *reinterpret_cast<const uint32_t*>(address)
              : *reinterpret_cast<const uint16_t*>(address);
}

// For the pixel that `info` tells of and the channels of an offset group. Nothing waits for what is
// read.
__device__ __forceinline__ PlaceBits read_place(const DeformConv2dArguments& a, const Vec16& info,
                                                int offset_group, int tap) {
  PlaceBits bits{};
  if (static_cast<int32_t>(info.x) == kOutside) return bits;
  // Of all taps of all offset groups of all images, this one's place.
  const int32_t place =
      (static_cast<int32_t>(info.x) * a.offset_group + offset_group) * a.taps + tap;
  const int64_t plane = static_cast<int64_t>(place) * a.out_plane;
  const bool wide = a.offset_dtype == DType::kFloat32;
  const int64_t bytes = wide ? 4 : 2;
  const unsigned char* y = static_cast<const unsigned char*>(a.offset) +
                           (2 * plane + static_cast<int32_t>(info.y)) * bytes;
  bits.y = load_bits(y, wide);
  bits.x = load_bits(y + a.out_plane * bytes, wide);
  if (a.mask != nullptr) {
    const bool wide_mask = a.mask_dtype == DType::kFloat32;
    bits.mask = load_bits(static_cast<const unsigned char*>(a.mask) +
                              (plane + static_cast<int32_t>(info.y)) * (wide_mask ? 4 : 2),
                          wide_mask);
  }
  return bits;
}

__device__ __forceinline__ Corners corners_at(const DeformConv2dArguments& a, const Vec16& info,
                                              int tap, const PlaceBits& bits) {
  if (static_cast<int32_t>(info.x) == kOutside) return corners_nowhere();
  float y = bits_to_float(bits.y);
  float x = bits_to_float(bits.x);
  if (a.offset_dtype != DType::kFloat32) {
    y = float_of(bits.y, a.offset_dtype);
    x = float_of(bits.x, a.offset_dtype);
  }
  if (DCN_DEPLOY_FAULT(5)) {
    y = Float16::load(Float16::store(y));
    x = Float16::load(Float16::store(x));
  }
  const float mask = a.mask == nullptr ? 1.0f : float_of(bits.mask, a.mask_dtype);
  const int32_t row = a.by_kernel_w.divide(tap);
  const int32_t column = tap - row * a.kernel_w;
  return locate(static_cast<int32_t>(info.z) + row * a.dilation_h,
                static_cast<int32_t>(info.w) + column * a.dilation_w, y, x, mask, a.in_h, a.in_w);
}

// Where a tap samples.
__device__ __forceinline__ Corners locate(const DeformConv2dArguments& a, const Vec16& info,
                                          int offset_group, int tap) {
  return corners_at(a, info, tap, read_place(a, info, offset_group, tap));
}

}  // namespace cuda
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_CORE_CUDA_DEFORM_CONV2D_PLACES_CUH_
