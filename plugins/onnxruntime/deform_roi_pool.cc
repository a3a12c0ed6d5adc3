#include "onnxruntime/deform_roi_pool.h"

#include <array>
#include <string>

#include "core/cpu/deform_roi_pool.h"
#include "core/deform_roi_pool_shape.h"
#include "onnxruntime/api.h"
#include "onnxruntime/custom_op.h"
#include "onnxruntime/deform_roi_pool_inference.h"
#include "onnxruntime/feature_types.h"
#include "onnxruntime/session_memory.h"
#include "onnxruntime/session_threads.h"

namespace dcn_deploy {
namespace onnxruntime {
namespace {

constexpr const char* kOpType = "DeformRoIPool2d";

enum Input : std::size_t { kX, kRois, kOffset, kMask, kInputCount };
constexpr std::array<const char*, kInputCount> kInputNames = {"X", "rois", "offset", "mask"};

using Descriptions = std::array<TensorDescription, kInputCount>;

DeformRoIPool2dShapes shapes_of(const Descriptions& inputs) {
  return {view_of(inputs[kX]), view_of(inputs[kRois]), view_of(inputs[kOffset]),
          view_of(inputs[kMask])};
}

DeformRoIPool2dAttributes read_attributes(const NodeInfo& node) {
  DeformRoIPool2dAttributes attributes;
  check(parse_roi_pool_variant(node.string_attribute("variant", "aligned").c_str(),
                               &attributes.variant),
        node.where());
  const auto output_size = node.ints_attribute("output_size", 2);
  if (output_size.empty()) {
    throw Failure(ORT_INVALID_ARGUMENT,
                  node.where() + ": attribute output_size: expected 2 values, got none");
  }
  attributes.output_h = output_size[0];
  attributes.output_w = output_size[1];
  attributes.spatial_scale = node.float_attribute("spatial_scale", attributes.spatial_scale);
  attributes.gamma = node.float_attribute("gamma", attributes.gamma);
  attributes.sampling_ratio = node.int_attribute("sampling_ratio", attributes.sampling_ratio);
  attributes.sample_per_part = node.int_attribute("sample_per_part", attributes.sample_per_part);
  attributes.group_size = node.int_attribute("group_size", attributes.group_size);
  attributes.part_size = node.int_attribute("part_size", attributes.part_size);
  attributes.output_channels = node.int_attribute("output_channels", attributes.output_channels);
  return attributes;
}

class DeformRoIPool2dKernel {
 public:
  DeformRoIPool2dKernel(const OrtApi& api, const OrtKernelInfo* info,
                        ONNXTensorElementDataType feature_type)
      : api_(api), feature_type_(feature_type) {
    const NodeInfo node(api, info, kOpType);
    where_ = node.where();
    attributes_ = read_attributes(node);
    Descriptions inputs;
    for (std::size_t i = 0; i < kInputCount; ++i) inputs[i] = node.input(i);
    check_types(inputs);
    check(check_deform_roi_pool(attributes_, shapes_of(inputs)), where_);
  }

  void compute(OrtKernelContext* context) const {
    std::size_t count = 0;
    check(api_, api_.KernelContext_GetInputCount(context, &count));
    std::array<const OrtValue*, kInputCount> values{};
    Descriptions inputs;
    for (std::size_t i = 0; i < kInputCount && i < count; ++i) {
      check(api_, api_.KernelContext_GetInput(context, i, &values[i]));
      inputs[i] = describe(api_, values[i]);
    }
    check_types(inputs);
    DeformRoIPool2dParams params;
    check(resolve_deform_roi_pool(attributes_, shapes_of(inputs), &params), where_);

    const std::array<std::int64_t, 4> y_shape = {params.rois, params.out_channels, params.out_h,
                                                 params.out_w};
    OrtValue* y = nullptr;
    check(api_, api_.KernelContext_GetOutput(context, 0, y_shape.data(), y_shape.size(), &y));
    if (params.rois == 0) return;

    cpu::DeformRoIPool2dTensors tensors;
    tensors.dtype = dtype_of(feature_type_);
    tensors.rois_dtype = dtype_of(inputs[kRois].type);
    if (inputs[kOffset].present) tensors.offset_dtype = dtype_of(inputs[kOffset].type);
    if (inputs[kMask].present) tensors.mask_dtype = dtype_of(inputs[kMask].type);
    tensors.x = data_of(api_, values[kX]);
    tensors.rois = data_of(api_, values[kRois]);
    tensors.offset = data_of(api_, values[kOffset]);
    tensors.mask = data_of(api_, values[kMask]);
    check(api_, api_.GetTensorMutableData(y, &tensors.y));

    const SessionThreads threads(api_, context);
    SessionMemory memory(api_, context);
    check(cpu::deform_roi_pool(params, tensors, cpu::select_kernels(), threads.parallel_for(),
                               memory.scratch_memory()),
          where_);
  }

 private:
  void check_types(const Descriptions& inputs) const {
    for (std::size_t i = 0; i < kInputCount; ++i) {
      check_type(where_, kInputNames[i], inputs[i], feature_type_, i != kX);
    }
  }

  const OrtApi& api_;
  const ONNXTensorElementDataType feature_type_;
  std::string where_;
  DeformRoIPool2dAttributes attributes_;
};

struct DeformRoIPool2dOperator {
  static constexpr const char* kOpType = onnxruntime::kOpType;
  static constexpr std::size_t kInputCount = onnxruntime::kInputCount;
  static constexpr bool is_optional(std::size_t index) {
    return index == kOffset || index == kMask;
  }
  using Kernel = DeformRoIPool2dKernel;
  static void infer_shape(const OrtApi& api, OrtShapeInferContext* context) noexcept {
    infer_deform_roi_pool_shape(api, context);
  }
};

}  // namespace

const OrtCustomOp* deform_roi_pool_overload(const OrtApi& api, bool infer_shapes,
                                            std::size_t index) {
  return CustomOp<DeformRoIPool2dOperator>::overload(api, infer_shapes, index);
}

}  // namespace onnxruntime
}  // namespace dcn_deploy
