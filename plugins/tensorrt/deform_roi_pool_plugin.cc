#include "tensorrt/deform_roi_pool_plugin.h"

#include "core/deform_roi_pool_shape.h"
#include "tensorrt/failure.h"

namespace dcn_deploy {
namespace tensorrt {

std::unique_ptr<Plugin> DeformRoIPool2dPlugin::copy() const {
  return std::make_unique<DeformRoIPool2dPlugin>(*this);
}

std::vector<InputSpec> DeformRoIPool2dPlugin::input_specs() const {
  return {{"X", false, InputType::kFeatures},
          {"rois", false, InputType::kFloat32OrAsX},
          {"offset", true, InputType::kFloat32OrAsX},
          {"mask", true, InputType::kFloat32OrAsX}};
}

void DeformRoIPool2dPlugin::visit_attributes(FieldVisitor* visitor) {
  DeformRoIPool2dAttributes& a = attributes_;
  visitor->text("variant", &variant_);
  visitor->integers("output_size", {&a.output_h, &a.output_w});
  visitor->real("spatial_scale", &a.spatial_scale);
  visitor->real("gamma", &a.gamma);
  visitor->integers("sampling_ratio", {&a.sampling_ratio});
  visitor->integers("sample_per_part", {&a.sample_per_part});
  visitor->integers("group_size", {&a.group_size});
  visitor->integers("part_size", {&a.part_size});
  visitor->integers("output_channels", {&a.output_channels});
}

DeformRoIPool2dAttributes DeformRoIPool2dPlugin::attributes() const {
  DeformRoIPool2dAttributes attributes = attributes_;
  check(parse_roi_pool_variant(variant_.c_str(), &attributes.variant));
  return attributes;
}

void DeformRoIPool2dPlugin::check_shapes(const Shapes& shapes) const {
  check(check_deform_roi_pool(attributes(),
                              {shapes[kX], shapes[kRois], shapes[kOffset], shapes[kMask]}));
}

void DeformRoIPool2dPlugin::describe_output(const Expressions& inputs, ExpressionBuilder* builder,
                                            nvinfer1::DimsExprs* y) const {
  const DeformRoIPool2dAttributes a = attributes();
  const nvinfer1::DimsExprs& x = *inputs[kX];
  y->nbDims = 4;
  y->d[0] = inputs[kRois]->d[0];
  if (a.variant == RoIPoolVariant::kAligned) {
    y->d[1] = x.d[1];
  } else if (a.output_channels != DeformRoIPool2dAttributes::kFromInputs) {
    y->d[1] = builder->constant(a.output_channels);
  } else {
    y->d[1] = builder->floor_divide(x.d[1], builder->constant(a.group_size * a.group_size));
  }
  y->d[2] = builder->constant(a.output_h);
  y->d[3] = builder->constant(a.output_w);
}

void DeformRoIPool2dPlugin::plan(const LayerTensors& tensors, std::int32_t) {
  const auto shape_of = [&](Input input) {
    const nvinfer1::PluginTensorDesc* desc = tensors.inputs[input];
    return desc == nullptr ? ShapeView{nullptr, ShapeView::kAbsent} : view_of(desc->dims);
  };
  const auto type_of = [&](Input input) {
    const nvinfer1::PluginTensorDesc* desc = tensors.inputs[input];
    return desc == nullptr ? DType::kFloat32 : dtype_of(desc->type);
  };
  const auto layout_of = [](const nvinfer1::PluginTensorDesc& desc) {
    return find_feature_format(desc.type, desc.format)->layout;
  };
  check(resolve_deform_roi_pool(
      attributes(), {shape_of(kX), shape_of(kRois), shape_of(kOffset), shape_of(kMask)}, &params_));
  tensors_.dtype = type_of(kX);
  tensors_.rois_dtype = type_of(kRois);
  tensors_.offset_dtype = type_of(kOffset);
  tensors_.mask_dtype = type_of(kMask);
  tensors_.x_layout = layout_of(*tensors.inputs[kX]);
  tensors_.y_layout = layout_of(*tensors.y);
}

void DeformRoIPool2dPlugin::launch(const Addresses& addresses, cuda::Stream stream) {
  cuda::DeformRoIPool2dTensors tensors = tensors_;
  tensors.x = addresses.inputs[kX];
  tensors.rois = addresses.inputs[kRois];
  tensors.offset = addresses.inputs[kOffset];
  tensors.mask = addresses.inputs[kMask];
  tensors.y = addresses.y;
  check(cuda::deform_roi_pool(params_, tensors, stream));
}

}  // namespace tensorrt
}  // namespace dcn_deploy
