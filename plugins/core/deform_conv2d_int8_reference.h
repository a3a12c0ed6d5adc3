// Deformable convolution of int8 features and weights straight from its definition (see
// cuda/deform_conv2d.h): slow, obvious, for tests.

#ifndef DCN_DEPLOY_CORE_DEFORM_CONV2D_INT8_REFERENCE_H_
#define DCN_DEPLOY_CORE_DEFORM_CONV2D_INT8_REFERENCE_H_

#include <cstdint>

#include "core/deform_conv2d_params.h"

namespace dcn_deploy {

// Nearest whole number in [-128, 127], ties to even; 0 for NaN.
double round_to_int8(double value);

// The sum of products of each output element, before scale and bias. Layouts as in
// DeformConv2dParams; `mask` may be null.
//
// Samples are taken in double. Where float32 arithmetic, in whatever order, may round one the other
// way, which is next to a tie, the sum may differ: `slack` gets by how much at most.
void deform_conv2d_int8_reference(const DeformConv2dParams& params, const std::int8_t* x,
                                  const std::int8_t* weight, const double* offset,
                                  const double* mask, std::int64_t* sums, std::int64_t* slack);

}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_CORE_DEFORM_CONV2D_INT8_REFERENCE_H_
