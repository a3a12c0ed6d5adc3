// Which shapes and attributes fit deformable RoI pooling, and what its output's shape is.

#ifndef DCN_DEPLOY_CORE_DEFORM_ROI_POOL_SHAPE_H_
#define DCN_DEPLOY_CORE_DEFORM_ROI_POOL_SHAPE_H_

#include "core/deform_roi_pool_params.h"
#include "core/shape_check.h"
#include "core/status.h"

namespace dcn_deploy {

struct DeformRoIPool2dShapes {
  ShapeView x;
  ShapeView rois;
  ShapeView offset{nullptr, ShapeView::kAbsent};
  ShapeView mask{nullptr, ShapeView::kAbsent};
};

// The variant called `name`, "aligned" or "psroi".
Status parse_roi_pool_variant(const char* name, RoIPoolVariant* variant);

// Refuses whatever is already known to be wrong; unknown dims and ranks pass.
Status check_deform_roi_pool(const DeformRoIPool2dAttributes& attributes,
                             const DeformRoIPool2dShapes& shapes);

// As check_deform_roi_pool, for shapes known in full: fills `params`.
Status resolve_deform_roi_pool(const DeformRoIPool2dAttributes& attributes,
                               const DeformRoIPool2dShapes& shapes, DeformRoIPool2dParams* params);

}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_CORE_DEFORM_ROI_POOL_SHAPE_H_
