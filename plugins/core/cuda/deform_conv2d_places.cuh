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
  return a.offset_group == 1 ? 0 : channel / a.offset_group_channels;
}

// Where a tap samples for the pixel that `info` tells of, for the channels of an offset group.
__device__ __forceinline__ Corners locate(const DeformConv2dArguments& a, const Vec16& info,
                                          int offset_group, int tap) {
  if (static_cast<int32_t>(info.x) == kOutside) return corners_nowhere();
  // Of all taps of all offset groups of all images, this one's place.
  const int64_t place =
      (static_cast<int64_t>(info.x) * a.offset_group + offset_group) * a.taps + tap;
  const int64_t first = 2 * place * a.out_plane + static_cast<int32_t>(info.y);
  float y = load_element(a.offset, a.offset_dtype, first);
  float x = load_element(a.offset, a.offset_dtype, first + a.out_plane);
  if (DCN_DEPLOY_FAULT(5)) {
    y = Float16::load(Float16::store(y));
    x = Float16::load(Float16::store(x));
  }
  const float mask =
      a.mask == nullptr
          ? 1.0f
          : load_element(a.mask, a.mask_dtype, place * a.out_plane + static_cast<int32_t>(info.y));
  return locate(static_cast<int32_t>(info.z) + tap / a.kernel_w * a.dilation_h,
                static_cast<int32_t>(info.w) + tap % a.kernel_w * a.dilation_w, y, x, mask, a.in_h,
                a.in_w);
}

// Element of X at a channel and a pixel of an image.
template <bool kNhwc>
__device__ __forceinline__ int64_t element_of_x(const DeformConv2dArguments& a, int64_t image,
                                                int channel, int32_t pixel) {
  const int64_t plane = static_cast<int64_t>(a.in_h) * a.in_w;
  return kNhwc ? (image * plane + pixel) * a.in_channels + channel
               : (image * a.in_channels + channel) * plane + pixel;
}

}  // namespace cuda
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_CORE_CUDA_DEFORM_CONV2D_PLACES_CUH_
