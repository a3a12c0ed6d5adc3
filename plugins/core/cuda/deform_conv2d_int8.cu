#include "core/cuda/deform_conv2d_fused_launch.cuh"

namespace dcn_deploy {
namespace cuda {

const FusedKernel kTensorInt8Kernels[kTensorTileCount] = DCN_DEPLOY_TENSOR_KERNELS(TensorInt8);
const FusedKernel kSimtInt8Kernels[kSimtTileCount] = {fused_kernel<SimtInt8, 64, 64, 32, 32>()};

}  // namespace cuda
}  // namespace dcn_deploy
