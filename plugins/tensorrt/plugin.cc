#include "tensorrt/plugin.h"

#include <algorithm>

#include "tensorrt/failure.h"

namespace dcn_deploy {
namespace tensorrt {
namespace {

using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginTensorDesc;

constexpr std::int32_t kDone = 0;
constexpr std::int32_t kFailed = -1;
// Only in an engine: at run time TensorRT may call the layer otherwise than its builder did.
constexpr const char* kLayerField = "layer_name";

void require_outputs(std::int32_t count) {
  if (count == kOutputs) return;
  throw Failure("outputs: expected " + std::to_string(kOutputs) + ", got " + std::to_string(count));
}

// Descriptions with the network's own dims, or with one of those of the profile.
std::vector<PluginTensorDesc> fixed(const DynamicPluginTensorDesc* descs, std::int32_t count,
                                    const nvinfer1::Dims DynamicPluginTensorDesc::* dims) {
  if (count < 0 || (count > 0 && descs == nullptr)) {
    throw Failure("descriptions of the tensors: expected some, got null");
  }
  std::vector<PluginTensorDesc> result;
  for (std::int32_t i = 0; i < count; ++i) {
    result.push_back(descs[i].desc);
    if (dims != nullptr) result.back().dims = descs[i].*dims;
  }
  return result;
}

std::int64_t volume(const nvinfer1::Dims& dims) {
  std::int64_t elements = 1;
  // Checked before: it does not overflow.
  for (int i = 0; i < dims.nbDims; ++i) elements *= dims.d[i];
  return elements;
}

}  // namespace

void Plugin::check_given(const FieldReader&) const {}

std::size_t Plugin::workspace_bytes(const LayerTensors&) const { return 0; }

std::vector<std::int32_t> Plugin::tactics_for(const LayerTensors&) const { return {}; }

void Plugin::check_tactic(std::int32_t tactic) const {
  if (tactic == 0) return;
  throw Failure("tactic: expected 0, got " + std::to_string(tactic) +
                ". Rebuild the engine with this library");
}

void Plugin::warn(const std::string& message) const noexcept {
  log(nvinfer1::ILogger::Severity::kWARNING, where(), message.c_str());
}

void Plugin::name_for_messages() {
  where_ = std::string(origin_.op_type) + " '" + origin_.layer + "'";
}

void Plugin::visit_fields(FieldVisitor* visitor) {
  visit_attributes(visitor);
  visitor->text("optional_inputs", &optional_inputs_);
}

void Plugin::read_fields(const nvinfer1::PluginFieldCollection* collection,
                         nvinfer1::TensorRTPhase phase) {
  FieldReader reader(collection, phase);
  visit_fields(&reader);
  if (phase == nvinfer1::TensorRTPhase::kRUNTIME) {
    std::string layer;
    reader.text(kLayerField, &layer);
    if (origin_.layer.empty()) origin_.layer = layer;
    name_for_messages();
  } else {
    check_given(reader);
  }
  reader.finish();
  inputs_ = std::make_shared<const LayerInputs>(input_specs(), optional_inputs_);
  // Of unknown shapes only the attributes are known.
  check_shapes(Shapes{});
}

nvinfer1::IPluginCapability* Plugin::getCapabilityInterface(
    nvinfer1::PluginCapabilityType type) noexcept {
  switch (type) {
    case nvinfer1::PluginCapabilityType::kCORE:
      return static_cast<nvinfer1::IPluginV3OneCore*>(this);
    case nvinfer1::PluginCapabilityType::kBUILD:
      return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
    case nvinfer1::PluginCapabilityType::kRUNTIME:
      return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
  }
  return nullptr;
}

nvinfer1::IPluginV3* Plugin::clone() noexcept {
  return guarded<nvinfer1::IPluginV3*>(where(), nullptr, [&] { return copy().release(); });
}

std::int32_t Plugin::getOutputDataTypes(nvinfer1::DataType* output_types, std::int32_t output_count,
                                        const nvinfer1::DataType* input_types,
                                        std::int32_t input_count) const noexcept {
  return guarded(where(), kFailed, [&] {
    require_outputs(output_count);
    const LayerInputs::Positions positions = inputs_->positions(input_count);
    for (std::size_t input = 0; input < inputs_->count(); ++input) {
      if (positions[input] == LayerInputs::kAbsent) continue;
      inputs_->check_type(input, input_types[positions[input]], input_types[0]);
    }
    output_types[0] = output_type(input_types[0]);
    return kDone;
  });
}

std::int32_t Plugin::getOutputShapes(const nvinfer1::DimsExprs* inputs, std::int32_t input_count,
                                     const nvinfer1::DimsExprs*, std::int32_t shape_input_count,
                                     nvinfer1::DimsExprs* outputs, std::int32_t output_count,
                                     nvinfer1::IExprBuilder& builder) noexcept {
  return guarded(where(), kFailed, [&] {
    require_outputs(output_count);
    if (shape_input_count != 0) {
      throw Failure("shape inputs: expected none, got " + std::to_string(shape_input_count));
    }
    const LayerInputs::Positions positions = inputs_->positions(input_count);
    std::array<std::array<std::int64_t, nvinfer1::Dims::MAX_DIMS>, kMaxInputs> known;
    Shapes shapes;
    Expressions expressions{};
    for (std::size_t input = 0; input < kMaxInputs; ++input) {
      if (positions[input] == LayerInputs::kAbsent) {
        shapes[input] = {nullptr, ShapeView::kAbsent};
        continue;
      }
      const nvinfer1::DimsExprs& dims = inputs[positions[input]];
      for (std::int32_t axis = 0; axis < dims.nbDims; ++axis) {
        const auto at = static_cast<std::size_t>(axis);
        known[input][at] = dims.d[axis] != nullptr && dims.d[axis]->isConstant()
                               ? dims.d[axis]->getConstantValue()
                               : ShapeView::kUnknownDim;
      }
      shapes[input] = {known[input].data(), dims.nbDims};
      expressions[input] = &dims;
    }
    check_shapes(shapes);
    ExpressionBuilder expression_builder(&builder);
    describe_output(expressions, &expression_builder, &outputs[0]);
    return kDone;
  });
}

bool Plugin::supportsFormatCombination(std::int32_t position, const DynamicPluginTensorDesc* in_out,
                                       std::int32_t input_count,
                                       std::int32_t output_count) noexcept {
  return guarded(where(), false, [&] {
    require_outputs(output_count);
    const PluginTensorDesc& desc = in_out[position].desc;
    const PluginTensorDesc& x = in_out[0].desc;
    // Y beside X: transposed on the way, if it is to be.
    if (position == input_count) return desc.type == output_type(x.type) && fits_features(desc);
    return inputs_->fits(inputs_->input_at(position, input_count), desc, x);
  });
}

std::int32_t Plugin::configurePlugin(const DynamicPluginTensorDesc* in, std::int32_t input_count,
                                     const DynamicPluginTensorDesc* out,
                                     std::int32_t output_count) noexcept {
  return guarded(where(), kFailed, [&] {
    require_outputs(output_count);
    const std::vector<PluginTensorDesc> in_network = fixed(in, input_count, nullptr);
    const std::vector<PluginTensorDesc> out_network = fixed(out, output_count, nullptr);
    const LayerTensors network =
        inputs_->tensors(in_network.data(), input_count, out_network.data());
    inputs_->check_formats(network, output_type(network.inputs[0]->type));
    check_shapes(shapes_of(network));
    input_count_ = input_count;
    planned_.value.clear();
    const std::vector<PluginTensorDesc> in_opt =
        fixed(in, input_count, &DynamicPluginTensorDesc::opt);
    const std::vector<PluginTensorDesc> out_opt =
        fixed(out, output_count, &DynamicPluginTensorDesc::opt);
    tactics_ = tactics_for(inputs_->tensors(in_opt.data(), input_count, out_opt.data()));
    return kDone;
  });
}

std::size_t Plugin::getWorkspaceSize(const DynamicPluginTensorDesc* inputs,
                                     std::int32_t input_count,
                                     const DynamicPluginTensorDesc* outputs,
                                     std::int32_t output_count) const noexcept {
  return guarded<std::size_t>(where(), 0, [&] {
    require_outputs(output_count);
    const std::vector<PluginTensorDesc> in =
        fixed(inputs, input_count, &DynamicPluginTensorDesc::max);
    const std::vector<PluginTensorDesc> out =
        fixed(outputs, output_count, &DynamicPluginTensorDesc::max);
    return workspace_bytes(inputs_->tensors(in.data(), input_count, out.data()));
  });
}

std::int32_t Plugin::getNbTactics() noexcept { return static_cast<std::int32_t>(tactics_.size()); }

std::int32_t Plugin::getValidTactics(std::int32_t* tactics, std::int32_t count) noexcept {
  return guarded(where(), kFailed, [&] {
    if (count != getNbTactics()) {
      throw Failure("tactics: expected room for " + std::to_string(getNbTactics()) + ", got " +
                    std::to_string(count));
    }
    std::copy(tactics_.begin(), tactics_.end(), tactics);
    return kDone;
  });
}

std::string Plugin::text_of_fields() {
  FieldText text;
  visit_fields(&text);
  return text.text();
}

const char* Plugin::getTimingCacheID() noexcept {
  return guarded<const char*>(where(), nullptr, [&] {
    // Another version has other kernels. TensorRT itself adds shapes, types and formats.
    timing_cache_id_.value = std::string("dcn_deploy ") + DCN_DEPLOY_VERSION + " " +
                             origin_.op_type + " " + text_of_fields();
    return timing_cache_id_.value.c_str();
  });
}

const char* Plugin::getMetadataString() noexcept {
  return guarded<const char*>(where(), nullptr, [&] {
    metadata_.value = text_of_fields();
    return metadata_.value.c_str();
  });
}

std::int32_t Plugin::setTactic(std::int32_t tactic) noexcept {
  return guarded(where(), kFailed, [&] {
    check_tactic(tactic);
    if (tactic != tactic_) planned_.value.clear();
    tactic_ = tactic;
    return kDone;
  });
}

Plugin::Shapes Plugin::shapes_of(const LayerTensors& tensors) const {
  Shapes shapes;
  for (std::size_t input = 0; input < kMaxInputs; ++input) {
    shapes[input] = tensors.inputs[input] == nullptr ? ShapeView{nullptr, ShapeView::kAbsent}
                                                     : view_of(tensors.inputs[input]->dims);
  }
  return shapes;
}

bool Plugin::is_planned(const PluginTensorDesc* in, const PluginTensorDesc* out) const {
  const std::vector<PluginTensorDesc>& planned = planned_.value;
  if (planned.empty()) return false;
  const auto inputs = planned.size() - kOutputs;
  return std::equal(planned.begin(), planned.begin() + static_cast<std::ptrdiff_t>(inputs), in,
                    is_same) &&
         is_same(planned.back(), out[0]);
}

void Plugin::plan_for(const PluginTensorDesc* in, int input_count, const PluginTensorDesc* out) {
  planned_.value.clear();
  const LayerTensors tensors = inputs_->tensors(in, input_count, out);
  inputs_->check_formats(tensors, output_type(tensors.inputs[0]->type));
  plan(tensors, tactic_);
  planned_.value.assign(in, in + input_count);
  planned_.value.push_back(out[0]);
}

std::int32_t Plugin::onShapeChange(const PluginTensorDesc* in, std::int32_t input_count,
                                   const PluginTensorDesc* out,
                                   std::int32_t output_count) noexcept {
  return guarded(where(), kFailed, [&] {
    require_outputs(output_count);
    plan_for(in, input_count, out);
    input_count_ = input_count;
    return kDone;
  });
}

std::int32_t Plugin::enqueue(const PluginTensorDesc* input_desc,
                             const PluginTensorDesc* output_desc, const void* const* inputs,
                             void* const* outputs, void* workspace, cudaStream_t stream) noexcept {
  return guarded(where(), kFailed, [&] {
    if (input_count_ < 0) {
      throw Failure("enqueue: expected onShapeChange or configurePlugin before it, got neither");
    }
    // Not for these tensors where a tactic was set since, or the sizes changed unannounced.
    if (!is_planned(input_desc, output_desc)) plan_for(input_desc, input_count_, output_desc);
    const LayerInputs::Positions positions = inputs_->positions(input_count_);
    Addresses addresses;
    for (std::size_t input = 0; input < inputs_->count(); ++input) {
      const int position = positions[input];
      if (position == LayerInputs::kAbsent) continue;
      addresses.inputs[input] = inputs[position];
      if (inputs[position] == nullptr && volume(input_desc[position].dims) > 0) {
        throw Failure(std::string("input ") + inputs_->spec(input).name +
                      ": expected an address, got null");
      }
    }
    addresses.y = outputs[0];
    if (addresses.y == nullptr && volume(output_desc[0].dims) > 0) {
      throw Failure("output Y: expected an address, got null");
    }
    addresses.workspace = workspace;
    launch(addresses, stream);
    return kDone;
  });
}

nvinfer1::IPluginV3* Plugin::attachToContext(nvinfer1::IPluginResourceContext*) noexcept {
  return guarded<nvinfer1::IPluginV3*>(where(), nullptr, [&] {
    std::unique_ptr<Plugin> attached = copy();
    attached->attached_ = true;
    return attached.release();
  });
}

const nvinfer1::PluginFieldCollection* Plugin::getFieldsToSerialize() noexcept {
  return guarded<const nvinfer1::PluginFieldCollection*>(where(), nullptr, [&] {
    auto writer = std::make_unique<FieldWriter>();
    visit_fields(writer.get());
    writer->text(kLayerField, &origin_.layer);
    written_.value = std::move(writer);
    return written_.value->collection();
  });
}

}  // namespace tensorrt
}  // namespace dcn_deploy
