// Where one tap of the filter samples for one output pixel: four pixels of the map and their
// weights.

#ifndef DCN_DEPLOY_CORE_CUDA_SAMPLING_CUH_
#define DCN_DEPLOY_CORE_CUDA_SAMPLING_CUH_

#include "core/bilinear.h"
#include "core/cuda/device.cuh"
#include "core/cuda/number.cuh"

namespace dcn_deploy {
namespace cuda {

// A corner outside the map has the pixel kOutside, is never read, and counts as zero: a weight of
// zero would not do, since the pixel may be NaN or infinite.
constexpr int32_t kOutside = -1;

// Corners are ordered top left, top right, bottom left, bottom right.
struct Corners {
  Vec16 pixels;   // int32: row · width + column
  Vec16 weights;  // float32, the modulation mask multiplied in
};

__device__ __forceinline__ Corners corners_nowhere() {
  const uint32_t outside = static_cast<uint32_t>(kOutside);
  return {{outside, outside, outside, outside}, {0, 0, 0, 0}};
}

// Unsigned: rows and columns that are not on the map may be anything.
__device__ __forceinline__ uint32_t corner_pixel(bool on_map, uint32_t first_of_row,
                                                 uint32_t column) {
  return on_map ? first_of_row + column : static_cast<uint32_t>(kOutside);
}

// The sample at (base_y + y, base_x + x) of a map of height × width pixels.
__device__ __forceinline__ Corners locate(int32_t base_y, int32_t base_x, float y, float x,
                                          float mask, int32_t height, int32_t width) {
  const BilinearAxis v = bilinear_axis(base_y, y, height);
  const BilinearAxis h = bilinear_axis(base_x, x, width);
  const uint32_t first_row = static_cast<uint32_t>(v.first) * static_cast<uint32_t>(width);
  const uint32_t second_row = first_row + static_cast<uint32_t>(width);
  const uint32_t first = static_cast<uint32_t>(h.first);
  Corners corners;
  corners.pixels.x = corner_pixel(v.has_first && h.has_first, first_row, first);
  corners.pixels.y = corner_pixel(v.has_first && h.has_second, first_row, first + 1);
  corners.pixels.z = corner_pixel(v.has_second && h.has_first, second_row, first);
  corners.pixels.w = corner_pixel(v.has_second && h.has_second, second_row, first + 1);
  corners.weights.x = float_to_bits(v.weight_first * h.weight_first * mask);
  corners.weights.y = float_to_bits(v.weight_first * h.weight_second * mask);
  corners.weights.z = float_to_bits(v.weight_second * h.weight_first * mask);
  corners.weights.w = float_to_bits(v.weight_second * h.weight_second * mask);
  return corners;
}

}  // namespace cuda
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_CORE_CUDA_SAMPLING_CUH_
