#include "layer.h"

#include <algorithm>
#include <stdexcept>

#include "test_device.h"

namespace dcn_deploy {
namespace tensorrt {
namespace {

Tensors inputs_of(const Tensors& tensors) { return {tensors.begin(), tensors.end() - 1}; }

}  // namespace

nvinfer1::Dims dims_of(const std::vector<std::int64_t>& sizes) {
  nvinfer1::Dims dims{};
  dims.nbDims = static_cast<std::int32_t>(sizes.size());
  std::copy(sizes.begin(), sizes.end(), dims.d);
  return dims;
}

nvinfer1::PluginTensorDesc tensor(DataType type, TensorFormat format,
                                  const std::vector<std::int64_t>& sizes) {
  return {dims_of(sizes), type, format, -1.0f};
}

std::vector<nvinfer1::DynamicPluginTensorDesc> dynamic(const Tensors& tensors) {
  std::vector<nvinfer1::DynamicPluginTensorDesc> all;
  for (const nvinfer1::PluginTensorDesc& desc : tensors) {
    nvinfer1::DynamicPluginTensorDesc one{};
    one.desc = desc;
    one.min = one.opt = one.max = desc.dims;
    all.push_back(one);
  }
  return all;
}

DataType type_of(DType dtype) {
  constexpr DataType kTypes[] = {DataType::kFLOAT, DataType::kHALF, DataType::kBF16,
                                 DataType::kINT8};
  return kTypes[static_cast<int>(dtype)];
}

PluginPointer create(nvinfer1::IPluginCreatorV3One& creator, const FieldList& fields,
                     nvinfer1::TensorRTPhase phase, const char* name) {
  return PluginPointer(creator.createPlugin(name, fields.collection(), phase));
}

bool supports(nvinfer1::IPluginV3& plugin, const Tensors& tensors) {
  std::vector<nvinfer1::DynamicPluginTensorDesc> all = dynamic(tensors);
  const auto inputs = static_cast<std::int32_t>(all.size()) - 1;
  for (std::int32_t position = 0; position <= inputs; ++position) {
    std::vector<nvinfer1::DynamicPluginTensorDesc> seen(all.begin(), all.begin() + position + 1);
    // What follows the position is not to be looked at.
    seen.resize(all.size());
    for (std::size_t i = static_cast<std::size_t>(position) + 1; i < seen.size(); ++i) {
      seen[i].desc.type = static_cast<DataType>(-1);
      seen[i].desc.format = static_cast<TensorFormat>(-1);
      seen[i].desc.dims.nbDims = -1;
    }
    if (!build_of(plugin).supportsFormatCombination(position, seen.data(), inputs, 1)) return false;
  }
  return true;
}

std::vector<std::int64_t> output_sizes(nvinfer1::IPluginV3& plugin, const Tensors& inputs) {
  SizeBuilder builder;
  std::vector<nvinfer1::DimsExprs> sizes(inputs.size());
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    sizes[i].nbDims = inputs[i].dims.nbDims;
    for (int axis = 0; axis < inputs[i].dims.nbDims; ++axis) {
      sizes[i].d[axis] = builder.known(inputs[i].dims.d[axis]);
    }
  }
  nvinfer1::DimsExprs y{};
  if (build_of(plugin).getOutputShapes(sizes.data(), static_cast<std::int32_t>(sizes.size()),
                                       nullptr, 0, &y, 1, builder) != 0) {
    return {};
  }
  std::vector<std::int64_t> result;
  for (int axis = 0; axis < y.nbDims; ++axis) {
    result.push_back(static_cast<const Size*>(y.d[axis])->evaluate({}));
  }
  return result;
}

int build(nvinfer1::IPluginV3& plugin, const Tensors& tensors) {
  const Tensors inputs = inputs_of(tensors);
  std::vector<DataType> types;
  for (const nvinfer1::PluginTensorDesc& input : inputs) types.push_back(input.type);
  DataType y_type{};
  const auto count = static_cast<std::int32_t>(inputs.size());
  if (build_of(plugin).getOutputDataTypes(&y_type, 1, types.data(), count) != 0) return -1;
  EXPECT_EQ(y_type, tensors.back().type);
  const std::vector<std::int64_t> sizes = output_sizes(plugin, inputs);
  if (sizes.empty()) return -1;
  EXPECT_EQ(sizes, std::vector<std::int64_t>(tensors.back().dims.d,
                                             tensors.back().dims.d + tensors.back().dims.nbDims));
  if (!supports(plugin, tensors)) return -1;
  const auto in = dynamic(inputs);
  const auto out = dynamic({tensors.back()});
  return build_of(plugin).configurePlugin(in.data(), count, out.data(), 1);
}

std::size_t workspace_bytes(nvinfer1::IPluginV3& plugin, const Tensors& tensors) {
  const auto in = dynamic(inputs_of(tensors));
  const auto out = dynamic({tensors.back()});
  return build_of(plugin).getWorkspaceSize(in.data(), static_cast<std::int32_t>(in.size()),
                                           out.data(), 1);
}

PluginPointer read_back(nvinfer1::IPluginCreatorV3One& creator, nvinfer1::IPluginV3& plugin,
                        const char* name) {
  const nvinfer1::PluginFieldCollection* written = runtime_of(plugin).getFieldsToSerialize();
  if (written == nullptr) throw std::runtime_error("the plugin writes no fields");
  const FieldList copy(*written);
  return create(creator, copy, nvinfer1::TensorRTPhase::kRUNTIME, name);
}

PluginPointer attach(nvinfer1::IPluginV3& plugin) {
  static Context context;
  return PluginPointer(runtime_of(plugin).attachToContext(&context));
}

int change_shapes(nvinfer1::IPluginV3& plugin, const Tensors& tensors) {
  const Tensors inputs = inputs_of(tensors);
  return runtime_of(plugin).onShapeChange(inputs.data(), static_cast<std::int32_t>(inputs.size()),
                                          &tensors.back(), 1);
}

int enqueue(nvinfer1::IPluginV3& plugin, const Tensors& tensors,
            const std::vector<const void*>& inputs, void* y, void* workspace, int index) {
  const Tensors descriptions = inputs_of(tensors);
  return runtime_of(plugin).enqueue(descriptions.data(), &tensors.back(), inputs.data(), &y,
                                    workspace, stream(index));
}

void PluginTest::SetUp() {
  PluginLibrary::instance().set_logger_finder(&logger_);
  static_cast<void>(PluginLibrary::instance().findings());
}

void PluginTest::TearDown() {
  PluginLibrary::instance().set_logger_finder(nullptr);
  PluginLibrary::instance().set_capturing(false);
  EXPECT_EQ(PluginLibrary::instance().findings(), "");
  for (const Logger::Message& message : logger_.take()) ADD_FAILURE() << message.text;
}

std::string PluginTest::message() {
  const std::vector<Logger::Message> messages = logger_.take();
  if (messages.size() == 1) return messages[0].text;
  std::string all = std::to_string(messages.size()) + " messages";
  for (const Logger::Message& message : messages) all += "\n" + message.text;
  return all;
}

}  // namespace tensorrt
}  // namespace dcn_deploy
