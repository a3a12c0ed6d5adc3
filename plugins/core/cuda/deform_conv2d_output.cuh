// From a sum of products to an element of Y.

#ifndef DCN_DEPLOY_CORE_CUDA_DEFORM_CONV2D_OUTPUT_CUH_
#define DCN_DEPLOY_CORE_CUDA_DEFORM_CONV2D_OUTPUT_CUH_

#include "core/cuda/deform_conv2d_kernel.h"
#include "core/cuda/device.cuh"
#include "core/cuda/number.cuh"

namespace dcn_deploy {
namespace cuda {

// What features of `Storage` are multiplied to, how a sum of an output channel becomes a value, and
// how that becomes Y's element `index`.
template <typename Storage>
class Output {
 public:
  using Bits = typename Storage::Bits;
  using Sum = float;
  __device__ __forceinline__ Output(const DeformConv2dArguments& a, int64_t channel)
      : bias_(a.bias == nullptr ? 0.0f : Storage::load(static_cast<const Bits*>(a.bias)[channel])),
        has_bias_(a.bias != nullptr) {}
  __device__ __forceinline__ float value(float sum) const { return has_bias_ ? sum + bias_ : sum; }
  static __device__ __forceinline__ void store(const DeformConv2dArguments& a, int64_t index,
                                               float value) {
    static_cast<Bits*>(a.y)[index] = Storage::store(value);
  }

 private:
  float bias_;
  bool has_bias_;  // a sum of -0 stays what it is
};

template <>
class Output<Int8> {
 public:
  using Sum = int32_t;
  __device__ __forceinline__ Output(const DeformConv2dArguments& a, int64_t channel)
      : scale_(a.scale[channel]),
        bias_(a.bias == nullptr ? 0.0f : static_cast<const float*>(a.bias)[channel]),
        has_bias_(a.bias != nullptr) {}
  __device__ __forceinline__ float value(int32_t sum) const {
    const float value = static_cast<float>(sum) * scale_;
    return has_bias_ ? value + bias_ : value;
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

 private:
  float scale_;
  float bias_;
  bool has_bias_;
};

}  // namespace cuda
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_CORE_CUDA_DEFORM_CONV2D_OUTPUT_CUH_
