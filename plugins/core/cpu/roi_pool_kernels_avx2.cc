// The inner loops of RoI pooling with AVX2, FMA and F16C: see kernels.h for what this file must not
// include.

#include <immintrin.h>
#include <stdint.h>

#include "core/cpu/roi_pool_kernels.h"
#include "core/cpu/roi_pool_loops.h"
#include "core/cpu/storage_avx2.h"

namespace dcn_deploy {
namespace cpu {
namespace {

constexpr int64_t kWidth = 8;  // floats in a vector
static_assert(kRoIPoolChannels == 8 * kWidth, "eight accumulators, as pool has them");

// Lanes 0 .. count − 1 of a vector.
inline __m256i first_lanes(int64_t count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int32_t>(count)),
                            _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

inline void transpose(__m256 (&v)[8]) {
  __m256 t[8];
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(v[i], v[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(v[i], v[i + 1]);
  }
  __m256 u[8];
  for (int i = 0; i < 8; i += 4) {
    u[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
    u[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
    u[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    u[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    v[i] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x20);
    v[i + 4] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x31);
  }
}

// One pixel after the other.
template <typename Storage>
void stage_narrow(const typename Storage::Type* pixels, int64_t channel_stride, int64_t channels,
                  int64_t count, float* staged) {
  for (int64_t p = 0; p < count; ++p) {
    for (int64_t c = 0; c < channels; ++c) {
      staged[p * channels + c] = Storage::load(pixels[c * channel_stride + p]);
    }
  }
}

template <typename Storage>
void stage(const void* source, int64_t channel_stride, int64_t channels, int64_t count,
           float* staged) {
  const auto* pixels = static_cast<const typename Storage::Type*>(source);
  if (channels < kWidth || count < kWidth) {
    stage_narrow<Storage>(pixels, channel_stride, channels, count, staged);
    return;
  }
  // What is left of pixels and channels is copied with some of those before, once more.
  const int64_t last_pixel = count - kWidth;
  const int64_t last_channel = channels - kWidth;
  // Two vectors of pixels at a time: a cache line of float32 is read once.
  for (int64_t first = 0; first < count; first += 2 * kWidth) {
    for (int64_t next_c = 0; next_c < channels; next_c += kWidth) {
      const int64_t c = next_c < last_channel ? next_c : last_channel;
      for (int64_t next_p = first; next_p < first + 2 * kWidth && next_p < count;
           next_p += kWidth) {
        const int64_t p = next_p < last_pixel ? next_p : last_pixel;
        __m256 block[8];
        for (int i = 0; i < 8; ++i) {
          block[i] = Storage::load8(pixels + (c + i) * channel_stride + p);
        }
        transpose(block);
        for (int i = 0; i < 8; ++i) {
          _mm256_storeu_ps(staged + (p + i) * channels + c, block[i]);
        }
      }
    }
  }
}

// Bins of kVectors vectors of channels, the last of them cut to the lanes of `last`.
template <int kVectors, bool kCut>
void pool_vectors(const float* staged, int64_t row_stride, int64_t channels, __m256i last,
                  const BinTaps* bins, int64_t count, float* result) {
  for (int64_t b = 0; b < count; ++b) {
    const BinTaps& bin = bins[b];
    __m256 sums[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sums[v] = _mm256_setzero_ps();
    for (int64_t i = 0; i < bin.row_count; ++i) {
      const float* row = staged + bin.first + bin.rows[i].index * row_stride;
      const float row_weight = bin.rows[i].weight;
      for (int64_t j = 0; j < bin.column_count; ++j) {
        const float* pixel = row + bin.columns[j].index * channels;
        const __m256 weight = _mm256_set1_ps(row_weight * bin.columns[j].weight);
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) {
          const float* source = pixel + v * kWidth;
          const __m256 values = kCut && v == kVectors - 1 ? _mm256_maskload_ps(source, last)
                                                          : _mm256_loadu_ps(source);
          sums[v] = _mm256_fmadd_ps(weight, values, sums[v]);
        }
      }
    }
    const __m256 scale = _mm256_set1_ps(bin.scale);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      _mm256_storeu_ps(result + b * kRoIPoolChannels + v * kWidth, _mm256_mul_ps(sums[v], scale));
    }
  }
}

template <int kVectors>
void pool_channels(const float* staged, int64_t row_stride, int64_t channels, const BinTaps* bins,
                   int64_t count, float* result) {
  const int64_t cut = channels % kWidth;
  if (cut != 0) {
    pool_vectors<kVectors, true>(staged, row_stride, channels, first_lanes(cut), bins, count,
                                 result);
  } else {
    pool_vectors<kVectors, false>(staged, row_stride, channels, __m256i{}, bins, count, result);
  }
}

void pool(const float* staged, int64_t row_stride, int64_t channels, const BinTaps* bins,
          int64_t count, float* result) {
  switch ((channels + kWidth - 1) / kWidth) {
    case 1:
      return pool_channels<1>(staged, row_stride, channels, bins, count, result);
    case 2:
      return pool_channels<2>(staged, row_stride, channels, bins, count, result);
    case 3:
      return pool_channels<3>(staged, row_stride, channels, bins, count, result);
    case 4:
      return pool_channels<4>(staged, row_stride, channels, bins, count, result);
    case 5:
      return pool_channels<5>(staged, row_stride, channels, bins, count, result);
    case 6:
      return pool_channels<6>(staged, row_stride, channels, bins, count, result);
    case 7:
      return pool_channels<7>(staged, row_stride, channels, bins, count, result);
    default:
      return pool_channels<8>(staged, row_stride, channels, bins, count, result);
  }
}

template <typename Storage>
void store(const float* result, int64_t channels, int64_t count, int64_t channel_stride, void* y) {
  auto* values = static_cast<typename Storage::Type*>(y);
  for (int64_t c = 0; c < channels; c += kWidth) {
    const int64_t lanes = channels - c < kWidth ? channels - c : kWidth;
    for (int64_t b = 0; b < count; b += kWidth) {
      const int64_t bins = count - b < kWidth ? count - b : kWidth;
      __m256 block[8];
      for (int i = 0; i < 8; ++i) {
        // Bins beyond the last: that one again, and not stored.
        const int64_t bin = b + i < count ? b + i : count - 1;
        block[i] = _mm256_loadu_ps(result + bin * kRoIPoolChannels + c);
      }
      transpose(block);
      if (bins == kWidth && lanes == kWidth) {
        for (int i = 0; i < 8; ++i) {
          Storage::store8(block[i], values + (c + i) * channel_stride + b);
        }
        continue;
      }
      alignas(32) float rows[8][8];
      for (int i = 0; i < 8; ++i) _mm256_store_ps(rows[i], block[i]);
      for (int64_t lane = 0; lane < lanes; ++lane) {
        for (int64_t i = 0; i < bins; ++i) {
          values[(c + lane) * channel_stride + b + i] = Storage::store(rows[lane][i]);
        }
      }
    }
  }
}

}  // namespace

const RoIPoolKernels kAvx2RoIPoolKernels = {
    {stage<Float32>, stage<Float16>, stage<BFloat16>},
    pool,
    {store<Float32>, store<Float16>, store<BFloat16>},
    {pool_direct<Float32>, pool_direct<Float16>, pool_direct<BFloat16>},
};

}  // namespace cpu
}  // namespace dcn_deploy
