// The storage types with AVX2 and F16C, for the files that are compiled for them. Internal linkage:
// see half.h.

#ifndef DCN_DEPLOY_CORE_CPU_STORAGE_AVX2_H_
#define DCN_DEPLOY_CORE_CPU_STORAGE_AVX2_H_

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "core/half.h"

namespace dcn_deploy {
namespace cpu {
namespace {

template <typename T>
inline T read(const void* source) {
  T value;
  memcpy(&value, source, sizeof(value));
  return value;
}

inline __m128i bits_of_eight_halves(const uint16_t* source) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(source));
}

inline __m256 widen_bfloat16(__m128i halves) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}

inline __m128i narrow_bfloat16(__m256 values) {
  const __m256i bits = _mm256_castps_si256(values);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x00400000));
  const __m256 is_nan = _mm256_cmp_ps(values, values, _CMP_UNORD_Q);
  const __m256i chosen =
      _mm256_srli_epi32(_mm256_castps_si256(_mm256_blendv_ps(_mm256_castsi256_ps(rounded),
                                                             _mm256_castsi256_ps(quiet), is_nan)),
                        16);
  return _mm_packus_epi32(_mm256_castsi256_si128(chosen), _mm256_extracti128_si256(chosen, 1));
}

// Each storage type: eight values in and out, one value in and out, and the pairs of neighbours at
// four places as [left, right] times four.
struct Float32 {
  using Type = float;

  static __m256 load8(const float* source) { return _mm256_loadu_ps(source); }
  static float load(float value) { return value; }
  static void store8(__m256 values, float* destination) { _mm256_storeu_ps(destination, values); }
  static float store(float value) { return value; }

  static __m256 pairs(const float* channel, const int32_t* places) {
    const __m128i low =
        _mm_set_epi64x(read<int64_t>(channel + places[1]), read<int64_t>(channel + places[0]));
    const __m128i high =
        _mm_set_epi64x(read<int64_t>(channel + places[3]), read<int64_t>(channel + places[2]));
    return _mm256_castsi256_ps(_mm256_set_m128i(high, low));
  }
};

// What the two 16-bit types share.
struct Half {
  using Type = uint16_t;

  static __m128i pairs_bits(const uint16_t* channel, const int32_t* places) {
    return _mm_set_epi32(read<int32_t>(channel + places[3]), read<int32_t>(channel + places[2]),
                         read<int32_t>(channel + places[1]), read<int32_t>(channel + places[0]));
  }
};

struct Float16 : Half {
  static __m256 load8(const uint16_t* source) {
    return _mm256_cvtph_ps(bits_of_eight_halves(source));
  }
  static float load(uint16_t value) { return float16_to_float(value); }
  static void store8(__m256 values, uint16_t* destination) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(destination),
                     _mm256_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  static uint16_t store(float value) { return float_to_float16(value); }
  static __m256 pairs(const uint16_t* channel, const int32_t* places) {
    return _mm256_cvtph_ps(pairs_bits(channel, places));
  }
};

struct BFloat16 : Half {
  static __m256 load8(const uint16_t* source) {
    return widen_bfloat16(bits_of_eight_halves(source));
  }
  static float load(uint16_t value) { return bfloat16_to_float(value); }
  static void store8(__m256 values, uint16_t* destination) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(destination), narrow_bfloat16(values));
  }
  static uint16_t store(float value) { return float_to_bfloat16(value); }
  static __m256 pairs(const uint16_t* channel, const int32_t* places) {
    return widen_bfloat16(pairs_bits(channel, places));
  }
};

}  // namespace
}  // namespace cpu
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_CORE_CPU_STORAGE_AVX2_H_
