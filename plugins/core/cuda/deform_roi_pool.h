// Deformable RoI pooling on a GPU.
//
//   Y[r,c,ph,pw] = mask · mean of the samples of bin (ph, pw)          (docs/operators.md has the
//   formulas)
//
// (Dai et al. 2017; the mask: Zhu et al. 2019.) Positions and weights are computed in double
// precision, once for each bin and not for each channel; sums in float32. A call enqueues one
// kernel on the stream that it is given; nothing is allocated or synchronised.

#ifndef DCN_DEPLOY_CORE_CUDA_DEFORM_ROI_POOL_H_
#define DCN_DEPLOY_CORE_CUDA_DEFORM_ROI_POOL_H_

#include "core/cuda/device.h"
#include "core/deform_roi_pool_params.h"
#include "core/dtype.h"
#include "core/status.h"

namespace dcn_deploy {
namespace cuda {

// Tensors on the device, contiguous; x and y in their layouts, the others as in
// DeformRoIPool2dParams. `offset` and `mask` may be null.
struct DeformRoIPool2dTensors {
  DType dtype = DType::kFloat32;  // of x and y
  DType rois_dtype = DType::kFloat32;
  DType offset_dtype = DType::kFloat32;
  DType mask_dtype = DType::kFloat32;
  Layout x_layout = Layout::kNchw;
  Layout y_layout = Layout::kNchw;
  const void* x = nullptr;
  const void* rois = nullptr;
  const void* offset = nullptr;
  const void* mask = nullptr;
  void* y = nullptr;
};

// A RoI whose batch index is outside [0, batch) gives zeros: telling the host would mean waiting
// for the device.
Status deform_roi_pool(const DeformRoIPool2dParams& params, const DeformRoIPool2dTensors& tensors,
                       Stream stream);

}  // namespace cuda
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_CORE_CUDA_DEFORM_ROI_POOL_H_
