// Storage types in registers: 16-bit numbers as their bits, two to a word, the first in the low
// half; 8-bit numbers four to a word.

#ifndef DCN_DEPLOY_CORE_CUDA_NUMBER_CUH_
#define DCN_DEPLOY_CORE_CUDA_NUMBER_CUH_

#include <math.h>

#include "core/cuda/device.cuh"
#include "core/dtype.h"
#include "core/half.h"

namespace dcn_deploy {
namespace cuda {

__device__ __forceinline__ float bits_to_float(uint32_t bits) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(bits);
#else
  return float_from_bits(bits);
#endif
}

__device__ __forceinline__ uint32_t float_to_bits(float value) {
#if defined(__CUDA_ARCH__)
  return __float_as_uint(value);
#else
  return float_bits(value);
#endif
}

// One storage type: its bits, and conversion from and to float32 (nearest, ties to even).
struct Float32 {
  using Bits = uint32_t;
  static constexpr DType kDType = DType::kFloat32;
  static __device__ __forceinline__ float load(uint32_t bits) { return bits_to_float(bits); }
  static __device__ __forceinline__ uint32_t store(float value) { return float_to_bits(value); }
};

struct Float16 {
  using Bits = uint16_t;
  static constexpr DType kDType = DType::kFloat16;
  static __device__ __forceinline__ float load(uint16_t bits) {
#if defined(__CUDA_ARCH__)
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
#else
    return float16_to_float(bits);
#endif
  }
  static __device__ __forceinline__ uint16_t store(float value) {
#if defined(__CUDA_ARCH__)
    uint16_t bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
#else
    return float_to_float16(value);
#endif
  }
  static __device__ __forceinline__ uint32_t store_pair(float low, float high) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    uint32_t bits;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    return bits;
#else
    return static_cast<uint32_t>(store(low)) | static_cast<uint32_t>(store(high)) << 16;
#endif
  }
};

struct BFloat16 {
  using Bits = uint16_t;
  static constexpr DType kDType = DType::kBFloat16;
  static __device__ __forceinline__ float load(uint16_t bits) {
    return bits_to_float(static_cast<uint32_t>(bits) << 16);
  }
  static __device__ __forceinline__ uint16_t store(float value) {
    const uint32_t bits = float_to_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x0040u);
    const uint32_t odd = (bits >> 16) & 1u;
    return static_cast<uint16_t>((bits + 0x7fffu + odd) >> 16);
  }
  static __device__ __forceinline__ uint32_t store_pair(float low, float high) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    uint32_t bits;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    return bits;
#else
    return static_cast<uint32_t>(store(low)) | static_cast<uint32_t>(store(high)) << 16;
#endif
  }
};

// Conversions by way of a float32 whose last bit is worth one: GPUs convert between integers and
// float32 at a quarter of the speed of additions, or less.
struct Int8 {
  using Bits = uint8_t;
  static constexpr DType kDType = DType::kInt8;
  static __device__ __forceinline__ float load(uint8_t bits) { return load_from(bits, 0); }
  // Byte `index` of a word.
  static __device__ __forceinline__ float load_from(uint32_t word, int index) {
    // 2^23 + 128 + value.
    const uint32_t shifted = word ^ 0x80808080u;
#if defined(__CUDA_ARCH__)
    const uint32_t bits = __byte_perm(shifted, 0x4b000000u, 0x7440u | static_cast<uint32_t>(index));
#else
    const uint32_t bits = 0x4b000000u | (shifted >> (8 * index) & 0xffu);
#endif
    return bits_to_float(bits) - 8388736.0f;
  }
  // Nearest whole number in [-128, 127], ties to even; NaN becomes 0.
  static __device__ __forceinline__ float round(float value) {
    return bits_to_float(shifted_bits(value)) - kShift;
  }
  static __device__ __forceinline__ uint8_t store(float value) {
    return static_cast<uint8_t>(shifted_bits(value));
  }
  static __device__ __forceinline__ uint32_t store_four(float a, float b, float c, float d) {
#if defined(__CUDA_ARCH__)
    const uint32_t low = __byte_perm(shifted_bits(a), shifted_bits(b), 0x0040u);
    const uint32_t high = __byte_perm(shifted_bits(c), shifted_bits(d), 0x0040u);
    return __byte_perm(low, high, 0x5410u);
#else
    return static_cast<uint32_t>(store(a)) | static_cast<uint32_t>(store(b)) << 8 |
           static_cast<uint32_t>(store(c)) << 16 | static_cast<uint32_t>(store(d)) << 24;
#endif
  }

 private:
  static constexpr float kShift = 12582912.0f;  // 2^23 + 2^22
  // Of value + kShift; the low byte is the value's two's complement.
  static __device__ __forceinline__ uint32_t shifted_bits(float value) {
    const float number = value == value ? value : 0.0f;
    return float_to_bits(fmaxf(fminf(number, 127.0f), -128.0f) + kShift);
  }
};

// The number whose bits are those, of a type that is known at run time only: offsets, masks, RoIs.
__device__ __forceinline__ float float_of(uint32_t bits, DType dtype) {
  switch (dtype) {
    case DType::kFloat16:
      return Float16::load(static_cast<uint16_t>(bits));
    case DType::kBFloat16:
      return BFloat16::load(static_cast<uint16_t>(bits));
    default:
      return bits_to_float(bits);
  }
}

// Element `index` of a tensor of such a type.
__device__ __forceinline__ float load_element(const void* base, DType dtype, int64_t index) {
  return float_of(dtype == DType::kFloat32 ? static_cast<const uint32_t*>(base)[index]
                                           : static_cast<const uint16_t*>(base)[index],
                  dtype);
}

}  // namespace cuda
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_CORE_CUDA_NUMBER_CUH_
