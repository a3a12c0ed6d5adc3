#include "onnxruntime/deform_conv2d_node.h"

#include "core/deform_conv2d_shape.h"
#include "onnxruntime/feature_types.h"

namespace dcn_deploy {
namespace onnxruntime {
namespace {

constexpr std::array<const char*, DeformConv2dNode::kInputCount> kInputNames = {"X", "W", "offset",
                                                                                "B", "mask"};

DeformConv2dShapes shapes_of(
    const std::array<TensorDescription, DeformConv2dNode::kInputCount>& inputs) {
  return {view_of(inputs[DeformConv2dNode::kX]), view_of(inputs[DeformConv2dNode::kW]),
          view_of(inputs[DeformConv2dNode::kOffset]), view_of(inputs[DeformConv2dNode::kB]),
          view_of(inputs[DeformConv2dNode::kMask])};
}

DeformConv2dAttributes read_attributes(const NodeInfo& node) {
  DeformConv2dAttributes attributes;
  const auto kernel_shape = node.ints_attribute("kernel_shape", 2);
  if (!kernel_shape.empty()) {
    // A negative size must not pass for "not given".
    for (std::size_t axis = 0; axis < 2; ++axis) {
      if (kernel_shape[axis] < 1) {
        throw Failure(ORT_INVALID_ARGUMENT,
                      node.where() + ": attribute kernel_shape[" + std::to_string(axis) +
                          "]: expected at least 1, got " + std::to_string(kernel_shape[axis]));
      }
    }
    attributes.kernel_h = kernel_shape[0];
    attributes.kernel_w = kernel_shape[1];
  }
  const auto strides = node.ints_attribute("strides", 2);
  if (!strides.empty()) {
    attributes.stride_h = strides[0];
    attributes.stride_w = strides[1];
  }
  const auto pads = node.ints_attribute("pads", 4);
  if (!pads.empty()) {
    attributes.pad_top = pads[0];
    attributes.pad_left = pads[1];
    attributes.pad_bottom = pads[2];
    attributes.pad_right = pads[3];
  }
  const auto dilations = node.ints_attribute("dilations", 2);
  if (!dilations.empty()) {
    attributes.dilation_h = dilations[0];
    attributes.dilation_w = dilations[1];
  }
  attributes.group = node.int_attribute("group", 1);
  attributes.offset_group = node.int_attribute("offset_group", 1);
  return attributes;
}

}  // namespace

DeformConv2dNode::DeformConv2dNode(const OrtApi& api, const OrtKernelInfo* info,
                                   ONNXTensorElementDataType feature_type)
    : api_(api), feature_type_(feature_type), dtype_(dtype_of(feature_type)) {
  const NodeInfo node(api, info, kOpType);
  where_ = node.where();
  attributes_ = read_attributes(node);
  Descriptions inputs;
  for (std::size_t i = 0; i < kInputCount; ++i) inputs[i] = node.input(i);
  constant_weight_ = node.constant_input(kW);
  if (constant_weight_ != nullptr) inputs[kW] = describe(api, constant_weight_);
  check_types(inputs);
  check(check_deform_conv2d(attributes_, shapes_of(inputs)), where_);
}

DeformConv2dParams DeformConv2dNode::params_of_weight(const OrtValue* weight) const {
  const TensorDescription description = describe(api_, weight);
  DeformConv2dParams params{};
  params.out_channels = description.dims[0];
  params.in_channels = description.dims[1] * attributes_.group;
  params.kernel_h = description.dims[2];
  params.kernel_w = description.dims[3];
  params.group = attributes_.group;
  params.offset_group = attributes_.offset_group;
  return params;
}

DeformConv2dNode::Run DeformConv2dNode::begin_run(OrtKernelContext* context) const {
  Run run;
  std::size_t count = 0;
  check(api_, api_.KernelContext_GetInputCount(context, &count));
  Descriptions inputs;
  for (std::size_t i = 0; i < kInputCount && i < count; ++i) {
    check(api_, api_.KernelContext_GetInput(context, i, &run.inputs[i]));
    inputs[i] = describe(api_, run.inputs[i]);
  }
  check_types(inputs);
  check(resolve_deform_conv2d(attributes_, shapes_of(inputs), &run.params), where_);
  run.offset_dtype = dtype_of(inputs[kOffset].type);
  if (inputs[kMask].present) run.mask_dtype = dtype_of(inputs[kMask].type);
  const std::array<std::int64_t, 4> y_shape = {run.params.batch, run.params.out_channels,
                                               run.params.out_h, run.params.out_w};
  check(api_, api_.KernelContext_GetOutput(context, 0, y_shape.data(), y_shape.size(), &run.y));
  return run;
}

void DeformConv2dNode::check_types(const Descriptions& inputs) const {
  for (std::size_t i = 0; i < kInputCount; ++i) {
    check_type(where_, kInputNames[i], inputs[i], feature_type_, i == kOffset || i == kMask);
  }
}

}  // namespace onnxruntime
}  // namespace dcn_deploy
