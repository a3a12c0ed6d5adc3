#include "tensorrt/tensor_desc.h"

#include <algorithm>
#include <type_traits>

#include "tensorrt/failure.h"

namespace dcn_deploy {
namespace tensorrt {
namespace {

static_assert(
    std::is_same<std::remove_extent<decltype(nvinfer1::Dims::d)>::type, std::int64_t>::value,
    "dims are looked at in place");

}  // namespace

const FeatureFormat* find_feature_format(nvinfer1::DataType type, nvinfer1::TensorFormat format) {
  for (const FeatureFormat& row : kFeatureFormats) {
    if (row.type == type && row.format == format) return &row;
  }
  return nullptr;
}

bool is_feature_type(nvinfer1::DataType type) {
  return find_feature_format(type, nvinfer1::TensorFormat::kLINEAR) != nullptr;
}

DType dtype_of(nvinfer1::DataType type) {
  const FeatureFormat* row = find_feature_format(type, nvinfer1::TensorFormat::kLINEAR);
  if (row == nullptr) throw Failure("expected a checked element type, got " + name_of(type));
  return row->dtype;
}

std::string name_of(nvinfer1::DataType type) {
  switch (type) {
    case nvinfer1::DataType::kFLOAT:
      return "float32";
    case nvinfer1::DataType::kHALF:
      return "float16";
    case nvinfer1::DataType::kBF16:
      return "bfloat16";
    case nvinfer1::DataType::kINT8:
      return "int8";
    case nvinfer1::DataType::kINT32:
      return "int32";
    case nvinfer1::DataType::kINT64:
      return "int64";
    case nvinfer1::DataType::kBOOL:
      return "bool";
    case nvinfer1::DataType::kUINT8:
      return "uint8";
    case nvinfer1::DataType::kFP8:
      return "float8";
    default:
      return "type " + std::to_string(static_cast<std::int32_t>(type));
  }
}

std::string name_of(nvinfer1::TensorFormat format) {
  switch (format) {
    case nvinfer1::TensorFormat::kLINEAR:
      return "kLINEAR";
    case nvinfer1::TensorFormat::kHWC8:
      return "kHWC8";
    case nvinfer1::TensorFormat::kHWC16:
      return "kHWC16";
    case nvinfer1::TensorFormat::kHWC:
      return "kHWC";
    case nvinfer1::TensorFormat::kCHW2:
      return "kCHW2";
    case nvinfer1::TensorFormat::kCHW4:
      return "kCHW4";
    case nvinfer1::TensorFormat::kCHW16:
      return "kCHW16";
    case nvinfer1::TensorFormat::kCHW32:
      return "kCHW32";
    default:
      return "format " + std::to_string(static_cast<std::int32_t>(format));
  }
}

ShapeView view_of(const nvinfer1::Dims& dims) {
  if (dims.nbDims < 0) return {nullptr, ShapeView::kUnknownRank};
  return {dims.d, dims.nbDims};
}

bool is_same(const nvinfer1::PluginTensorDesc& a, const nvinfer1::PluginTensorDesc& b) {
  return a.type == b.type && a.format == b.format && a.dims.nbDims == b.dims.nbDims &&
         std::equal(a.dims.d, a.dims.d + std::max(0, a.dims.nbDims), b.dims.d);
}

}  // namespace tensorrt
}  // namespace dcn_deploy
