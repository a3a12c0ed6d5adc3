// Deformable convolution with one thread for an output element: depthwise, and groups too narrow
// for a product.
//
// A block computes kDirectRows output channels × kDirectPixels output pixels. For one tap after the
// other its threads locate the samples of all offset groups that it needs, in shared memory, and
// then each thread samples the channels of its outputs' groups itself.

#ifndef DCN_DEPLOY_CORE_CUDA_DEFORM_CONV2D_DIRECT_CUH_
#define DCN_DEPLOY_CORE_CUDA_DEFORM_CONV2D_DIRECT_CUH_

#include "core/cuda/deform_conv2d_kernel.h"
#include "core/cuda/deform_conv2d_output.cuh"
#include "core/cuda/deform_conv2d_places.cuh"
#include "core/cuda/device.cuh"
#include "core/cuda/number.cuh"
#include "core/cuda/sampling.cuh"

namespace dcn_deploy {
namespace cuda {

constexpr int kDirectRows = 32;
constexpr int kDirectPixels = 32;
constexpr int kDirectThreads = 128;
// More offset groups than this in a block are located by each thread for itself.
constexpr int kDirectOffsetSlots = 16;

constexpr int direct_shared_bytes(int offset_slots) {
  return kDirectPixels * static_cast<int>(sizeof(Vec16)) * (1 + 2 * offset_slots);
}

template <typename Storage, bool kNhwc>
class DirectDeformConv2d {
 public:
  __device__ __forceinline__ DirectDeformConv2d(const DeformConv2dArguments& arguments,
                                                unsigned char* shared)
      : a_(arguments),
        pixel_info_(reinterpret_cast<Vec16*>(shared)),
        corners_(pixel_info_ + kDirectPixels),
        thread_(static_cast<int>(threadIdx.x)) {}

  __device__ __forceinline__ void run() {
    const int64_t block = blockIdx.x;
    first_row_ = static_cast<int>(block % a_.row_tiles) * kDirectRows;
    first_pixel_ = block / a_.row_tiles * kDirectPixels;
    rows_ = a_.out_channels - first_row_ < kDirectRows ? a_.out_channels - first_row_ : kDirectRows;
    const int last_row = first_row_ + rows_ - 1;
    first_offset_group_ = offset_group_of(first_row_ / a_.group_rows * a_.group_channels);
    const int slots = offset_group_of((last_row / a_.group_rows + 1) * a_.group_channels - 1) -
                      first_offset_group_ + 1;
    set_pixel_info();
    Sum totals[kOutputs] = {};
#pragma unroll 1
    for (int tap = 0; tap < a_.taps; ++tap) {
      block_barrier();
      if (a_.offset_slots > 0) {
        for (int i = thread_; i < slots * kDirectPixels; i += kDirectThreads) {
          const Corners corners = locate(i / kDirectPixels, tap, i % kDirectPixels);
          shared_store(corner_pixels(i / kDirectPixels, i % kDirectPixels), corners.pixels);
          shared_store(corner_pixels(i / kDirectPixels, i % kDirectPixels) + kDirectPixels,
                       corners.weights);
        }
        if (!DCN_DEPLOY_FAULT(6)) block_barrier();
      }
#pragma unroll
      for (int i = 0; i < kOutputs; ++i) {
        // Taps are summed apart: the error of a sum grows with its longest chain of additions.
        if (exists(i)) totals[i] += sum_of_tap(first_row_ + row_of(i), pixel_of(i), tap);
      }
    }
#pragma unroll
    for (int i = 0; i < kOutputs; ++i) {
      if (exists(i)) store(first_row_ + row_of(i), pixel_of(i), totals[i]);
    }
  }

 private:
  using Bits = typename Storage::Bits;
  using Sum = typename Output<Storage>::Sum;
  static constexpr int kOutputs = kDirectRows * kDirectPixels / kDirectThreads;

  // Neighbouring threads have neighbouring channels in NHWC, neighbouring pixels in NCHW.
  __device__ __forceinline__ int row_of(int i) const {
    const int index = thread_ + i * kDirectThreads;
    return kNhwc ? index % kDirectRows : index / kDirectPixels;
  }
  __device__ __forceinline__ int pixel_of(int i) const {
    const int index = thread_ + i * kDirectThreads;
    return kNhwc ? index / kDirectRows : index % kDirectPixels;
  }
  __device__ __forceinline__ bool exists(int i) const {
    return row_of(i) < rows_ && first_pixel_ + pixel_of(i) < a_.pixels;
  }
  __device__ __forceinline__ int offset_group_of(int channel) const {
    return cuda::offset_group_of(a_, channel);
  }
  __device__ __forceinline__ Vec16* corner_pixels(int slot, int pixel) const {
    return corners_ + slot * 2 * kDirectPixels + pixel;
  }

