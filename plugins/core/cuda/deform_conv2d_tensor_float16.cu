#include "core/cuda/deform_conv2d_fused_launch.cuh"

namespace dcn_deploy {
namespace cuda {

const FusedKernel kTensorFloat16Kernels[kTensorTileCount] =
    DCN_DEPLOY_TENSOR_KERNELS(TensorFloat16);

}  // namespace cuda
}  // namespace dcn_deploy
