// Conversion between float32 and the 16-bit storage types, kept as their bits in a uint16_t.
//
// To 16 bits: round to nearest, ties to even; overflow goes to infinity, a NaN stays a NaN (made
// quiet, sign and upper payload kept). To float32: exact.
//
// Everything here has internal linkage on purpose: the header is compiled with different
// instruction sets in different files, and a merged inline function could bring an instruction the
// processor lacks into portable code.

#ifndef DCN_DEPLOY_CORE_HALF_H_
#define DCN_DEPLOY_CORE_HALF_H_

#include <stdint.h>
#include <string.h>

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace dcn_deploy {

static inline uint32_t float_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  return bits;
}

static inline float float_from_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

static inline float float16_to_float_portable(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t exponent = (half >> 10) & 0x1fu;
  const uint32_t mantissa = half & 0x3ffu;
  if (exponent == 0) {
    // Zero or subnormal: mantissa · 2^-24, exact in float32.
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return float_from_bits(float_bits(magnitude) | sign);
  }
  if (exponent == 0x1f) {
    const uint32_t quiet = mantissa != 0 ? 0x00400000u : 0u;
    return float_from_bits(sign | 0x7f800000u | quiet | (mantissa << 13));
  }
  return float_from_bits(sign | ((exponent + 112u) << 23) | (mantissa << 13));
}

static inline uint16_t float_to_float16_portable(float value) {
  const uint32_t bits = float_bits(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u | ((magnitude >> 13) & 0x3ffu);
  } else if (magnitude >= 0x477ff000u) {
    // 65520 and above round past the largest finite value, 65504.
    half = 0x7c00u;
  } else if (magnitude < 0x38800000u) {
    // Below 2^-14. Adding 0.5 makes the hardware round at 2^-24, the step of float16's subnormals;
    // the sum's low mantissa bits are then the subnormal's mantissa (or the smallest normal, if it
    // rounded up).
    half = float_bits(float_from_bits(magnitude) + 0.5f) - 0x3f000000u;
  } else {
    const uint32_t odd = (magnitude >> 13) & 1u;
    half = (magnitude - 0x38000000u + 0xfffu + odd) >> 13;
  }
  return static_cast<uint16_t>(sign | half);
}

static inline float float16_to_float(uint16_t half) {
#if defined(__F16C__)
  return _cvtsh_ss(half);
#else
  return float16_to_float_portable(half);
#endif
}

static inline uint16_t float_to_float16(float value) {
#if defined(__F16C__)
  return static_cast<uint16_t>(_cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#else
  return float_to_float16_portable(value);
#endif
}

static inline float bfloat16_to_float(uint16_t half) {
  return float_from_bits(static_cast<uint32_t>(half) << 16);
}

static inline uint16_t float_to_bfloat16(float value) {
  const uint32_t bits = float_bits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x0040u);
  const uint32_t odd = (bits >> 16) & 1u;
  return static_cast<uint16_t>((bits + 0x7fffu + odd) >> 16);
}

}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_CORE_HALF_H_
