// The inner loops in plain C++: they define what the other sets compute, up to the rounding of
// fused operations.

#include <cstdint>

#include "core/bilinear.h"
#include "core/cpu/kernels.h"
#include "core/cpu/roi_pool_kernels.h"
#include "core/cpu/storage_portable.h"
#include "core/half.h"

namespace dcn_deploy {
namespace cpu {
namespace {

constexpr int64_t kRows = 4;
constexpr int64_t kColumns = 8;
static_assert(kTilePixels % kColumns == 0, "a tile holds whole register blocks");

template <typename Storage>
void load(const void* source, int64_t count, float* destination) {
  const auto* values = static_cast<const typename Storage::Type*>(source);
  for (int64_t i = 0; i < count; ++i) destination[i] = Storage::load(values[i]);
}

template <typename Storage>
void store(const float* source, float bias, int64_t count, void* destination) {
  auto* values = static_cast<typename Storage::Type*>(destination);
  for (int64_t i = 0; i < count; ++i) values[i] = Storage::store(source[i] + bias);
}

// The pair of neighbours that holds an axis' pixels, moved inside the map (see TapPositions).
struct Pair {
  int32_t first;
  float weight[2];
  bool keep[2];
};

Pair pair_of(const BilinearAxis& axis, int32_t width) {
  if (axis.first < 0) return {0, {axis.weight_second, 0.0f}, {axis.has_second, false}};
  if (axis.first > width - 2) {
    const int32_t first = width > 1 ? width - 2 : 0;
    return {first, {0.0f, axis.weight_first}, {false, axis.has_first}};
  }
  return {axis.first, {axis.weight_first, axis.weight_second}, {axis.has_first, axis.has_second}};
}

uint32_t keep_bits(bool keep) { return keep ? 0xffffffffu : 0u; }

void locate(MapExtent map, const int32_t* tap_y, const int32_t* tap_x, const float* y,
            const float* x, const float* mask, int64_t count, TapPositions* positions) {
  for (int64_t p = 0; p < count; ++p) {
    const BilinearAxis vertical = bilinear_axis(tap_y[p], y[p], map.height);
    const BilinearAxis horizontal = bilinear_axis(tap_x[p], x[p], map.width);
    const Pair pair = pair_of(horizontal, map.width);
    const int32_t row_above = vertical.first < 0 ? 0 : vertical.first;
    const int32_t row_below = vertical.first + 1 < map.height ? vertical.first + 1 : map.height - 1;
    positions->above[p] = row_above * map.width + pair.first;
    positions->below[p] = row_below * map.width + pair.first;
    const float modulation = mask != nullptr ? mask[p] : 1.0f;
    for (int side = 0; side < 2; ++side) {
      const int64_t i = 2 * p + side;
      positions->weight_above[i] = vertical.weight_first * pair.weight[side] * modulation;
      positions->weight_below[i] = vertical.weight_second * pair.weight[side] * modulation;
      positions->keep_above[i] = keep_bits(vertical.has_first && pair.keep[side]);
      positions->keep_below[i] = keep_bits(vertical.has_second && pair.keep[side]);
    }
  }
  for (int64_t lane = 0; lane < count / kLanes; ++lane) {
    uint32_t all = 0xffffffffu;
    for (int64_t i = 2 * lane * kLanes; i < 2 * (lane + 1) * kLanes; ++i) {
      all &= positions->keep_above[i] & positions->keep_below[i];
    }
    positions->inside[lane] = all != 0 ? 1 : 0;
  }
}

template <typename Storage>
float kept(typename Storage::Type value, uint32_t keep) {
  return float_from_bits(float_bits(Storage::load(value)) & keep);
}

template <typename Storage>
void sample(const void* channel, int32_t step, const TapPositions* positions, int64_t taps,
            int64_t count, float* panel, int64_t panel_stride) {
  const auto* pixels = static_cast<const typename Storage::Type*>(channel);
  for (int64_t tap = 0; tap < taps; ++tap) {
    const TapPositions& at = positions[tap];
    for (int64_t p = 0; p < count; ++p) {
      const auto* above = pixels + at.above[p];
      const auto* below = pixels + at.below[p];
      const int64_t left = 2 * p;
      const int64_t right = 2 * p + 1;
      const float sum_left = kept<Storage>(above[0], at.keep_above[left]) * at.weight_above[left] +
                             kept<Storage>(below[0], at.keep_below[left]) * at.weight_below[left];
      const float sum_right =
          kept<Storage>(above[step], at.keep_above[right]) * at.weight_above[right] +
          kept<Storage>(below[step], at.keep_below[right]) * at.weight_below[right];
      panel[(p / kColumns) * panel_stride + tap * kColumns + p % kColumns] = sum_left + sum_right;
    }
  }
}

void multiply(int64_t depth, const float* weight, const float* panel, bool accumulate,
              float* block) {
  float sum[kRows][kColumns] = {};
  for (int64_t k = 0; k < depth; ++k) {
    for (int64_t row = 0; row < kRows; ++row) {
      for (int64_t column = 0; column < kColumns; ++column) {
        sum[row][column] += weight[k * kRows + row] * panel[k * kColumns + column];
      }
    }
  }
  for (int64_t row = 0; row < kRows; ++row) {
    for (int64_t column = 0; column < kColumns; ++column) {
      float* result = block + row * kColumns + column;
      *result = accumulate ? *result + sum[row][column] : sum[row][column];
    }
  }
}

}  // namespace

const Kernels kPortableKernels = {
    "portable",
    kRows,
    kColumns,
    {load<Float32>, load<Float16>, load<BFloat16>},
    {store<Float32>, store<Float16>, store<BFloat16>},
    locate,
    {sample<Float32>, sample<Float16>, sample<BFloat16>},
    multiply,
    &kPortableRoIPoolKernels,
};

}  // namespace cpu
}  // namespace dcn_deploy
