#include <algorithm>
#include <cinttypes>
#include <limits>

#include "core/cuda/deform_conv2d.h"
#include "core/cuda/deform_conv2d_direct.cuh"
#include "core/cuda/deform_conv2d_fused.cuh"
#include "core/cuda/deform_conv2d_fused_kernels.h"
#include "core/cuda/deform_conv2d_pack.cuh"
#include "core/dtype_check.h"

namespace dcn_deploy {
namespace cuda {
namespace {

constexpr std::int64_t kMaxInt32 = std::numeric_limits<std::int32_t>::max();
constexpr float kLargestFloat = std::numeric_limits<float>::max();
// Rows of the packed weights come in whole blocks of the matrix instructions.
constexpr std::int64_t kRowAlignment = 16;
// Below so many products for a sample and tap a product on tiles of 64 rows is mostly padding.
constexpr std::int64_t kFewestProducts = 256;
// Tensor-core instructions with float32 sums of 16-bit products 16 deep, bfloat16 and asynchronous
// copies.
constexpr int kTensorComputeCapability = 80;

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Elements of a row of an operand in shared memory.
int depth_of(Algorithm algorithm, DType dtype) {
  return algorithm == Algorithm::kTensor ? kRowBytes / static_cast<int>(size_of(dtype)) : 16;
}

struct FusedKernels {
  const FusedKernel* kernels;
  int count;
};

FusedKernels fused_kernels(Algorithm algorithm, DType dtype) {
  if (algorithm == Algorithm::kTensor) {
    switch (dtype) {
      case DType::kFloat16:
        return {kTensorFloat16Kernels, kTensorTileCount};
      case DType::kBFloat16:
        return {kTensorBFloat16Kernels, kTensorTileCount};
      case DType::kInt8:
        return {kTensorInt8Kernels, kTensorTileCount};
      default:
        return {kTensorTf32Kernels, kTensorTileCount};
    }
  }
  switch (dtype) {
    case DType::kFloat16:
      return {kSimtFloat16Kernels, kSimtTileCount};
    case DType::kBFloat16:
      return {kSimtBFloat16Kernels, kSimtTileCount};
    case DType::kInt8:
      return {kSimtInt8Kernels, kSimtTileCount};
    default:
      return {kSimtFloat32Kernels, kSimtTileCount};
  }
}

Status check_range(const char* what, std::int64_t value) {
  if (value <= kMaxInt32) return {};
  return make_status(StatusCode::kTooLarge, "%s: expected at most 2^31 - 1 on a GPU, got %" PRId64,
                     what, value);
}

Status check_sizes(const DeformConv2dParams& p) {
  DCN_DEPLOY_RETURN_IF_ERROR(check_range("batch", p.batch));
  DCN_DEPLOY_RETURN_IF_ERROR(check_range("channels of X", p.in_channels));
  // Of float32, in NHWC: from one pixel to the next.
  DCN_DEPLOY_RETURN_IF_ERROR(check_range("bytes of all channels of X", 4 * p.in_channels));
  DCN_DEPLOY_RETURN_IF_ERROR(check_range("output channels", p.out_channels));
  DCN_DEPLOY_RETURN_IF_ERROR(check_range("taps of the kernel", p.kernel_h * p.kernel_w));
  DCN_DEPLOY_RETURN_IF_ERROR(check_range("pixels of a channel of X", p.in_h * p.in_w));
  DCN_DEPLOY_RETURN_IF_ERROR(check_range("pixels of a channel of Y", p.out_h * p.out_w));
  std::int64_t places;
  if (__builtin_mul_overflow(p.batch * p.offset_group, p.kernel_h * p.kernel_w, &places)) {
    places = std::numeric_limits<std::int64_t>::max();
  }
  return check_range("taps of all offset groups of all images", places);
}

// What int8 features ask for.
Status check_quantised(const DeformConv2dParams& p, const DeformConv2dOptions& options) {
  // Of products of at most 2^14 each; more could leave int32.
  constexpr std::int64_t kMostProducts = kMaxInt32 >> 14;
  const std::int64_t products = p.in_channels / p.group * p.kernel_h * p.kernel_w;
  if (products > kMostProducts) {
    return make_status(StatusCode::kTooLarge,
                       "int8 products of an output element: expected at most %" PRId64
                       ", whose sum fits in 32 bits, got %" PRId64
                       ". Use a floating-point type, or more groups",
                       kMostProducts, products);
  }
  const bool positive = options.y_scale > 0 && options.y_scale <= kLargestFloat;
  if (options.y_dtype != DType::kInt8 || positive) return {};
  return make_status(StatusCode::kInvalidArgument,
                     "scale of Y: expected a positive, finite number, got %g",
                     static_cast<double>(options.y_scale));
}

Algorithm choose_algorithm(const DeformConv2dParams& p, DType dtype, const Device& device,
                           const DeformConv2dOptions& options) {
  if ((p.in_channels / p.group) * (p.out_channels / p.group) < kFewestProducts)
    return Algorithm::kDirect;
  const bool has_tensor_type = dtype != DType::kFloat32 || options.allow_tf32;
  return has_tensor_type && device.compute_capability >= kTensorComputeCapability
             ? Algorithm::kTensor
             : Algorithm::kSimt;
}

// The most offset groups that one step of the sum touches.
std::int64_t offset_slots(const DeformConv2dParams& p, std::int64_t chunk_channels) {
  const std::int64_t group_channels = p.in_channels / p.group;
  const std::int64_t offset_group_channels = p.in_channels / p.offset_group;
  std::int64_t most = 1;
  for (std::int64_t group = 0; group < p.group; ++group) {
    for (std::int64_t c = 0; c < group_channels; c += chunk_channels) {
      const std::int64_t first = group * group_channels + c;
      const std::int64_t last = first + std::min(chunk_channels, group_channels - c) - 1;
      most = std::max(most, last / offset_group_channels - first / offset_group_channels + 1);
    }
  }
  return most;
}

// Elements of a unit of 16 bytes of shared memory.
std::int64_t unit_elements(const DeformConv2dPlan& plan) {
  return depth_of(plan.algorithm, plan.dtype) / kRowUnits;
}

bool has_whole_units(const DeformConv2dPlan& plan) {
  const DeformConv2dParams& p = plan.params;
  const std::int64_t elements = unit_elements(plan);
  return p.in_channels / p.group % elements == 0 &&
         p.in_channels / p.offset_group % elements == 0 && plan.chunk_channels % elements == 0;
}

// Clocks from one step of a block to its next beside those in which it issues: barriers, and reads
// that are waited for. Other blocks of the multiprocessor use them.
constexpr std::int64_t kStepLatency = 400;
// Before the first step of a block and behind its last, and for the blocks of a cluster to read
// each other's sums.
constexpr std::int64_t kBlockLatency = 3000;
constexpr std::int64_t kClusterLatency = 2000;
// Instructions of a warp that locates 32 samples.
constexpr std::int64_t kLocateInstructions = 150;
constexpr std::int64_t kWarpSchedulers = 4;

// Clocks that a launch takes with a tile whose sum so many blocks share: an estimate, not measured,
// which is only compared with others'.
std::int64_t estimated_clocks(const DeformConv2dPlan& plan, const FusedKernel& kernel,
                              std::int64_t splits, const Device& device) {
  const DeformConv2dParams& p = plan.params;
  // What a misaligned X costs is not known before a launch.
  const FusedCost& cost =
      plan.x_layout == Layout::kNhwc && has_whole_units(plan) ? kernel.by_unit : kernel.by_element;
  const std::int64_t taps = p.kernel_h * p.kernel_w;
  const std::int64_t all_steps = taps * plan.chunks;
  // Those that sample elsewhere than the step before.
  const std::int64_t locating =
      plan.offset_slots > 1
          ? all_steps
          : taps * std::min<std::int64_t>(plan.chunks, ceil_div(p.offset_group, p.group));
  const std::int64_t warps = plan.offset_slots * kernel.tile.pixels / kWarpSize;
  const std::int64_t clocks = cost.step_clocks + warps * kLocateInstructions / kWarpSchedulers *
                                                     locating /
                                                     std::max<std::int64_t>(all_steps, 1);
  const std::int64_t steps = ceil_div(all_steps, splits);
  const std::int64_t tiles = ceil_div(p.batch * p.out_h * p.out_w, kernel.tile.pixels) *
                             ceil_div(p.out_channels / p.group, kernel.tile.rows) * p.group;
  // Of the multiprocessor that has most to do.
  const std::int64_t blocks = ceil_div(tiles * splits, std::max(device.multiprocessors, 1));
  const std::int64_t together = std::clamp<std::int64_t>(blocks, 1, cost.resident_blocks);
  const std::int64_t rounds = ceil_div(blocks, together);
  const std::int64_t step = std::max<std::int64_t>(together * clocks, clocks + kStepLatency);
  return rounds * (steps * step + kBlockLatency + (splits > 1 ? kClusterLatency : 0));
}

// The tile and the number of blocks that share its sum.
Status choose_kernel(const Device& device, const DeformConv2dOptions& options,
                     DeformConv2dPlan* plan) {
  const DeformConv2dParams& p = plan->params;
  const std::int64_t steps = p.kernel_h * p.kernel_w * plan->chunks;
  const std::int64_t most_splits = std::min<std::int64_t>(device.cluster_blocks, steps);
  if (options.splits < 0 || options.splits > most_splits) {
    return make_status(StatusCode::kInvalidArgument,
                       "blocks that share a sum: expected at most %" PRId64
                       ", of a device with clusters of %d and a sum of %" PRId64 " steps, got %d",
                       most_splits, device.cluster_blocks, steps, options.splits);
  }
  const FusedKernels table = fused_kernels(plan->algorithm, plan->dtype);
  const bool forced = options.tile.rows != 0;
  std::int64_t least = std::numeric_limits<std::int64_t>::max();
  plan->splits = 0;
  for (int i = 0; i < table.count; ++i) {
    const FusedKernel& kernel = table.kernels[i];
    if (forced &&
        (kernel.tile.rows != options.tile.rows || kernel.tile.pixels != options.tile.pixels)) {
      continue;
    }
    const std::size_t shared_bytes = kernel.shared_bytes(plan->offset_slots);
    if (shared_bytes > device.shared_bytes_per_block) continue;
    const std::int64_t first = options.splits > 0 ? options.splits : 1;
    const std::int64_t last = options.splits > 0 ? options.splits : most_splits;
    for (std::int64_t splits = first; splits <= last; splits *= 2) {
      const std::int64_t clocks = estimated_clocks(*plan, kernel, splits, device);
      if (clocks >= least) continue;
      least = clocks;
      plan->tile = kernel.tile;
      plan->splits = static_cast<std::int32_t>(splits);
      plan->estimated_clocks = clocks;
      plan->shared_bytes = shared_bytes;
    }
  }
  if (plan->splits > 0) return {};
  return make_status(StatusCode::kInvalidArgument,
                     "tile of %dx%d: expected one that exists for this type and fits in %zu "
                     "bytes of shared memory, "
                     "got one that does not",
                     options.tile.rows, options.tile.pixels, device.shared_bytes_per_block);
}

Status plan_fused(const Device& device, const DeformConv2dOptions& options,
                  DeformConv2dPlan* plan) {
  const DeformConv2dParams& p = plan->params;
  const std::int64_t group_channels = p.in_channels / p.group;
  const std::int64_t group_rows = p.out_channels / p.group;
  const std::int64_t offset_group_channels = p.in_channels / p.offset_group;
  const std::int64_t depth = depth_of(plan->algorithm, plan->dtype);
  const std::int64_t chunk_channels =
      offset_group_channels >= depth
          ? depth
          : std::min(depth, std::int64_t{kMaxOffsetSlots} * offset_group_channels);
  plan->chunk_channels = static_cast<std::int32_t>(chunk_channels);
  plan->chunks = static_cast<std::int32_t>(ceil_div(group_channels, chunk_channels));
  plan->offset_slots = static_cast<std::int32_t>(offset_slots(p, chunk_channels));
  plan->padded_rows = ceil_div(group_rows, kRowAlignment) * kRowAlignment;
  DCN_DEPLOY_RETURN_IF_ERROR(check_range(
      "steps of the sum", p.kernel_h * p.kernel_w * static_cast<std::int64_t>(plan->chunks)));
  // Of the last step, a tile's rows that are not there: whatever tile is chosen.
  constexpr std::int64_t kSurplusBytes = (kLargestTileRows - kRowAlignment) * kRowBytes;
  std::int64_t bytes;
  if (__builtin_mul_overflow(p.group * p.kernel_h * p.kernel_w * plan->chunks,
                             plan->padded_rows * kRowBytes, &bytes) ||
      bytes > std::numeric_limits<std::int64_t>::max() - kSurplusBytes) {
    return make_status(StatusCode::kTooLarge,
                       "packed weights: expected a size that fits in 64 bits, got more");
  }
  plan->packed_bytes = static_cast<std::size_t>(bytes + kSurplusBytes);

  return choose_kernel(device, options, plan);
}

Status plan_direct(DeformConv2dPlan* plan) {
  const DeformConv2dParams& p = plan->params;
  const std::int64_t group_channels = p.in_channels / p.group;
  const std::int64_t group_rows = p.out_channels / p.group;
  const std::int64_t offset_group_channels = p.in_channels / p.offset_group;
  std::int64_t slots = 1;
  for (std::int64_t row = 0; row < p.out_channels; row += kDirectRows) {
    const std::int64_t last_row = std::min(row + kDirectRows, p.out_channels) - 1;
    const std::int64_t first = row / group_rows * group_channels / offset_group_channels;
    const std::int64_t last =
        ((last_row / group_rows + 1) * group_channels - 1) / offset_group_channels;
    slots = std::max(slots, last - first + 1);
  }
  plan->offset_slots = slots > kDirectOffsetSlots ? 0 : static_cast<std::int32_t>(slots);
  plan->tile = {kDirectRows, kDirectPixels};
  plan->padded_rows = p.out_channels;
  plan->shared_bytes = static_cast<std::size_t>(direct_shared_bytes(plan->offset_slots));
  std::int64_t bytes;
  if (__builtin_mul_overflow(p.kernel_h * p.kernel_w * group_channels,
                             p.out_channels * std::int64_t{4}, &bytes)) {
    return make_status(StatusCode::kTooLarge,
                       "packed weights: expected a size that fits in 64 bits, got more");
  }
  plan->packed_bytes = static_cast<std::size_t>(bytes);
  return {};
}

Status check_tensors(const DeformConv2dPlan& plan, const DeformConv2dTensors& tensors) {
  DCN_DEPLOY_RETURN_IF_ERROR(
      check_floating_point({{"offset", tensors.offset_dtype}, {"mask", tensors.mask_dtype}}));
  if (plan.dtype != DType::kInt8 || tensors.scale != nullptr) return {};
  return make_status(StatusCode::kInvalidArgument,
                     "int8 features: expected a scale for each output channel, got none");
}

DeformConv2dArguments arguments_of(const DeformConv2dPlan& plan, const DeformConv2dTensors& tensors,
                                   const void* packed) {
  const DeformConv2dParams& p = plan.params;
  DeformConv2dArguments a{};
  a.x = tensors.x;
  a.packed = packed;
  a.offset = tensors.offset;
  a.bias = tensors.bias;
  a.mask = tensors.mask;
  a.y = tensors.y;
  a.offset_dtype = tensors.offset_dtype;
  a.mask_dtype = tensors.mask_dtype;
  a.pixels = p.batch * p.out_h * p.out_w;
  a.padded_rows = plan.padded_rows;
  a.step_bytes = plan.padded_rows * kRowBytes;
  a.in_channels = static_cast<std::int32_t>(p.in_channels);
  a.in_h = static_cast<std::int32_t>(p.in_h);
  a.in_w = static_cast<std::int32_t>(p.in_w);
  a.out_channels = static_cast<std::int32_t>(p.out_channels);
  a.out_w = static_cast<std::int32_t>(p.out_w);
  a.out_plane = static_cast<std::int32_t>(p.out_h * p.out_w);
  a.kernel_w = static_cast<std::int32_t>(p.kernel_w);
  a.taps = static_cast<std::int32_t>(p.kernel_h * p.kernel_w);
  a.stride_h = static_cast<std::int32_t>(p.stride_h);
  a.stride_w = static_cast<std::int32_t>(p.stride_w);
  a.pad_top = static_cast<std::int32_t>(p.pad_top);
  a.pad_left = static_cast<std::int32_t>(p.pad_left);
  a.dilation_h = static_cast<std::int32_t>(p.dilation_h);
  a.dilation_w = static_cast<std::int32_t>(p.dilation_w);
  a.group = static_cast<std::int32_t>(p.group);
  a.group_channels = static_cast<std::int32_t>(p.in_channels / p.group);
  a.group_rows = static_cast<std::int32_t>(p.out_channels / p.group);
  a.by_kernel_w = Divisor(a.kernel_w);
  a.by_group_rows = Divisor(a.group_rows);
  a.offset_group = static_cast<std::int32_t>(p.offset_group);
  a.by_offset_group_channels = Divisor(static_cast<std::int32_t>(p.in_channels / p.offset_group));
  a.chunk_channels = plan.chunk_channels;
  a.chunks = plan.chunks;
  a.offset_slots = plan.offset_slots;
  a.row_tiles = static_cast<std::int32_t>(plan.algorithm == Algorithm::kDirect
                                              ? ceil_div(p.out_channels, plan.tile.rows)
                                              : ceil_div(a.group_rows, plan.tile.rows));
  const std::int64_t element_bytes = static_cast<std::int64_t>(size_of(plan.dtype));
  const bool nhwc = plan.x_layout == Layout::kNhwc;
  a.channel_bytes = element_bytes * (nhwc ? 1 : p.in_h * p.in_w);
  a.pixel_bytes = static_cast<std::uint32_t>(element_bytes * (nhwc ? p.in_channels : 1));
  a.chunk_bytes = plan.chunk_channels * a.channel_bytes;
  a.last_chunk_bytes = a.chunk_bytes * (plan.chunks - 1);
  a.y_is_nhwc = plan.y_layout == Layout::kNhwc;
  a.whole_units = plan.algorithm != Algorithm::kDirect && has_whole_units(plan);
  a.splits = plan.splits;
  a.plain_chunks = plan.algorithm != Algorithm::kDirect && plan.offset_slots == 1 &&
                   plan.chunk_channels == depth_of(plan.algorithm, plan.dtype) &&
                   a.group_channels % plan.chunk_channels == 0;
  a.scale = tensors.scale;
  a.y_scale = plan.y_scale;
  a.y_dtype = plan.y_dtype;
  return a;
}

// Whether a thread may read a unit's elements of X by one access.
bool reads_by_unit(const DeformConv2dPlan& plan, const DeformConv2dArguments& a) {
  const std::size_t bytes = static_cast<std::size_t>(unit_elements(plan)) * size_of(plan.dtype);
  return plan.x_layout == Layout::kNhwc && a.whole_units &&
         reinterpret_cast<std::uintptr_t>(a.x) % bytes == 0;
}

template <typename Storage>
Status launch_direct(const DeformConv2dPlan& plan, const DeformConv2dArguments& a,
                     std::int64_t blocks, Stream stream) {
  const auto kernel = plan.x_layout == Layout::kNhwc ? &direct_deform_conv2d<Storage, true>
                                                     : &direct_deform_conv2d<Storage, false>;
  return launch(kernel, dim3(static_cast<unsigned>(blocks)), dim3(kDirectThreads),
                plan.shared_bytes, stream, a);
}

template <typename Storage>
Status pack(const DeformConv2dPlan& plan, PackArguments a, Stream stream) {
  // A grid-stride loop: enough blocks to fill any GPU.
  constexpr std::int64_t kMostBlocks = 4096;
  const bool direct = plan.algorithm == Algorithm::kDirect;
  const bool tensor = plan.algorithm == Algorithm::kTensor;
  const std::size_t element_bytes = direct || !tensor ? sizeof(float) : size_of(plan.dtype);
  a.elements = static_cast<std::int64_t>(plan.packed_bytes / element_bytes);
  const dim3 grid(static_cast<unsigned>(std::min(kMostBlocks, ceil_div(a.elements, kPackThreads))));
  const dim3 block(kPackThreads);
  if (direct) {
    return launch(&pack_direct<Storage, typename Output<Storage>::Sum>, grid, block, 0, stream, a);
  }
  if (!tensor)
    return launch(&pack_fused<Storage, PackFloat32<Storage>, 16>, grid, block, 0, stream, a);
  if constexpr (Storage::kDType == DType::kFloat32) {
    return launch(&pack_fused<Storage, PackTf32, 16>, grid, block, 0, stream, a);
  } else {
    constexpr int kDepth = kRowBytes / static_cast<int>(sizeof(typename Storage::Bits));
    return launch(&pack_fused<Storage, PackSame<Storage>, kDepth>, grid, block, 0, stream, a);
  }
}

}  // namespace

const Tile* deform_conv2d_tiles(Algorithm algorithm, int* count) {
  static constexpr Tile kDirectTiles[] = {{kDirectRows, kDirectPixels}};
  switch (algorithm) {
    case Algorithm::kTensor:
      *count = kTensorTileCount;
      return kTensorTiles;
    case Algorithm::kSimt:
      *count = kSimtTileCount;
      return kSimtTiles;
    default:
      *count = 1;
      return kDirectTiles;
  }
}

Status plan_deform_conv2d(const DeformConv2dParams& params, DType dtype, Layout x_layout,
                          Layout y_layout, const Device& device, const DeformConv2dOptions& options,
                          DeformConv2dPlan* plan) {
  DCN_DEPLOY_RETURN_IF_ERROR(check_sizes(params));
  *plan = DeformConv2dPlan{};
  plan->params = params;
  plan->dtype = dtype;
  plan->x_layout = x_layout;
  plan->y_layout = y_layout;
  plan->y_dtype = dtype;
  if (dtype == DType::kInt8) {
    DCN_DEPLOY_RETURN_IF_ERROR(check_quantised(params, options));
    plan->y_dtype = options.y_dtype;
    plan->y_scale = options.y_scale;
  }
  plan->algorithm = options.algorithm != Algorithm::kAuto
                        ? options.algorithm
                        : choose_algorithm(params, dtype, device, options);
  if (plan->algorithm == Algorithm::kTensor &&
      device.compute_capability < kTensorComputeCapability) {
    return make_status(StatusCode::kInvalidArgument,
                       "tensor cores: expected compute capability 8.0 or later, got %d.%d",
                       device.compute_capability / 10, device.compute_capability % 10);
  }
  return plan->algorithm == Algorithm::kDirect ? plan_direct(plan)
                                               : plan_fused(device, options, plan);
}

Status pack_deform_conv2d_weights(const DeformConv2dPlan& plan, const void* weight, void* packed,
                                  Stream stream) {
  const DeformConv2dParams& p = plan.params;
  PackArguments a{};
  a.weight = weight;
  a.packed = packed;
  a.padded_rows = plan.padded_rows;
  a.out_channels = static_cast<std::int32_t>(p.out_channels);
  a.group_rows = static_cast<std::int32_t>(p.out_channels / p.group);
  a.group_channels = static_cast<std::int32_t>(p.in_channels / p.group);
  a.taps = static_cast<std::int32_t>(p.kernel_h * p.kernel_w);
  a.chunk_channels = plan.chunk_channels;
  a.chunks = plan.chunks;
  switch (plan.dtype) {
    case DType::kFloat16:
      return pack<Float16>(plan, a, stream);
    case DType::kBFloat16:
      return pack<BFloat16>(plan, a, stream);
    case DType::kInt8:
      return pack<Int8>(plan, a, stream);
    default:
      return pack<Float32>(plan, a, stream);
  }
}

Status write_deform_conv2d_scale(float x_scale, const float* weight_scale, std::int64_t count,
                                 std::int64_t out_channels, float* scale, Stream stream) {
  if (count != 1 && count != out_channels) {
    return make_status(StatusCode::kInvalidArgument,
                       "scales of W: expected 1, or one for each of the %" PRId64
                       " output channels, got %" PRId64,
                       out_channels, count);
  }
  ScaleArguments a{};
  a.x_scale = x_scale;
  a.same = count == 1;
  for (std::int64_t first = 0; first < out_channels; first += kScalesOfLaunch) {
    a.count =
        static_cast<std::int32_t>(std::min<std::int64_t>(kScalesOfLaunch, out_channels - first));
    std::copy_n(weight_scale + (a.same ? 0 : first), a.same ? 1 : a.count, a.weight_scale);
    a.scale = scale + first;
    DCN_DEPLOY_RETURN_IF_ERROR(launch(&write_scale, dim3(1), dim3(kScalesOfLaunch), 0, stream, a));
  }
  return {};
}

Status deform_conv2d(const DeformConv2dPlan& plan, const DeformConv2dTensors& tensors,
                     const void* packed, Stream stream) {
  DCN_DEPLOY_RETURN_IF_ERROR(check_tensors(plan, tensors));
  DeformConv2dArguments a = arguments_of(plan, tensors, packed);
  if (a.pixels == 0) return {};
  const bool direct = plan.algorithm == Algorithm::kDirect;
  const std::int64_t blocks =
      ceil_div(a.pixels, plan.tile.pixels) * a.row_tiles * (direct ? 1 : a.group) * plan.splits;
  DCN_DEPLOY_RETURN_IF_ERROR(check_range("blocks of a launch", blocks));
  if (direct) {
    switch (plan.dtype) {
      case DType::kFloat16:
        return launch_direct<Float16>(plan, a, blocks, stream);
      case DType::kBFloat16:
        return launch_direct<BFloat16>(plan, a, blocks, stream);
      case DType::kInt8:
        return launch_direct<Int8>(plan, a, blocks, stream);
      default:
        return launch_direct<Float32>(plan, a, blocks, stream);
    }
  }
  const FusedKernels table = fused_kernels(plan.algorithm, plan.dtype);
  for (int i = 0; i < table.count; ++i) {
    const FusedKernel& kernel = table.kernels[i];
    if (kernel.tile.rows == plan.tile.rows && kernel.tile.pixels == plan.tile.pixels) {
      return kernel.launch(a, reads_by_unit(plan, a), blocks, plan.shared_bytes, stream);
    }
  }
  return make_status(StatusCode::kInvalidArgument,
                     "tile of %dx%d: expected one that exists, got one that does not",
                     plan.tile.rows, plan.tile.pixels);
}

}  // namespace cuda
}  // namespace dcn_deploy
