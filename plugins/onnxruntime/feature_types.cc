#include "onnxruntime/feature_types.h"

#include <cstdint>

namespace dcn_deploy {
namespace onnxruntime {

DType dtype_of(ONNXTensorElementDataType type) {
  switch (type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT:
      return DType::kFloat32;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16:
      return DType::kFloat16;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16:
      return DType::kBFloat16;
    default:
      throw Failure(ORT_FAIL, std::string("dcn_deploy: expected a checked element type, got ") +
                                  name_of(type));
  }
}

void check_type(const std::string& where, const char* input, const TensorDescription& tensor,
                ONNXTensorElementDataType feature_type, bool may_be_float32) {
  if (!tensor.present || tensor.type == feature_type) return;
  if (may_be_float32 && tensor.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) return;
  const std::string features = name_of(feature_type);
  const std::string expected = may_be_float32 && feature_type != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT
                                   ? "float32 or the type of X, " + features
                                   : "the type of X, " + features;
  throw Failure(ORT_INVALID_ARGUMENT, where + ": input " + input + ": expected " + expected +
                                          ", got " + name_of(tensor.type));
}

ShapeView view_of(const TensorDescription& tensor) {
  if (!tensor.present) return {nullptr, ShapeView::kAbsent};
  if (!tensor.known_rank) return {nullptr, ShapeView::kUnknownRank};
  return {tensor.dims.data(), static_cast<std::int64_t>(tensor.dims.size())};
}

}  // namespace onnxruntime
}  // namespace dcn_deploy
