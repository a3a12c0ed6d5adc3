// The inner loops with AVX2, FMA and F16C. This file alone is compiled for them: see kernels.h for
// what it must not include.

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "core/bilinear.h"
#include "core/cpu/kernels.h"
#include "core/cpu/roi_pool_kernels.h"
#include "core/cpu/storage_avx2.h"

namespace dcn_deploy {
namespace cpu {
namespace {

// 12 accumulators, two vectors of the panel and two broadcast weights: 16 registers.
constexpr int64_t kRows = 6;
constexpr int64_t kColumns = 16;
static_assert(kTilePixels % kColumns == 0, "a tile holds whole register blocks");
static_assert(kLanes == 8, "eight floats in a vector");

template <typename Storage>
void load(const void* source, int64_t count, float* destination) {
  const auto* values = static_cast<const typename Storage::Type*>(source);
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) _mm256_storeu_ps(destination + i, Storage::load8(values + i));
  for (; i < count; ++i) destination[i] = Storage::load(values[i]);
}

template <typename Storage>
void store(const float* source, float bias, int64_t count, void* destination) {
  auto* values = static_cast<typename Storage::Type*>(destination);
  const __m256 biases = _mm256_set1_ps(bias);
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    Storage::store8(_mm256_add_ps(_mm256_loadu_ps(source + i), biases), values + i);
  }
  for (; i < count; ++i) values[i] = Storage::store(source[i] + bias);
}

// bilinear_axis() for eight positions.
struct Axis {
  __m256i first;
  __m256 has_first;
  __m256 has_second;
  __m256 weight_first;
  __m256 weight_second;
};

inline Axis axis_of(__m256i base, __m256 offset, int32_t size) {
  const __m256 limit = _mm256_set1_ps(static_cast<float>(kMaxExtent));
  const __m256 magnitude = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), offset);
  const __m256 in_range = _mm256_cmp_ps(magnitude, limit, _CMP_LT_OQ);
  const __m256 safe = _mm256_and_ps(offset, in_range);
  const __m256 floored = _mm256_floor_ps(safe);
  const __m256 fraction = _mm256_sub_ps(safe, floored);
  const __m256i first = _mm256_add_epi32(base, _mm256_cvttps_epi32(floored));

  const __m256 has_fraction = _mm256_cmp_ps(fraction, _mm256_setzero_ps(), _CMP_GT_OQ);
  const __m256 not_negative = _mm256_castsi256_ps(_mm256_cmpgt_epi32(first, _mm256_set1_epi32(-1)));
  const __m256 from_minus_one =
      _mm256_castsi256_ps(_mm256_cmpgt_epi32(first, _mm256_set1_epi32(-2)));
  const __m256 below_size = _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(size), first));
  const __m256 below_last =
      _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(size - 1), first));
  const __m256 inside =
      _mm256_and_ps(_mm256_and_ps(in_range, below_size),
                    _mm256_and_ps(from_minus_one, _mm256_or_ps(not_negative, has_fraction)));
  Axis axis;
  axis.first = _mm256_and_si256(first, _mm256_castps_si256(inside));
  axis.has_first = _mm256_and_ps(inside, not_negative);
  axis.has_second = _mm256_and_ps(inside, below_last);
  axis.weight_first = _mm256_sub_ps(_mm256_set1_ps(1.0f), fraction);
  axis.weight_second = fraction;
  return axis;
}

inline __m256i load_ints(const int32_t* source) {
  return _mm256_load_si256(reinterpret_cast<const __m256i*>(source));
}

// Writes left[0], right[0], left[1], right[1], ...
inline void store_interleaved(float* destination, __m256 left, __m256 right) {
  const __m256 low = _mm256_unpacklo_ps(left, right);
  const __m256 high = _mm256_unpackhi_ps(left, right);
  _mm256_store_ps(destination, _mm256_permute2f128_ps(low, high, 0x20));
  _mm256_store_ps(destination + 8, _mm256_permute2f128_ps(low, high, 0x31));
}

inline void store_interleaved(uint32_t* destination, __m256 left, __m256 right) {
  store_interleaved(reinterpret_cast<float*>(destination), left, right);
}

