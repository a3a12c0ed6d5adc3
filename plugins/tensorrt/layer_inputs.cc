#include "tensorrt/layer_inputs.h"

#include <algorithm>
#include <utility>

#include "tensorrt/failure.h"

namespace dcn_deploy {
namespace tensorrt {
namespace {

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts;
  std::size_t begin = 0;
  while (begin <= text.size()) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

// What X or Y has where a row of kFeatureFormats fits, else null.
const FeatureFormat* row_of_features(const nvinfer1::PluginTensorDesc& desc) {
  const FeatureFormat* row = find_feature_format(desc.type, desc.format);
  if (row == nullptr || row->channel_multiple == 1) return row;
  const std::int64_t channels = view_of(desc.dims).dim(1);
  return channels > 0 && channels % row->channel_multiple == 0 ? row : nullptr;
}

bool is_int8(nvinfer1::DataType type) { return type == nvinfer1::DataType::kINT8; }

bool is_features(InputType type) {
  return type == InputType::kFeatures || type == InputType::kInt8Features;
}

// Types of features, without int8 or int8 alone.
std::string feature_types(bool int8) {
  std::string types;
  for (const FeatureFormat& row : kFeatureFormats) {
    if (row.format != nvinfer1::TensorFormat::kLINEAR || is_int8(row.type) != int8) continue;
    types += (types.empty() ? "" : ", ") + name_of(row.type);
  }
  return types;
}

bool is_feature_type(nvinfer1::DataType type, bool int8) {
  return is_int8(type) == int8 && tensorrt::is_feature_type(type);
}

void check_features(const char* tensor, const nvinfer1::PluginTensorDesc& desc) {
  if (row_of_features(desc) != nullptr) return;
  std::string expected;
  for (const FeatureFormat& row : kFeatureFormats) {
    if (is_int8(row.type) != is_int8(desc.type)) continue;
    expected += (expected.empty() ? "" : ", ") + name_of(row.type) + " " + name_of(row.format);
    if (row.channel_multiple > 1) {
      expected += " of a multiple of " + std::to_string(row.channel_multiple) + " channels";
    }
  }
  throw Failure(std::string(tensor) + ": expected one of " + expected + ", got " +
                name_of(desc.type) + " " + name_of(desc.format) + " of " +
                std::to_string(view_of(desc.dims).dim(1)) + " channels");
}

}  // namespace

LayerInputs::LayerInputs(std::vector<InputSpec> specs, const std::string& optional_inputs)
    : specs_(std::move(specs)) {
  std::string optional;
  for (const InputSpec& spec : specs_) {
    if (spec.optional) {
      optional += (optional.empty() ? "" : ",") + std::string(spec.name);
    } else {
      ++required_;
    }
  }
  if (optional_inputs.empty()) return;
  for (std::size_t i = 0; i < required_; ++i) given_.push_back(i);
  std::size_t next = required_;
  for (const std::string& name : split(optional_inputs)) {
    while (next < specs_.size() && name != specs_[next].name) ++next;
    if (next == specs_.size()) {
      throw Failure("field optional_inputs: expected names of " + optional +
                    " in this order, separated by commas, got '" + optional_inputs + "'");
    }
    given_.push_back(next++);
  }
}

LayerInputs::Positions LayerInputs::positions(int tensors) const {
  Positions positions;
  positions.fill(kAbsent);
  if (!given_.empty()) {
    if (tensors != static_cast<int>(given_.size())) {
      throw Failure("inputs: expected " + std::to_string(given_.size()) +
                    ", which is what field optional_inputs makes of them, got " +
                    std::to_string(tensors));
    }
    for (std::size_t i = 0; i < given_.size(); ++i) positions[given_[i]] = static_cast<int>(i);
    return positions;
  }
  if (tensors < static_cast<int>(required_) || tensors > static_cast<int>(specs_.size())) {
    std::string names;
    for (const InputSpec& spec : specs_) {
      names += (names.empty() ? "" : ", ") + std::string(spec.name) + (spec.optional ? "?" : "");
    }
    throw Failure("inputs: expected " + std::to_string(required_) + " to " +
                  std::to_string(specs_.size()) + " (" + names + "), got " +
                  std::to_string(tensors));
  }
  for (int i = 0; i < tensors; ++i) positions[static_cast<std::size_t>(i)] = i;
  return positions;
}

std::size_t LayerInputs::input_at(int position, int tensors) const {
  const Positions all = positions(tensors);
  for (std::size_t input = 0; input < specs_.size(); ++input) {
    if (all[input] == position) return input;
  }
  throw Failure("input " + std::to_string(position) + ": expected one below " +
                std::to_string(tensors));
}

LayerTensors LayerInputs::tensors(const nvinfer1::PluginTensorDesc* inputs, int count,
                                  const nvinfer1::PluginTensorDesc* outputs) const {
  if (inputs == nullptr || outputs == nullptr) {
    throw Failure("descriptions of the tensors: expected some, got null");
  }
  const Positions all = positions(count);
  LayerTensors tensors;
  for (std::size_t input = 0; input < specs_.size(); ++input) {
    if (all[input] != kAbsent) tensors.inputs[input] = &inputs[all[input]];
  }
  tensors.y = &outputs[0];
  return tensors;
}

bool LayerInputs::type_fits(std::size_t input, nvinfer1::DataType type,
                            nvinfer1::DataType x_type) const {
  switch (specs_[input].type) {
    case InputType::kFeatures:
    case InputType::kFloatingPoint:
      return is_feature_type(type, false);
    case InputType::kInt8Features:
      return is_feature_type(type, true);
    case InputType::kFloat32:
      return type == nvinfer1::DataType::kFLOAT;
    case InputType::kAsX:
      return type == x_type;
    case InputType::kFloat32OrAsX:
      return type == x_type || type == nvinfer1::DataType::kFLOAT;
  }
  return false;
}

void LayerInputs::check_type(std::size_t input, nvinfer1::DataType type,
                             nvinfer1::DataType x_type) const {
  if (type_fits(input, type, x_type)) return;
  std::string expected;
  switch (specs_[input].type) {
    case InputType::kFeatures:
    case InputType::kFloatingPoint:
      expected = "one of " + feature_types(false);
      break;
    case InputType::kInt8Features:
      expected = feature_types(true) + ", since there are scales";
      break;
    case InputType::kFloat32:
      expected = "float32";
      break;
    case InputType::kAsX:
    case InputType::kFloat32OrAsX: {
      const bool or_float32 =
          specs_[input].type == InputType::kFloat32OrAsX && x_type != nvinfer1::DataType::kFLOAT;
      expected = (or_float32 ? "float32 or the type of X, " : "the type of X, ") + name_of(x_type);
      break;
    }
  }
  throw Failure(std::string("input ") + specs_[input].name + ": expected " + expected + ", got " +
                name_of(type));
}

void LayerInputs::check_formats(const LayerTensors& tensors, nvinfer1::DataType y_type) const {
  const nvinfer1::PluginTensorDesc& x = *tensors.inputs[0];
  for (std::size_t input = 0; input < specs_.size(); ++input) {
    const nvinfer1::PluginTensorDesc* desc = tensors.inputs[input];
    if (desc == nullptr) continue;
    check_type(input, desc->type, x.type);
    if (is_features(specs_[input].type)) {
      check_features("input X", *desc);
    } else if (desc->format != nvinfer1::TensorFormat::kLINEAR) {
      throw Failure(std::string("input ") + specs_[input].name +
                    ": expected the format kLINEAR, got " + name_of(desc->format));
    }
  }
  if (tensors.y->type != y_type) {
    throw Failure(
        (y_type == x.type ? "output Y: expected the type of X, " : "output Y: expected ") +
        name_of(y_type) + ", got " + name_of(tensors.y->type));
  }
  check_features("output Y", *tensors.y);
}

bool LayerInputs::fits(std::size_t input, const nvinfer1::PluginTensorDesc& desc,
                       const nvinfer1::PluginTensorDesc& x) const {
  if (is_features(specs_[input].type)) {
    return type_fits(input, desc.type, x.type) && fits_features(desc);
  }
  return desc.format == nvinfer1::TensorFormat::kLINEAR && type_fits(input, desc.type, x.type);
}

bool fits_features(const nvinfer1::PluginTensorDesc& desc) {
  return row_of_features(desc) != nullptr;
}

}  // namespace tensorrt
}  // namespace dcn_deploy
