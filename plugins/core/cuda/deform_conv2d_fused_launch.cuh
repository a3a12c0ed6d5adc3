// A row of a table of fused kernels; see deform_conv2d_fused_kernels.h.

#ifndef DCN_DEPLOY_CORE_CUDA_DEFORM_CONV2D_FUSED_LAUNCH_CUH_
#define DCN_DEPLOY_CORE_CUDA_DEFORM_CONV2D_FUSED_LAUNCH_CUH_

#include "core/cuda/deform_conv2d_fused.cuh"
#include "core/cuda/deform_conv2d_fused_kernels.h"

namespace dcn_deploy {
namespace cuda {

// Clocks in which a multiprocessor issues the instructions of a block's step: each of its four
// schedulers one a clock. What a warp executes was counted in the machine code for SM 9.0
// (float16), for a step that keeps its tap: kCommon, kUnit for a unit that a thread samples, the
// matrix instructions, and what loads and copies their operands.
template <typename Math, int kRows, int kPixels, int kWarpRows, int kWarpPixels, Access kAccess>
constexpr FusedCost fused_cost() {
  using Kernel = FusedDeformConv2d<Math, kRows, kPixels, kWarpRows, kWarpPixels, kAccess>;
  constexpr int kSchedulers = 4;
  constexpr int kCommon = 60;
  constexpr int kUnit = kAccess == Access::kUnit ? 116 : 230;
  constexpr int kUnits = kPixels * kRowUnits / Kernel::kThreads;
  constexpr int kCopies = 3 * kRows * kRowUnits / Kernel::kThreads;
  constexpr int kProduct =
      Math::kUsesTensorCores
          ? kRowUnits / 2 * (kWarpRows / 16 * (kWarpPixels / 8) + kWarpRows / 16 + kWarpPixels / 16)
          : kRowUnits * (4 * (kWarpRows / 8) * (kWarpPixels / 4) + kWarpRows / 8 + kWarpPixels / 4);
  constexpr int kWarps = Kernel::kThreads / kWarpSize;
  return {Kernel::kResidentBlocks,
          kWarps * (kCommon + kUnits * kUnit + kCopies + kProduct) / kSchedulers};
}

template <typename Math, int kRows, int kPixels, int kWarpRows, int kWarpPixels>
constexpr FusedKernel fused_kernel() {
  return {
      {kRows, kPixels},
      [](int offset_slots) {
        return static_cast<std::size_t>(FusedShared<kRows, kPixels>::bytes(offset_slots));
      },
      fused_cost<Math, kRows, kPixels, kWarpRows, kWarpPixels, Access::kUnit>(),
      fused_cost<Math, kRows, kPixels, kWarpRows, kWarpPixels, Access::kElement>(),
      [](const DeformConv2dArguments& arguments, bool by_unit, std::int64_t blocks,
         std::size_t shared_bytes, Stream stream) {
        constexpr unsigned kThreads = FusedDeformConv2d<Math, kRows, kPixels, kWarpRows,
                                                        kWarpPixels, Access::kUnit>::kThreads;
        const auto kernel =
            by_unit
                ? &fused_deform_conv2d<Math, kRows, kPixels, kWarpRows, kWarpPixels, Access::kUnit>
                : &fused_deform_conv2d<Math, kRows, kPixels, kWarpRows, kWarpPixels,
                                       Access::kElement>;
        const dim3 grid(static_cast<unsigned>(blocks));
        if (arguments.splits == 1) {
          return launch(kernel, grid, dim3(kThreads), shared_bytes, stream, arguments);
        }
        return launch_clusters(kernel, grid, dim3(kThreads), arguments.splits, shared_bytes, stream,
                               arguments);
      }};
}

// One table in the order of kTensorTiles.
#define DCN_DEPLOY_TENSOR_KERNELS(Math)                                          \
  {fused_kernel<Math, 256, 64, 64, 32>(), fused_kernel<Math, 128, 64, 32, 32>(), \
   fused_kernel<Math, 64, 64, 32, 32>(), fused_kernel<Math, 64, 32, 32, 16>()}

}  // namespace cuda
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_CORE_CUDA_DEFORM_CONV2D_FUSED_LAUNCH_CUH_
