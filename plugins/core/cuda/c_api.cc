#include "core/cuda/c_api.h"

#include <algorithm>
#include <cinttypes>
#include <cstring>
#include <new>

#include "core/cuda/deform_conv2d.h"
#include "core/cuda/deform_roi_pool.h"
#include "core/cuda/device.h"
#include "core/deform_conv2d_shape.h"
#include "core/deform_roi_pool_shape.h"

#define DCN_DEPLOY_EXPORT __attribute__((visibility("default")))

struct DcnDeployCudaConv2dPlan {
  dcn_deploy::cuda::DeformConv2dPlan plan;
};

namespace dcn_deploy {
namespace cuda {
namespace {

int answer(const Status& status, char* message, std::size_t message_size) {
  if (message != nullptr && message_size > 0) {
    const std::size_t length = std::min(std::strlen(status.message), message_size - 1);
    std::memcpy(message, status.message, length);
    message[length] = '\0';
  }
  return static_cast<int>(status.code);
}

// Runs `body`, which returns a Status, and lets nothing but an answer out.
template <typename Body>
int guarded(char* message, std::size_t message_size, Body&& body) noexcept {
  try {
    return answer(body(), message, message_size);
  } catch (const std::bad_alloc&) {
    return answer(make_status(StatusCode::kOutOfMemory, "out of memory on the host"), message,
                  message_size);
  } catch (...) {
    return answer(make_status(StatusCode::kDevice, "unknown exception"), message, message_size);
  }
}

Status check_present(const char* what, const void* pointer) {
  if (pointer != nullptr) return {};
  return make_status(StatusCode::kInvalidArgument, "%s: expected a pointer, got null", what);
}

Status check_choice(const char* what, std::int64_t value, std::int64_t last) {
  if (value >= 0 && value <= last) return {};
  return make_status(StatusCode::kInvalidArgument,
                     "%s: expected a number from 0 to %" PRId64 ", got %" PRId64, what, last,
                     value);
}

constexpr std::int64_t kLastDType = kDTypeCount - 1;
constexpr std::int64_t kLastFeatureDType = static_cast<std::int64_t>(DType::kInt8);
constexpr std::int64_t kLastLayout = static_cast<std::int64_t>(Layout::kNhwc);
constexpr std::int64_t kLastAlgorithm = static_cast<std::int64_t>(Algorithm::kDirect);

Status check_request(const DcnDeployCudaConv2d& r) {
  DCN_DEPLOY_RETURN_IF_ERROR(check_choice("dtype", r.dtype, kLastFeatureDType));
  DCN_DEPLOY_RETURN_IF_ERROR(check_choice("y_dtype", r.y_dtype, kLastFeatureDType));
  DCN_DEPLOY_RETURN_IF_ERROR(check_choice("x_layout", r.x_layout, kLastLayout));
  DCN_DEPLOY_RETURN_IF_ERROR(check_choice("y_layout", r.y_layout, kLastLayout));
  DCN_DEPLOY_RETURN_IF_ERROR(check_choice("allow_tf32", r.allow_tf32, 1));
  DCN_DEPLOY_RETURN_IF_ERROR(check_choice("algorithm", r.algorithm, kLastAlgorithm));
  constexpr std::int64_t kLargestTile = 1 << 16;
  DCN_DEPLOY_RETURN_IF_ERROR(check_choice("tile_rows", r.tile_rows, kLargestTile));
  DCN_DEPLOY_RETURN_IF_ERROR(check_choice("tile_pixels", r.tile_pixels, kLargestTile));
  constexpr std::int64_t kMostSplits = 1 << 16;
  return check_choice("splits", r.splits, kMostSplits);
}

// The request's sizes and attributes, through the same checks as everybody's.
Status resolve(const DcnDeployCudaConv2d& r, DeformConv2dParams* params) {
  DeformConv2dAttributes attributes;
  attributes.kernel_h = r.kernel_h;
  attributes.kernel_w = r.kernel_w;
  attributes.stride_h = r.stride_h;
  attributes.stride_w = r.stride_w;
  attributes.pad_top = r.pad_top;
  attributes.pad_left = r.pad_left;
  attributes.pad_bottom = r.pad_bottom;
  attributes.pad_right = r.pad_right;
  attributes.dilation_h = r.dilation_h;
  attributes.dilation_w = r.dilation_w;
  attributes.group = r.group;
  attributes.offset_group = r.offset_group;
  const std::int64_t x[] = {r.batch, r.in_channels, r.in_h, r.in_w};
  const std::int64_t w[] = {r.out_channels, ShapeView::kUnknownDim, r.kernel_h, r.kernel_w};
  DeformConv2dShapes shapes;
  shapes.x = {x, 4};
  shapes.w = {w, 4};
  // With unknown dims first: they refuse what would make the sizes below meaningless.
  DCN_DEPLOY_RETURN_IF_ERROR(check_deform_conv2d(attributes, shapes));
  const std::int64_t w_known[] = {r.out_channels, r.in_channels / r.group, r.kernel_h, r.kernel_w};
  const std::int64_t offset[] = {
      r.batch, r.offset_group * r.kernel_h * r.kernel_w * 2,
      output_extent(r.in_h, r.pad_top, r.pad_bottom, r.dilation_h, r.kernel_h, r.stride_h),
      output_extent(r.in_w, r.pad_left, r.pad_right, r.dilation_w, r.kernel_w, r.stride_w)};
  shapes.w = {w_known, 4};
  shapes.offset = {offset, 4};
  return resolve_deform_conv2d(attributes, shapes, params);
}

Status plan(const DcnDeployCudaConv2d& r, const DcnDeployCudaDevice& d,
            DcnDeployCudaConv2dPlan** plan, DcnDeployCudaConv2dInfo* info) {
  DCN_DEPLOY_RETURN_IF_ERROR(check_request(r));
  DeformConv2dParams params;
  DCN_DEPLOY_RETURN_IF_ERROR(resolve(r, &params));
  Device device;
  device.compute_capability = static_cast<int>(d.compute_capability);
  device.multiprocessors = static_cast<int>(d.multiprocessors);
  device.shared_bytes_per_block = static_cast<std::size_t>(d.shared_bytes_per_block);
  device.cluster_blocks = static_cast<int>(d.cluster_blocks);
  DeformConv2dOptions options;
  options.allow_tf32 = r.allow_tf32 != 0;
  options.algorithm = static_cast<Algorithm>(r.algorithm);
  options.tile = {static_cast<int>(r.tile_rows), static_cast<int>(r.tile_pixels)};
  options.splits = static_cast<int>(r.splits);
  options.y_dtype = static_cast<DType>(r.y_dtype);
  options.y_scale = static_cast<float>(r.y_scale);
  DeformConv2dPlan made;
  DCN_DEPLOY_RETURN_IF_ERROR(
      plan_deform_conv2d(params, static_cast<DType>(r.dtype), static_cast<Layout>(r.x_layout),
                         static_cast<Layout>(r.y_layout), device, options, &made));
  info->out_h = params.out_h;
  info->out_w = params.out_w;
  info->algorithm = static_cast<std::int64_t>(made.algorithm);
  info->tile_rows = made.tile.rows;
  info->tile_pixels = made.tile.pixels;
  info->splits = made.splits;
  info->steps = params.kernel_h * params.kernel_w * made.chunks;
  info->estimated_clocks = made.estimated_clocks;
  info->packed_bytes = static_cast<std::int64_t>(made.packed_bytes);
  info->shared_bytes = static_cast<std::int64_t>(made.shared_bytes);
  *plan = new DcnDeployCudaConv2dPlan{made};
  return {};
}

Status run(const DeformConv2dPlan& plan, const DcnDeployCudaConv2dTensors& t, const void* packed,
           Stream stream) {
  DCN_DEPLOY_RETURN_IF_ERROR(check_choice("offset_dtype", t.offset_dtype, kLastDType));
  DCN_DEPLOY_RETURN_IF_ERROR(check_choice("mask_dtype", t.mask_dtype, kLastDType));
  if (plan.params.batch > 0) {
    DCN_DEPLOY_RETURN_IF_ERROR(check_present("x", t.x));
    DCN_DEPLOY_RETURN_IF_ERROR(check_present("offset", t.offset));
    DCN_DEPLOY_RETURN_IF_ERROR(check_present("y", t.y));
    DCN_DEPLOY_RETURN_IF_ERROR(check_present("packed", packed));
  }
  DeformConv2dTensors tensors;
  tensors.offset_dtype = static_cast<DType>(t.offset_dtype);
  tensors.mask_dtype = static_cast<DType>(t.mask_dtype);
  tensors.x = t.x;
  tensors.offset = t.offset;
  tensors.bias = t.bias;
  tensors.mask = t.mask;
  tensors.scale = static_cast<const float*>(t.scale);
  tensors.y = t.y;
  return deform_conv2d(plan, tensors, packed, stream);
}

Status pool(const DcnDeployCudaRoIPool& r, Stream stream) {
  DCN_DEPLOY_RETURN_IF_ERROR(
      check_choice("variant", r.variant, static_cast<std::int64_t>(RoIPoolVariant::kPsroi)));
  DCN_DEPLOY_RETURN_IF_ERROR(check_choice("dtype", r.dtype, kLastDType));
  DCN_DEPLOY_RETURN_IF_ERROR(check_choice("x_layout", r.x_layout, kLastLayout));
  DCN_DEPLOY_RETURN_IF_ERROR(check_choice("y_layout", r.y_layout, kLastLayout));
  DCN_DEPLOY_RETURN_IF_ERROR(check_choice("rois_dtype", r.rois_dtype, kLastDType));
  DCN_DEPLOY_RETURN_IF_ERROR(check_choice("offset_dtype", r.offset_dtype, kLastDType));
  DCN_DEPLOY_RETURN_IF_ERROR(check_choice("mask_dtype", r.mask_dtype, kLastDType));
  // Twice as many offset channels as classes.
  constexpr std::int64_t kMostClasses = std::int64_t{1} << 32;
  DCN_DEPLOY_RETURN_IF_ERROR(check_choice("classes", r.classes, kMostClasses));
  DeformRoIPool2dAttributes attributes;
  attributes.variant = static_cast<RoIPoolVariant>(r.variant);
  attributes.output_h = r.out_h;
  attributes.output_w = r.out_w;
  attributes.spatial_scale = static_cast<float>(r.spatial_scale);
  attributes.gamma = static_cast<float>(r.gamma);
  attributes.sampling_ratio = r.sampling_ratio;
  attributes.sample_per_part = r.sample_per_part;
  attributes.group_size = r.group_size;
  attributes.output_channels = r.output_channels;
  const std::int64_t x[] = {r.batch, r.in_channels, r.in_h, r.in_w};
  const std::int64_t boxes[] = {r.rois, 5};
  const std::int64_t offset[] = {r.rois, 2 * r.classes, r.part_h, r.part_w};
  const std::int64_t mask[] = {r.rois, r.classes, r.part_h, r.part_w};
  DeformRoIPool2dShapes shapes;
  shapes.x = {x, 4};
  shapes.rois = {boxes, 2};
  if (r.offset != nullptr) shapes.offset = {offset, 4};
  if (r.mask != nullptr) shapes.mask = {mask, 4};
  DeformRoIPool2dParams params;
  DCN_DEPLOY_RETURN_IF_ERROR(resolve_deform_roi_pool(attributes, shapes, &params));
  if (params.rois > 0) {
    DCN_DEPLOY_RETURN_IF_ERROR(check_present("x", r.x));
    DCN_DEPLOY_RETURN_IF_ERROR(check_present("boxes", r.boxes));
    DCN_DEPLOY_RETURN_IF_ERROR(check_present("y", r.y));
  }
  DeformRoIPool2dTensors tensors;
  tensors.dtype = static_cast<DType>(r.dtype);
  tensors.rois_dtype = static_cast<DType>(r.rois_dtype);
  tensors.offset_dtype = static_cast<DType>(r.offset_dtype);
  tensors.mask_dtype = static_cast<DType>(r.mask_dtype);
  tensors.x_layout = static_cast<Layout>(r.x_layout);
  tensors.y_layout = static_cast<Layout>(r.y_layout);
  tensors.x = r.x;
  tensors.rois = r.boxes;
  tensors.offset = r.offset;
  tensors.mask = r.mask;
  tensors.y = r.y;
  return deform_roi_pool(params, tensors, stream);
}

}  // namespace
}  // namespace cuda
}  // namespace dcn_deploy

