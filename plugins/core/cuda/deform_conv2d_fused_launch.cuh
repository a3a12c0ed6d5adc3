// A row of a table of fused kernels; see deform_conv2d_fused_kernels.h.

#ifndef DCN_DEPLOY_CORE_CUDA_DEFORM_CONV2D_FUSED_LAUNCH_CUH_
#define DCN_DEPLOY_CORE_CUDA_DEFORM_CONV2D_FUSED_LAUNCH_CUH_

#include "core/cuda/deform_conv2d_fused.cuh"
#include "core/cuda/deform_conv2d_fused_kernels.h"

namespace dcn_deploy {
namespace cuda {

template <typename Math, int kRows, int kPixels, int kWarpRows, int kWarpPixels>
constexpr FusedKernel fused_kernel() {
  return {
      {kRows, kPixels},
      [](int offset_slots) {
        return static_cast<std::size_t>(FusedShared<kRows, kPixels>::bytes(offset_slots));
      },
      [](const DeformConv2dArguments& arguments, bool by_unit, std::int64_t blocks,
         std::size_t shared_bytes, Stream stream) {
        constexpr unsigned kThreads = FusedDeformConv2d<Math, kRows, kPixels, kWarpRows,
                                                        kWarpPixels, Access::kUnit>::kThreads;
        const auto kernel =
            by_unit
                ? &fused_deform_conv2d<Math, kRows, kPixels, kWarpRows, kWarpPixels, Access::kUnit>
                : &fused_deform_conv2d<Math, kRows, kPixels, kWarpRows, kWarpPixels,
                                       Access::kElement>;
        return launch(kernel, dim3(static_cast<unsigned>(blocks)), dim3(kThreads), shared_bytes,
                      stream, arguments);
      }};
}

// One table in the order of kTensorTiles.
#define DCN_DEPLOY_TENSOR_KERNELS(Math)                                          \
  {fused_kernel<Math, 256, 64, 64, 32>(), fused_kernel<Math, 128, 64, 32, 32>(), \
   fused_kernel<Math, 64, 64, 32, 32>(), fused_kernel<Math, 64, 32, 32, 16>()}

}  // namespace cuda
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_CORE_CUDA_DEFORM_CONV2D_FUSED_LAUNCH_CUH_
