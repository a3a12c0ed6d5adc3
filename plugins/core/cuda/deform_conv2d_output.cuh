// From a sum of products to an element of Y.

#ifndef DCN_DEPLOY_CORE_CUDA_DEFORM_CONV2D_OUTPUT_CUH_
#define DCN_DEPLOY_CORE_CUDA_DEFORM_CONV2D_OUTPUT_CUH_

#include "core/cuda/deform_conv2d_kernel.h"
#include "core/cuda/device.cuh"
#include "core/cuda/number.cuh"

namespace dcn_deploy {
namespace cuda {

// What features of `Storage` are multiplied to, how a sum of output channel `channel` becomes a
// value, and how that becomes Y's element `index`.
template <typename Storage>
struct Output {
  using Bits = typename Storage::Bits;
  using Sum = float;
  static __device__ __forceinline__ float value(const DeformConv2dArguments& a, int64_t channel,
                                                float sum) {
    if (a.bias != nullptr) sum += Storage::load(static_cast<const Bits*>(a.bias)[channel]);
    return sum;
  }
  static __device__ __forceinline__ void store(const DeformConv2dArguments& a, int64_t index,
                                               float value) {
    static_cast<Bits*>(a.y)[index] = Storage::store(value);
  }
};

template <>
struct Output<Int8> {
  using Sum = int32_t;
  static __device__ __forceinline__ float value(const DeformConv2dArguments& a, int64_t channel,
                                                int32_t sum) {
    float value = static_cast<float>(sum) * a.scale[channel];
    if (a.bias != nullptr) value += static_cast<const float*>(a.bias)[channel];
    return value;
  }
  static __device__ __forceinline__ void store(const DeformConv2dArguments& a, int64_t index,
                                               float value) {
    switch (a.y_dtype) {
      case DType::kInt8:
        static_cast<uint8_t*>(a.y)[index] = Int8::store(value / a.y_scale);
        break;
      case DType::kFloat16:
        static_cast<uint16_t*>(a.y)[index] = Float16::store(value);
        break;
      case DType::kBFloat16:
        static_cast<uint16_t*>(a.y)[index] = BFloat16::store(value);
        break;
      default:
        static_cast<float*>(a.y)[index] = value;
    }
  }
};

}  // namespace cuda
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_CORE_CUDA_DEFORM_CONV2D_OUTPUT_CUH_
