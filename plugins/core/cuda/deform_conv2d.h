// Deformable convolution on a GPU, without a column buffer: sampled straight into the shared-memory
// tile of a product.
//
//   Y[n,m,ho,wo] = B[m] + Σ_{c∈γ(m)} Σ_{i,j} W[m,c,i,j] · mask[n,o,i,j,ho,wo] · S(X[n,c], y, x)
//
// (Dai et al. 2017; the mask: Zhu et al. 2019.) Coordinates, bilinear weights and accumulation are
// float32 whatever the storage type. Nothing here allocates, synchronises or keeps state: a call
// enqueues one kernel on the stream that it is given, so that it can be captured in a CUDA graph
// and used on several streams at once.
//
// Features and weights may be int8, X = x_scale · qX and W[m] = weight_scale[m] · qW[m] with zero
// points of zero. Samples are rounded to int8 in units of x_scale, and products are summed in
// int32, so that a sum is exact but for the rounding of its samples:
//
//   qS          = int8(mask[n,o,i,j,ho,wo] · S(qX[n,c], y, x)), in float32
//   y           = B[m] + scale[m] · Σ_{c∈γ(m)} Σ_{i,j} qW[m,c,i,j] · qS, scale[m] = x_scale ·
//                 weight_scale[m]; B and scale are float32
//   Y[n,m,ho,wo] = int8(y / y_scale), or y in a floating-point type
//
// int8(v) is the nearest whole number in [-128, 127], ties to even; of NaN, which only a mask can
// bring in, it is 0.

#ifndef DCN_DEPLOY_CORE_CUDA_DEFORM_CONV2D_H_
#define DCN_DEPLOY_CORE_CUDA_DEFORM_CONV2D_H_

#include <cstddef>
#include <cstdint>

#include "core/cuda/device.h"
#include "core/deform_conv2d_params.h"
#include "core/dtype.h"
#include "core/status.h"

namespace dcn_deploy {
namespace cuda {

// How the product is computed.
enum class Algorithm : int {
  kAuto = 0,
  kTensor = 1,  // fused, tensor cores: float16, bfloat16, int8 and, where TF32 is allowed,
                // float32; SM 8.0 and later
  kSimt = 2,    // fused, float32 arithmetic: exact float32, and every type on SM 7.5
  kDirect = 3,  // one thread for an output element: depthwise, and groups too narrow for a product
};

// Output channels × pixels of a block of the fused kernels.
struct Tile {
  int rows = 0;
  int pixels = 0;
};

struct DeformConv2dOptions {
  bool allow_tf32 = false;  // float32 features on tensor cores
  // For tests and for measuring; kAuto, a tile of zeros and no splits choose.
  Algorithm algorithm = Algorithm::kAuto;
  Tile tile;
  // Blocks that share the sum of a tile, as a cluster (split-K), of the fused kernels: at most
  // Device::cluster_blocks, and not more than the sum has steps. 0 chooses, for the tile if that is
  // given.
  int splits = 0;
  // Of Y, for int8 features; with others Y has their type. The scale is that of int8.
  DType y_dtype = DType::kFloat32;
  float y_scale = 1;
};

// Everything that is decided before a launch. Plain data.
struct DeformConv2dPlan {
  DeformConv2dParams params;
  DType dtype = DType::kFloat32;
  Layout x_layout = Layout::kNchw;
  Layout y_layout = Layout::kNchw;
  Algorithm algorithm = Algorithm::kAuto;
  Tile tile;
  std::int32_t splits = 1;
  // Of a launch, by which tile and splits are chosen: never measured, and 0 of the direct kernel.
  std::int64_t estimated_clocks = 0;
  // Channels of one step of the product, and steps of one tap.
  std::int32_t chunk_channels = 0;
  std::int32_t chunks = 0;
  // Offset groups that one step may touch.
  std::int32_t offset_slots = 0;
  // Output channels of a group, rounded up.
  std::int64_t padded_rows = 0;
  std::size_t packed_bytes = 0;
  std::size_t shared_bytes = 0;
  DType y_dtype = DType::kFloat32;
  float y_scale = 1;
};

// Tensors on the device, contiguous, in the plan's layouts (offset, mask: as in
// DeformConv2dParams). `bias` and `mask` may be null. `bias` has the type of X, or float32 where
// that is int8; `scale` [out_channels] is for int8 only.
struct DeformConv2dTensors {
  DType offset_dtype = DType::kFloat32;
  DType mask_dtype = DType::kFloat32;
  const void* x = nullptr;
  const void* offset = nullptr;
  const void* bias = nullptr;
  const void* mask = nullptr;
  const float* scale = nullptr;
  void* y = nullptr;
};

// Chooses the kernel. The packed weights depend on the algorithm, the type and the filter, not on
// the tile or the map.
Status plan_deform_conv2d(const DeformConv2dParams& params, DType dtype, Layout x_layout,
                          Layout y_layout, const Device& device, const DeformConv2dOptions& options,
                          DeformConv2dPlan* plan);

// Writes plan.packed_bytes at `packed` (16-byte aligned) from W [out_channels, in_channels / group,
// kernel_h, kernel_w].
Status pack_deform_conv2d_weights(const DeformConv2dPlan& plan, const void* weight, void* packed,
                                  Stream stream);

// Writes `scale` [out_channels], on the device, from the scales of int8 features and weights, which
// are the host's: `count` is 1 or out_channels.
Status write_deform_conv2d_scale(float x_scale, const float* weight_scale, std::int64_t count,
                                 std::int64_t out_channels, float* scale, Stream stream);

Status deform_conv2d(const DeformConv2dPlan& plan, const DeformConv2dTensors& tensors,
                     const void* packed, Stream stream);

// The tiles that a kernel exists for, best first for a wide filter; `count` of them.
const Tile* deform_conv2d_tiles(Algorithm algorithm, int* count);

}  // namespace cuda
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_CORE_CUDA_DEFORM_CONV2D_H_
