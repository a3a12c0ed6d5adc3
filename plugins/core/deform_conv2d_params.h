// Deformable convolution, two dimensions: attributes and sizes as plain data. Height before width.

#ifndef DCN_DEPLOY_CORE_DEFORM_CONV2D_PARAMS_H_
#define DCN_DEPLOY_CORE_DEFORM_CONV2D_PARAMS_H_

#include <cstdint>

namespace dcn_deploy {

// What a node says. Defaults are those of the ONNX operator.
struct DeformConv2dAttributes {
  static constexpr std::int64_t kFromWeight = -1;

  std::int64_t kernel_h = kFromWeight;
  std::int64_t kernel_w = kFromWeight;
  std::int64_t stride_h = 1;
  std::int64_t stride_w = 1;
  std::int64_t pad_top = 0;
  std::int64_t pad_left = 0;
  std::int64_t pad_bottom = 0;
  std::int64_t pad_right = 0;
  std::int64_t dilation_h = 1;
  std::int64_t dilation_w = 1;
  std::int64_t group = 1;
  std::int64_t offset_group = 1;
};

// What a kernel needs: every size and attribute, already checked (see deform_conv2d_shape.h).
//
//   X       [batch, in_channels, in_h, in_w]
//   W       [out_channels, in_channels / group, kernel_h, kernel_w]
//   offset  [batch, offset_group · kernel_h · kernel_w · 2, out_h, out_w]
//   mask    [batch, offset_group · kernel_h · kernel_w, out_h, out_w]
//   B       [out_channels]
//   Y       [batch, out_channels, out_h, out_w]
struct DeformConv2dParams {
  std::int64_t batch;
  std::int64_t in_channels;
  std::int64_t in_h;
  std::int64_t in_w;
  std::int64_t out_channels;
  std::int64_t out_h;
  std::int64_t out_w;
  std::int64_t kernel_h;
  std::int64_t kernel_w;
  std::int64_t stride_h;
  std::int64_t stride_w;
  std::int64_t pad_top;
  std::int64_t pad_left;
  std::int64_t dilation_h;
  std::int64_t dilation_w;
  std::int64_t group;
  std::int64_t offset_group;
};

}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_CORE_DEFORM_CONV2D_PARAMS_H_
