// Deformable RoI pooling straight from its definition, in double precision: slow, obvious, for
// tests.

#ifndef DCN_DEPLOY_CORE_DEFORM_ROI_POOL_REFERENCE_H_
#define DCN_DEPLOY_CORE_DEFORM_ROI_POOL_REFERENCE_H_

#include "core/deform_roi_pool_params.h"

namespace dcn_deploy {

// Layouts as in DeformRoIPool2dParams; `offset` and `mask` may be null. Every batch index must be
// valid. Shares no code with the kernels.
void deform_roi_pool_reference(const DeformRoIPool2dParams& params, const double* x,
                               const double* rois, const double* offset, const double* mask,
                               double* y);

}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_CORE_DEFORM_ROI_POOL_REFERENCE_H_
