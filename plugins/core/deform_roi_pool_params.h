// Deformable RoI pooling, two dimensions: attributes and sizes as plain data. Height before width.

#ifndef DCN_DEPLOY_CORE_DEFORM_ROI_POOL_PARAMS_H_
#define DCN_DEPLOY_CORE_DEFORM_ROI_POOL_PARAMS_H_

#include <cstdint>

namespace dcn_deploy {

enum class RoIPoolVariant : int { kAligned = 0, kPsroi = 1 };

// What a node says. Those of the other variant are checked, and otherwise ignored.
struct DeformRoIPool2dAttributes {
  static constexpr std::int64_t kFromInputs = 0;

  RoIPoolVariant variant = RoIPoolVariant::kAligned;
  // 0: not given, which is refused.
  std::int64_t output_h = 0;
  std::int64_t output_w = 0;
  float spatial_scale = 1.0f;
  float gamma = 0.1f;
  // `aligned`; 0: ceil(RoI extent / pooled extent) along each axis.
  std::int64_t sampling_ratio = 0;
  // `psroi`
  std::int64_t sample_per_part = 4;
  std::int64_t group_size = 1;
  std::int64_t part_size = kFromInputs;
  std::int64_t output_channels = kFromInputs;
};

// What a kernel needs: every size and attribute, already checked (see deform_roi_pool_shape.h).
//
//   X       [batch, in_channels, in_h, in_w], in_channels = out_channels · group_size²
//   rois    [rois, 5]: batch index, x1, y1, x2, y2 in image pixels
//   offset  [rois, 2 · classes, part_h, part_w], x first
//   mask    [rois, classes, part_h, part_w]
//   Y       [rois, out_channels, out_h, out_w]
struct DeformRoIPool2dParams {
  RoIPoolVariant variant;
  std::int64_t batch;
  std::int64_t in_channels;
  std::int64_t in_h;
  std::int64_t in_w;
  std::int64_t rois;
  std::int64_t out_channels;
  std::int64_t out_h;
  std::int64_t out_w;
  // Map pixels for each image pixel.
  float spatial_scale;
  // Factor of the offsets, which are in units of the RoI's own size.
  float gamma;
  // Samples of a bin along each axis; 0: as many as the bin is pixels long, rounded up.
  std::int64_t samples;
  // Channel groups along each axis.
  std::int64_t group_size;
  // Channel groups with offsets of their own, a divisor of out_channels.
  std::int64_t classes;
  std::int64_t part_h;
  std::int64_t part_w;
};

}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_CORE_DEFORM_ROI_POOL_PARAMS_H_
