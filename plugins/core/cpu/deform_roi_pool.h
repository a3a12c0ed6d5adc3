// Deformable RoI pooling on the CPU.
//
// The samples of a bin form a grid, and what is outside or moved to the edge is so along each axis
// on its own. A bin is therefore a sum over rows and columns,
//
//   Y[r,c,ph,pw] = mask · Σ_i Σ_j wy[i] · wx[j] · X[n, channel(c, ph, pw), row_i, column_j],
//
// whose weights are merged over the samples and hold the mean's divisor (docs/operators.md has the
// formulas; Dai et al., "Deformable Convolutional Networks", 2017; the mask: Zhu et al.,
// "Deformable ConvNets v2", 2019). Positions and weights are computed in double precision, sums in
// float32.
//
// There are two ways to the sums. Where the RoIs take many samples, the images they lie in are
// first copied to float32 with blocks of channels innermost, so that each pixel of a sum is a
// vector; those of a (class, channel group) are together. Where they take few, the map is read as
// it is. An estimate of the work, from the shapes and the RoIs alone, decides. Either way a sum's
// order depends on the shapes and the RoIs alone, so that the result does not depend on the number
// of threads, bit for bit.

#ifndef DCN_DEPLOY_CORE_CPU_DEFORM_ROI_POOL_H_
#define DCN_DEPLOY_CORE_CPU_DEFORM_ROI_POOL_H_

#include <cstdint>

#include "core/cpu/kernels.h"
#include "core/deform_roi_pool_params.h"
#include "core/dtype.h"
#include "core/parallel_for.h"
#include "core/scratch_memory.h"
#include "core/status.h"

namespace dcn_deploy {
namespace cpu {

// Tensors in the layouts of DeformRoIPool2dParams, contiguous. `offset` and `mask` may be null.
struct DeformRoIPool2dTensors {
  DType dtype = DType::kFloat32;  // of x and y
  DType rois_dtype = DType::kFloat32;
  DType offset_dtype = DType::kFloat32;
  DType mask_dtype = DType::kFloat32;
  const void* x = nullptr;
  const void* rois = nullptr;
  const void* offset = nullptr;
  const void* mask = nullptr;
  void* y = nullptr;
};

enum class RoIPoolWay { kEstimated, kStaged, kDirect };

// Refuses a batch index outside [0, batch). Memory for the copy, at most X in float32, is taken
// from `memory` for the call; `way` forces one, for tests.
Status deform_roi_pool(const DeformRoIPool2dParams& params, const DeformRoIPool2dTensors& tensors,
                       const Kernels& kernels, const ParallelFor& parallel_for,
                       const ScratchMemory& memory = {}, RoIPoolWay way = RoIPoolWay::kEstimated);

}  // namespace cpu
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_CORE_CPU_DEFORM_ROI_POOL_H_