void locate(MapExtent map, const int32_t* tap_y, const int32_t* tap_x, const float* y,
            const float* x, const float* mask, int64_t count, TapPositions* positions) {
  const __m256i zero = _mm256_setzero_si256();
  const __m256i last_row = _mm256_set1_epi32(map.height - 1);
  const __m256i width = _mm256_set1_epi32(map.width);
  const __m256i last_pair = _mm256_set1_epi32(map.width - 2);
  for (int64_t p = 0; p < count; p += kLanes) {
    const Axis vertical = axis_of(load_ints(tap_y + p), _mm256_load_ps(y + p), map.height);
    const Axis horizontal = axis_of(load_ints(tap_x + p), _mm256_load_ps(x + p), map.width);

    // Pairs that stick out are moved inside, and with them the weight of the one pixel that counts.
    const __m256 out_left = _mm256_castsi256_ps(_mm256_cmpgt_epi32(zero, horizontal.first));
    const __m256 out_right = _mm256_andnot_ps(
        out_left, _mm256_castsi256_ps(_mm256_cmpgt_epi32(horizontal.first, last_pair)));
    const __m256i column = _mm256_max_epi32(_mm256_min_epi32(horizontal.first, last_pair), zero);
    const __m256 weight_left = _mm256_andnot_ps(
        out_right, _mm256_blendv_ps(horizontal.weight_first, horizontal.weight_second, out_left));
    const __m256 weight_right = _mm256_andnot_ps(
        out_left, _mm256_blendv_ps(horizontal.weight_second, horizontal.weight_first, out_right));
    const __m256 keep_left = _mm256_andnot_ps(
        out_right, _mm256_blendv_ps(horizontal.has_first, horizontal.has_second, out_left));
    const __m256 keep_right = _mm256_andnot_ps(
        out_left, _mm256_blendv_ps(horizontal.has_second, horizontal.has_first, out_right));

    const __m256i row_above = _mm256_max_epi32(vertical.first, zero);
    const __m256i row_below =
        _mm256_min_epi32(_mm256_add_epi32(vertical.first, _mm256_set1_epi32(1)), last_row);
    _mm256_store_si256(reinterpret_cast<__m256i*>(positions->above + p),
                       _mm256_add_epi32(_mm256_mullo_epi32(row_above, width), column));
    _mm256_store_si256(reinterpret_cast<__m256i*>(positions->below + p),
                       _mm256_add_epi32(_mm256_mullo_epi32(row_below, width), column));

    const __m256 modulation = mask != nullptr ? _mm256_load_ps(mask + p) : _mm256_set1_ps(1.0f);
    const auto modulated = [&](__m256 a, __m256 b) {
      return _mm256_mul_ps(_mm256_mul_ps(a, b), modulation);
    };
    store_interleaved(positions->weight_above + 2 * p,
                      modulated(vertical.weight_first, weight_left),
                      modulated(vertical.weight_first, weight_right));
    store_interleaved(positions->weight_below + 2 * p,
                      modulated(vertical.weight_second, weight_left),
                      modulated(vertical.weight_second, weight_right));
    store_interleaved(positions->keep_above + 2 * p, _mm256_and_ps(vertical.has_first, keep_left),
                      _mm256_and_ps(vertical.has_first, keep_right));
    store_interleaved(positions->keep_below + 2 * p, _mm256_and_ps(vertical.has_second, keep_left),
                      _mm256_and_ps(vertical.has_second, keep_right));
    const __m256 all = _mm256_and_ps(_mm256_and_ps(vertical.has_first, vertical.has_second),
                                     _mm256_and_ps(keep_left, keep_right));
    positions->inside[p / kLanes] = _mm256_movemask_ps(all) == 0xff ? 1 : 0;
  }
}

// The pairs at four places of a map that is one pixel wide: that pixel twice.
template <typename Storage>
inline __m256 narrow_pairs(const typename Storage::Type* channel, const int32_t* places) {
  alignas(32) float values[8];
  for (int i = 0; i < 4; ++i) {
    values[2 * i] = values[2 * i + 1] = Storage::load(channel[places[i]]);
  }
  return _mm256_load_ps(values);
}

template <typename Storage, bool kNarrow>
inline __m256 pairs_at(const typename Storage::Type* channel, const int32_t* places) {
  if constexpr (kNarrow) {
    return narrow_pairs<Storage>(channel, places);
  } else {
    return Storage::pairs(channel, places);
  }
}

