#include "onnxruntime/deform_roi_pool_node.h"

#include "core/deform_roi_pool_shape.h"
#include "onnxruntime/feature_types.h"

namespace dcn_deploy {
namespace onnxruntime {
namespace {

constexpr std::array<const char*, DeformRoIPool2dNode::kInputCount> kInputNames = {
    "X", "rois", "offset", "mask"};

DeformRoIPool2dShapes shapes_of(
    const std::array<TensorDescription, DeformRoIPool2dNode::kInputCount>& inputs) {
  return {view_of(inputs[DeformRoIPool2dNode::kX]), view_of(inputs[DeformRoIPool2dNode::kRois]),
          view_of(inputs[DeformRoIPool2dNode::kOffset]),
          view_of(inputs[DeformRoIPool2dNode::kMask])};
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

}  // namespace

DeformRoIPool2dNode::DeformRoIPool2dNode(const OrtApi& api, const OrtKernelInfo* info,
                                         ONNXTensorElementDataType feature_type)
    : api_(api), feature_type_(feature_type), dtype_(dtype_of(feature_type)) {
  const NodeInfo node(api, info, kOpType);
  where_ = node.where();
  attributes_ = read_attributes(node);
  Descriptions inputs;
  for (std::size_t i = 0; i < kInputCount; ++i) inputs[i] = node.input(i);
  check_types(inputs);
  check(check_deform_roi_pool(attributes_, shapes_of(inputs)), where_);
}

DeformRoIPool2dNode::Run DeformRoIPool2dNode::begin_run(OrtKernelContext* context) const {
  Run run;
  std::size_t count = 0;
  check(api_, api_.KernelContext_GetInputCount(context, &count));
  Descriptions inputs;
  for (std::size_t i = 0; i < kInputCount && i < count; ++i) {
    check(api_, api_.KernelContext_GetInput(context, i, &run.inputs[i]));
    inputs[i] = describe(api_, run.inputs[i]);
  }
  check_types(inputs);
  check(resolve_deform_roi_pool(attributes_, shapes_of(inputs), &run.params), where_);
  run.rois_dtype = dtype_of(inputs[kRois].type);
  if (inputs[kOffset].present) run.offset_dtype = dtype_of(inputs[kOffset].type);
  if (inputs[kMask].present) run.mask_dtype = dtype_of(inputs[kMask].type);
  const std::array<std::int64_t, 4> y_shape = {run.params.rois, run.params.out_channels,
                                               run.params.out_h, run.params.out_w};
  check(api_, api_.KernelContext_GetOutput(context, 0, y_shape.data(), y_shape.size(), &run.y));
  return run;
}

void DeformRoIPool2dNode::check_types(const Descriptions& inputs) const {
  for (std::size_t i = 0; i < kInputCount; ++i) {
    check_type(where_, kInputNames[i], inputs[i], feature_type_, i != kX);
  }
}

}  // namespace onnxruntime
}  // namespace dcn_deploy
