#include <cinttypes>
#include <limits>

#include "core/cuda/deform_roi_pool.cuh"
#include "core/cuda/deform_roi_pool.h"
#include "core/dtype_check.h"

namespace dcn_deploy {
namespace cuda {
namespace {

template <typename Storage>
Status launch_roi_pool(const RoIPoolArguments& arguments, Layout x_layout, std::int64_t blocks,
                       Stream stream) {
  const auto kernel = x_layout == Layout::kNhwc ? &deform_roi_pool_kernel<Storage, true>
                                                : &deform_roi_pool_kernel<Storage, false>;
  return launch(kernel, dim3(static_cast<unsigned>(blocks)), dim3(kRoIPoolThreads),
                RoIPoolShared::kBytes, stream, arguments);
}

}  // namespace

Status deform_roi_pool(const DeformRoIPool2dParams& params, const DeformRoIPool2dTensors& tensors,
                       Stream stream) {
  DCN_DEPLOY_RETURN_IF_ERROR(check_floating_point({{"X", tensors.dtype},
                                                   {"rois", tensors.rois_dtype},
                                                   {"offset", tensors.offset_dtype},
                                                   {"mask", tensors.mask_dtype}}));
  if (params.rois == 0) return {};
  RoIPoolArguments a{};
  a.params = params;
  a.x = tensors.x;
  a.rois = tensors.rois;
  a.offset = tensors.offset;
  a.mask = tensors.mask;
  a.y = tensors.y;
  a.rois_dtype = tensors.rois_dtype;
  a.offset_dtype = tensors.offset_dtype;
  a.mask_dtype = tensors.mask_dtype;
  a.y_is_nhwc = tensors.y_layout == Layout::kNhwc;
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
  const std::int64_t class_channels = params.out_channels / params.classes;
  const std::int64_t slabs = (class_channels + kRoIPoolSlab - 1) / kRoIPoolSlab;
  std::int64_t blocks;
  if (params.out_channels > kMost || params.out_h > kMost / params.out_w ||
      __builtin_mul_overflow(params.rois * params.classes, slabs, &blocks) || blocks > kMost) {
    return make_status(
        StatusCode::kTooLarge,
        "RoIs · output channels: expected at most 2^31 - 1 blocks of %d channels on a GPU, got "
        "%" PRId64 " RoIs of %" PRId64 " channels",
        kRoIPoolSlab, params.rois, params.out_channels);
  }
  a.slabs = static_cast<std::int32_t>(slabs);
  switch (tensors.dtype) {
    case DType::kFloat16:
      return launch_roi_pool<Float16>(a, tensors.x_layout, blocks, stream);
    case DType::kBFloat16:
      return launch_roi_pool<BFloat16>(a, tensors.x_layout, blocks, stream);
    default:
      return launch_roi_pool<Float32>(a, tensors.x_layout, blocks, stream);
  }
}

}  // namespace cuda
}  // namespace dcn_deploy
