// Deformable convolution straight from its definition, in double precision: slow, obvious, for
// tests.

#ifndef DCN_DEPLOY_CORE_DEFORM_CONV2D_REFERENCE_H_
#define DCN_DEPLOY_CORE_DEFORM_CONV2D_REFERENCE_H_

#include "core/deform_conv2d_params.h"

namespace dcn_deploy {

// Layouts as in DeformConv2dParams; `bias` and `mask` may be null. Shares no code with the kernels.
void deform_conv2d_reference(const DeformConv2dParams& params, const double* x,
                             const double* weight, const double* offset, const double* bias,
                             const double* mask, double* y);

}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_CORE_DEFORM_CONV2D_REFERENCE_H_
