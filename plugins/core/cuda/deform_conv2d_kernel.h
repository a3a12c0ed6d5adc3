// What the kernels of the deformable convolution are given, by value. Filled by deform_conv2d.cu.

#ifndef DCN_DEPLOY_CORE_CUDA_DEFORM_CONV2D_KERNEL_H_
#define DCN_DEPLOY_CORE_CUDA_DEFORM_CONV2D_KERNEL_H_

#include <stdint.h>

#include "core/cuda/divisor.h"
#include "core/dtype.h"

namespace dcn_deploy {
namespace cuda {

struct DeformConv2dArguments {
  const void* x;
  const void* packed;
  const void* offset;
  const void* bias;
  const void* mask;
  void* y;
  DType offset_dtype;
  DType mask_dtype;
  // Pixels of all images' output maps together.
  int64_t pixels;
  int64_t padded_rows;
  int64_t step_bytes;  // of the packed weights
  int32_t in_channels;
  int32_t in_h;
  int32_t in_w;
  int32_t out_channels;
  int32_t out_w;
  int32_t out_plane;  // pixels of one output map
  int32_t kernel_w;
  int32_t taps;
  int32_t stride_h;
  int32_t stride_w;
  int32_t pad_top;
  int32_t pad_left;
  int32_t dilation_h;
  int32_t dilation_w;
  int32_t group;
  int32_t group_channels;  // input channels of a group
  int32_t group_rows;      // output channels of a group
  Divisor by_kernel_w;
  Divisor by_group_rows;
  int32_t offset_group;
  Divisor by_offset_group_channels;
  int32_t chunk_channels;
  int32_t chunks;
  int32_t offset_slots;
  int32_t row_tiles;  // of a group
  int32_t splits;     // blocks that share a tile's sum
  bool y_is_nhwc;
  // Every unit of 16 bytes of shared memory is full, and in one offset group.
  bool whole_units;
  // Every step has as many channels as a row of shared memory has elements, and one offset group.
  bool plain_chunks;
  // From one channel of X to the next, and from one pixel to the next.
  int64_t channel_bytes;
  uint32_t pixel_bytes;
  // From a group's first channel to that of the second chunk, and to that of the last.
  int64_t chunk_bytes;
  int64_t last_chunk_bytes;
  // int8 features only.
  const float* scale;
  float y_scale;
  DType y_dtype;
};

}  // namespace cuda
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_CORE_CUDA_DEFORM_CONV2D_KERNEL_H_
