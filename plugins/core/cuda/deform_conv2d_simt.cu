#include "core/cuda/deform_conv2d_fused_launch.cuh"

namespace dcn_deploy {
namespace cuda {

const FusedKernel kSimtFloat32Kernels[kSimtTileCount] = {
    fused_kernel<Simt<Float32>, 64, 64, 32, 32>()};
const FusedKernel kSimtFloat16Kernels[kSimtTileCount] = {
    fused_kernel<Simt<Float16>, 64, 64, 32, 32>()};
const FusedKernel kSimtBFloat16Kernels[kSimtTileCount] = {
    fused_kernel<Simt<BFloat16>, 64, 64, 32, 32>()};

}  // namespace cuda
}  // namespace dcn_deploy
