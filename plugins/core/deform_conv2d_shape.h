// Which shapes and attributes fit a deformable convolution, and what its output's shape is.

#ifndef DCN_DEPLOY_CORE_DEFORM_CONV2D_SHAPE_H_
#define DCN_DEPLOY_CORE_DEFORM_CONV2D_SHAPE_H_

#include <cstdint>

#include "core/bilinear.h"
#include "core/deform_conv2d_params.h"
#include "core/shape_check.h"
#include "core/status.h"

namespace dcn_deploy {

struct DeformConv2dShapes {
  ShapeView x;
  ShapeView w;
  ShapeView offset;
  ShapeView b{nullptr, ShapeView::kAbsent};
  ShapeView mask{nullptr, ShapeView::kAbsent};
};

// Positions are 32-bit whole numbers plus an offset (see bilinear.h).
inline constexpr std::int64_t kMaxPaddedExtent = kMaxExtent;

// floor((size + pad_begin + pad_end − dilation·(kernel − 1) − 1) / stride) + 1; a value below 1
// means that the kernel does not fit. kUnknownDim on overflow, which check_shapes has already
// refused for checked attributes.
std::int64_t output_extent(std::int64_t size, std::int64_t pad_begin, std::int64_t pad_end,
                           std::int64_t dilation, std::int64_t kernel, std::int64_t stride);

// Refuses whatever is already known to be wrong; unknown dims and ranks pass.
Status check_deform_conv2d(const DeformConv2dAttributes& attributes,
                           const DeformConv2dShapes& shapes);

// As check_deform_conv2d, for shapes known in full: fills `params`.
Status resolve_deform_conv2d(const DeformConv2dAttributes& attributes,
                             const DeformConv2dShapes& shapes, DeformConv2dParams* params);

}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_CORE_DEFORM_CONV2D_SHAPE_H_