namespace cuda = dcn_deploy::cuda;

extern "C" {

DCN_DEPLOY_EXPORT const char* dcn_deploy_version(void) { return DCN_DEPLOY_VERSION; }

DCN_DEPLOY_EXPORT int dcn_deploy_cuda_device(DcnDeployCudaDevice* device, char* message,
                                             std::size_t message_size) {
  return cuda::guarded(message, message_size, [&]() -> dcn_deploy::Status {
    DCN_DEPLOY_RETURN_IF_ERROR(cuda::check_present("device", device));
    cuda::Device found;
    DCN_DEPLOY_RETURN_IF_ERROR(cuda::query_device(&found));
    device->compute_capability = found.compute_capability;
    device->multiprocessors = found.multiprocessors;
    device->shared_bytes_per_block = static_cast<std::int64_t>(found.shared_bytes_per_block);
    device->cluster_blocks = found.cluster_blocks;
    return {};
  });
}

DCN_DEPLOY_EXPORT int dcn_deploy_cuda_conv2d_tiles(std::int64_t algorithm, std::int64_t* tiles,
                                                   std::size_t capacity) {
  if (algorithm < 1 || algorithm > cuda::kLastAlgorithm) return -1;
  int count = 0;
  const cuda::Tile* all =
      cuda::deform_conv2d_tiles(static_cast<cuda::Algorithm>(algorithm), &count);
  for (std::size_t i = 0; i < capacity && i < static_cast<std::size_t>(count); ++i) {
    tiles[2 * i] = all[i].rows;
    tiles[2 * i + 1] = all[i].pixels;
  }
  return count;
}

DCN_DEPLOY_EXPORT int dcn_deploy_cuda_conv2d_plan(const DcnDeployCudaConv2d* request,
                                                  const DcnDeployCudaDevice* device,
                                                  DcnDeployCudaConv2dPlan** plan,
                                                  DcnDeployCudaConv2dInfo* info, char* message,
                                                  std::size_t message_size) {
  return cuda::guarded(message, message_size, [&]() -> dcn_deploy::Status {
    DCN_DEPLOY_RETURN_IF_ERROR(cuda::check_present("request", request));
    DCN_DEPLOY_RETURN_IF_ERROR(cuda::check_present("device", device));
    DCN_DEPLOY_RETURN_IF_ERROR(cuda::check_present("plan", plan));
    DCN_DEPLOY_RETURN_IF_ERROR(cuda::check_present("info", info));
    return cuda::plan(*request, *device, plan, info);
  });
}

DCN_DEPLOY_EXPORT void dcn_deploy_cuda_conv2d_destroy(DcnDeployCudaConv2dPlan* plan) {
  delete plan;
}

DCN_DEPLOY_EXPORT int dcn_deploy_cuda_conv2d_pack(const DcnDeployCudaConv2dPlan* plan,
                                                  const void* weight, void* packed, void* stream,
                                                  char* message, std::size_t message_size) {
  return cuda::guarded(message, message_size, [&]() -> dcn_deploy::Status {
    DCN_DEPLOY_RETURN_IF_ERROR(cuda::check_present("plan", plan));
    DCN_DEPLOY_RETURN_IF_ERROR(cuda::check_present("weight", weight));
    DCN_DEPLOY_RETURN_IF_ERROR(cuda::check_present("packed", packed));
    return cuda::pack_deform_conv2d_weights(plan->plan, weight, packed,
                                            static_cast<cuda::Stream>(stream));
  });
}

DCN_DEPLOY_EXPORT int dcn_deploy_cuda_conv2d_run(const DcnDeployCudaConv2dPlan* plan,
                                                 const DcnDeployCudaConv2dTensors* tensors,
                                                 const void* packed, void* stream, char* message,
                                                 std::size_t message_size) {
  return cuda::guarded(message, message_size, [&]() -> dcn_deploy::Status {
    DCN_DEPLOY_RETURN_IF_ERROR(cuda::check_present("plan", plan));
    DCN_DEPLOY_RETURN_IF_ERROR(cuda::check_present("tensors", tensors));
    return cuda::run(plan->plan, *tensors, packed, static_cast<cuda::Stream>(stream));
  });
}

DCN_DEPLOY_EXPORT int dcn_deploy_cuda_roi_pool_run(const DcnDeployCudaRoIPool* request,
                                                   void* stream, char* message,
                                                   std::size_t message_size) {
  return cuda::guarded(message, message_size, [&]() -> dcn_deploy::Status {
    DCN_DEPLOY_RETURN_IF_ERROR(cuda::check_present("request", request));
    return cuda::pool(*request, static_cast<cuda::Stream>(stream));
  });
}

}  // extern "C"
