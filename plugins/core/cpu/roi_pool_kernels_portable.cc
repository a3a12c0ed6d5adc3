// The inner loops of RoI pooling in plain C++: they define what the other sets compute, up to the
// rounding of fused operations.

#include "core/cpu/roi_pool_kernels.h"
#include "core/cpu/roi_pool_loops.h"
#include "core/cpu/storage_portable.h"

namespace dcn_deploy {
namespace cpu {
namespace {

template <typename Storage>
void stage(const void* source, int64_t channel_stride, int64_t channels, int64_t count,
           float* staged) {
  const auto* pixels = static_cast<const typename Storage::Type*>(source);
  for (int64_t p = 0; p < count; ++p) {
    for (int64_t c = 0; c < channels; ++c) {
      staged[p * channels + c] = Storage::load(pixels[c * channel_stride + p]);
    }
  }
}

void pool(const float* staged, int64_t row_stride, int64_t channels, const BinTaps* bins,
          int64_t count, float* result) {
  for (int64_t b = 0; b < count; ++b) {
    const BinTaps& bin = bins[b];
    float* sums = result + b * kRoIPoolChannels;
    for (int64_t c = 0; c < channels; ++c) sums[c] = 0.0f;
    for (int64_t i = 0; i < bin.row_count; ++i) {
      const float* row = staged + bin.first + bin.rows[i].index * row_stride;
      for (int64_t j = 0; j < bin.column_count; ++j) {
        const float weight = bin.rows[i].weight * bin.columns[j].weight;
        const float* pixel = row + bin.columns[j].index * channels;
        for (int64_t c = 0; c < channels; ++c) sums[c] += weight * pixel[c];
      }
    }
    for (int64_t c = 0; c < channels; ++c) sums[c] *= bin.scale;
  }
}

template <typename Storage>
void store(const float* result, int64_t channels, int64_t count, int64_t channel_stride, void* y) {
  auto* values = static_cast<typename Storage::Type*>(y);
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t b = 0; b < count; ++b) {
      values[c * channel_stride + b] = Storage::store(result[b * kRoIPoolChannels + c]);
    }
  }
}

}  // namespace

const RoIPoolKernels kPortableRoIPoolKernels = {
    {stage<Float32>, stage<Float16>, stage<BFloat16>},
    pool,
    {store<Float32>, store<Float16>, store<BFloat16>},
    {pool_direct<Float32>, pool_direct<Float16>, pool_direct<BFloat16>},
};

}  // namespace cpu
}  // namespace dcn_deploy
