// Weights in the order in which the kernels read them, and the scales of int8.

#ifndef DCN_DEPLOY_CORE_CUDA_DEFORM_CONV2D_PACK_CUH_
#define DCN_DEPLOY_CORE_CUDA_DEFORM_CONV2D_PACK_CUH_

#include "core/cuda/device.cuh"
#include "core/cuda/number.cuh"

namespace dcn_deploy {
namespace cuda {

constexpr int kPackThreads = 256;

struct PackArguments {
  const void* weight;
  void* packed;
  int64_t elements;  // of the result
  int64_t padded_rows;
  int32_t out_channels;
  int32_t group_rows;
  int32_t group_channels;
  int32_t taps;
  int32_t chunk_channels;
  int32_t chunks;
};

// How a packed element is written.
template <typename Storage>
struct PackSame {
  using Bits = typename Storage::Bits;
  static __device__ __forceinline__ Bits convert(typename Storage::Bits bits) { return bits; }
};
struct PackTf32 {
  using Bits = uint32_t;
  static __device__ __forceinline__ uint32_t convert(uint32_t bits) { return to_tf32(bits); }
};
template <typename Storage>
struct PackFloat32 {
  using Bits = uint32_t;
  static __device__ __forceinline__ uint32_t convert(typename Storage::Bits bits) {
    return float_to_bits(Storage::load(bits));
  }
};

// W [out_channels][group_channels][taps] → [group][tap][chunk][padded_rows][kDepth], zeros where
// there is no channel or row, and behind the last group. kDepth elements make up a row of 64 bytes.
template <typename Storage, typename Target, int kDepth>
__global__ void __launch_bounds__(kPackThreads) pack_fused(const PackArguments a) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kPackThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kPackThreads + threadIdx.x; i < a.elements;
       i += stride) {
    const int in_chunk = static_cast<int>(i % kDepth);
    int64_t rest = i / kDepth;
    const int64_t row = rest % a.padded_rows;
    rest /= a.padded_rows;
    const int chunk = static_cast<int>(rest % a.chunks);
    rest /= a.chunks;
    const int tap = static_cast<int>(rest % a.taps);
    const int64_t group = rest / a.taps;
    const int channel = chunk * a.chunk_channels + in_chunk;
    typename Target::Bits value = 0;
    const int64_t out_channel = group * a.group_rows + row;
    if (in_chunk < a.chunk_channels && channel < a.group_channels && row < a.group_rows &&
        out_channel < a.out_channels) {
      const int64_t source = (out_channel * a.group_channels + channel) * a.taps + tap;
      value = Target::convert(static_cast<const typename Storage::Bits*>(a.weight)[source]);
    }
    static_cast<typename Target::Bits*>(a.packed)[i] = value;
  }
}

// W [out_channels][group_channels][taps] → [tap][group_channels][out_channels], as Target: float32,
// or int32 for int8.
template <typename Storage, typename Target>
__global__ void __launch_bounds__(kPackThreads) pack_direct(const PackArguments a) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kPackThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kPackThreads + threadIdx.x; i < a.elements;
       i += stride) {
    const int64_t row = i % a.out_channels;
    const int64_t rest = i / a.out_channels;
    const int64_t source =
        (row * a.group_channels + rest % a.group_channels) * a.taps + rest / a.group_channels;
    static_cast<Target*>(a.packed)[i] = static_cast<Target>(
        Storage::load(static_cast<const typename Storage::Bits*>(a.weight)[source]));
  }
}

constexpr int kScalesOfLaunch = 256;

// By value, so that nothing of the host's has to live until the kernel runs.
struct ScaleArguments {
  float weight_scale[kScalesOfLaunch];
  float x_scale;
  bool same;  // weight_scale[0] for all
  int32_t count;
  float* scale;
};

// x_scale · weight_scale → scale.
__global__ void __launch_bounds__(kScalesOfLaunch)
    write_scale(DCN_DEPLOY_KERNEL_PARAMETER ScaleArguments a) {
  const int i = static_cast<int>(threadIdx.x);
  if (i < a.count) a.scale[i] = a.x_scale * a.weight_scale[a.same ? 0 : i];
}

}  // namespace cuda
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_CORE_CUDA_DEFORM_CONV2D_PACK_CUH_