// [left, right] sums of four samples that lie `first` pixels into the tile.
template <typename Storage, bool kNarrow, bool kInside>
inline __m256 weighted_pairs(const typename Storage::Type* channel, const TapPositions& at,
                             int64_t first) {
  __m256 above = pairs_at<Storage, kNarrow>(channel, at.above + first);
  __m256 below = pairs_at<Storage, kNarrow>(channel, at.below + first);
  if constexpr (!kInside) {
    above = _mm256_and_ps(
        above, _mm256_load_ps(reinterpret_cast<const float*>(at.keep_above + 2 * first)));
    below = _mm256_and_ps(
        below, _mm256_load_ps(reinterpret_cast<const float*>(at.keep_below + 2 * first)));
  }
  return _mm256_fmadd_ps(below, _mm256_load_ps(at.weight_below + 2 * first),
                         _mm256_mul_ps(above, _mm256_load_ps(at.weight_above + 2 * first)));
}

template <typename Storage, bool kNarrow, bool kInside>
inline __m256 eight_samples(const typename Storage::Type* channel, const TapPositions& at,
                            int64_t first) {
  // Adding neighbours leaves pixels 0, 1, 4, 5, 2, 3, 6, 7.
  const __m256 sums =
      _mm256_hadd_ps(weighted_pairs<Storage, kNarrow, kInside>(channel, at, first),
                     weighted_pairs<Storage, kNarrow, kInside>(channel, at, first + 4));
  return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(sums), 0xd8));
}

template <typename Storage, bool kNarrow>
void sample_taps(const typename Storage::Type* channel, const TapPositions* positions, int64_t taps,
                 int64_t count, float* panel, int64_t panel_stride) {
  for (int64_t tap = 0; tap < taps; ++tap) {
    const TapPositions& at = positions[tap];
    for (int64_t p = 0; p < count; p += kLanes) {
      const __m256 samples = at.inside[p / kLanes] != 0
                                 ? eight_samples<Storage, kNarrow, true>(channel, at, p)
                                 : eight_samples<Storage, kNarrow, false>(channel, at, p);
      _mm256_store_ps(panel + (p / kColumns) * panel_stride + tap * kColumns + p % kColumns,
                      samples);
    }
  }
}

template <typename Storage>
void sample(const void* channel, int32_t step, const TapPositions* positions, int64_t taps,
            int64_t count, float* panel, int64_t panel_stride) {
  const auto* pixels = static_cast<const typename Storage::Type*>(channel);
  if (step == 0) {
    sample_taps<Storage, true>(pixels, positions, taps, count, panel, panel_stride);
  } else {
    sample_taps<Storage, false>(pixels, positions, taps, count, panel, panel_stride);
  }
}

void multiply(int64_t depth, const float* weight, const float* panel, bool accumulate,
              float* block) {
  __m256 sums[kRows][2];
#pragma GCC unroll 6
  for (int row = 0; row < kRows; ++row) sums[row][0] = sums[row][1] = _mm256_setzero_ps();
  for (int64_t k = 0; k < depth; ++k) {
    const __m256 first = _mm256_load_ps(panel);
    const __m256 second = _mm256_load_ps(panel + 8);
#pragma GCC unroll 6
    for (int row = 0; row < kRows; ++row) {
      const __m256 w = _mm256_broadcast_ss(weight + row);
      sums[row][0] = _mm256_fmadd_ps(w, first, sums[row][0]);
      sums[row][1] = _mm256_fmadd_ps(w, second, sums[row][1]);
    }
    panel += kColumns;
    weight += kRows;
  }
#pragma GCC unroll 6
  for (int row = 0; row < kRows; ++row) {
    float* result = block + row * kColumns;
    if (accumulate) {
      sums[row][0] = _mm256_add_ps(sums[row][0], _mm256_load_ps(result));
      sums[row][1] = _mm256_add_ps(sums[row][1], _mm256_load_ps(result + 8));
    }
    _mm256_store_ps(result, sums[row][0]);
    _mm256_store_ps(result + 8, sums[row][1]);
  }
}

}  // namespace

const Kernels kAvx2Kernels = {
    "avx2",
    kRows,
    kColumns,
    {load<Float32>, load<Float16>, load<BFloat16>},
    {store<Float32>, store<Float16>, store<BFloat16>},
    locate,
    {sample<Float32>, sample<Float16>, sample<BFloat16>},
    multiply,
    &kAvx2RoIPoolKernels,
};

}  // namespace cpu
}  // namespace dcn_deploy
