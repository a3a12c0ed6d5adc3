#include "core/cuda/deform_conv2d_fused_launch.cuh"

namespace dcn_deploy {
namespace cuda {

const FusedKernel kTensorTf32Kernels[kTensorTileCount] = DCN_DEPLOY_TENSOR_KERNELS(TensorTf32);

}  // namespace cuda
}  // namespace dcn_deploy