  __device__ __forceinline__ void set_pixel_info() {
    for (int i = thread_; i < kDirectPixels; i += kDirectThreads) {
      shared_store(&pixel_info_[i], pixel_info(a_, first_pixel_ + i));
    }
  }

  __device__ __forceinline__ Corners locate(int slot, int tap, int pixel) const {
    return cuda::locate(a_, shared_load(&pixel_info_[pixel]), first_offset_group_ + slot, tap);
  }

  // Of the channel whose first pixel is at `map`. All corners are read before any is waited for.
  __device__ __forceinline__ float sample(const Corners& corners, const unsigned char* map) const {
    const Bits x = read(map, corners.pixels.x);
    const Bits y = read(map, corners.pixels.y);
    const Bits z = read(map, corners.pixels.z);
    const Bits w = read(map, corners.pixels.w);
    return bits_to_float(corners.weights.x) * Storage::load(x) +
           bits_to_float(corners.weights.y) * Storage::load(y) +
           bits_to_float(corners.weights.z) * Storage::load(z) +
           bits_to_float(corners.weights.w) * Storage::load(w);
  }

  // The bits of 0 are 0 in every type.
  __device__ __forceinline__ Bits read(const unsigned char* map, uint32_t pixel) const {
    if (static_cast<int32_t>(pixel) == kOutside) return 0;
    return *reinterpret_cast<const Bits*>(map + static_cast<uint64_t>(pixel) * a_.pixel_bytes);
  }

  // A sample as it is multiplied.
  static __device__ __forceinline__ Sum factor(float sample) {
    if constexpr (Storage::kDType == DType::kInt8) {
      return static_cast<int8_t>(Storage::store(sample));
    } else {
      return sample;
    }
  }

  // Weights are packed as Sum, [tap][channel of the group][out_channels].
  __device__ __forceinline__ Sum sum_of_tap(int row, int pixel, int tap) const {
    const int first_channel = a_.by_group_rows.divide(row) * a_.group_channels;
    const int64_t image = static_cast<int32_t>(shared_load(&pixel_info_[pixel]).x);
    const unsigned char* map =
        static_cast<const unsigned char*>(a_.x) +
        (image * a_.in_channels * a_.in_h * a_.in_w) * static_cast<int>(sizeof(Bits)) +
        first_channel * a_.channel_bytes;
    const Sum* weights = static_cast<const Sum*>(a_.packed) +
                         static_cast<int64_t>(tap) * a_.group_channels * a_.out_channels + row;
    Sum sum = 0;
    int slot = -1;
    Corners corners = corners_nowhere();
    for (int c = 0; c < a_.group_channels; ++c) {
      const int own = offset_group_of(first_channel + c) - first_offset_group_;
      if (own != slot) {
        slot = own;
        if (a_.offset_slots > 0) {
          corners.pixels = shared_load(corner_pixels(slot, pixel));
          corners.weights = shared_load(corner_pixels(slot, pixel) + kDirectPixels);
        } else {
          corners = locate(slot, tap, pixel);
        }
      }
      sum += weights[static_cast<int64_t>(c) * a_.out_channels] *
             factor(sample(corners, map + c * a_.channel_bytes));
    }
    return sum;
  }

  __device__ __forceinline__ void store(int row, int pixel, Sum sum) const {
    const Vec16 info = shared_load(&pixel_info_[pixel]);
    const float value = Output<Storage>(a_, row).value(sum);
    const int64_t image = static_cast<int32_t>(info.x);
    const int64_t target =
        a_.y_is_nhwc
            ? (image * a_.out_plane + static_cast<int32_t>(info.y)) * a_.out_channels + row
            : (image * a_.out_channels + row) * a_.out_plane + static_cast<int32_t>(info.y);
    Output<Storage>::store(a_, target, value);
  }

  const DeformConv2dArguments& a_;
  Vec16* const pixel_info_;
  Vec16* const corners_;
  const int thread_;
  int64_t first_pixel_;
  int first_row_;
  int rows_;
  int first_offset_group_;
};

template <typename Storage, bool kNhwc>
__global__ void __launch_bounds__(kDirectThreads, 5)
    direct_deform_conv2d(DCN_DEPLOY_KERNEL_PARAMETER DeformConv2dArguments arguments) {
  DCN_DEPLOY_DYNAMIC_SHARED(shared);
  DirectDeformConv2d<Storage, kNhwc>(arguments, shared).run();
}

}  // namespace cuda
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_CORE_CUDA_DEFORM_CONV2D_DIRECT_CUH_
