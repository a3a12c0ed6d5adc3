// Element types that the operators take, and tensors as the core's checks see them.

#ifndef DCN_DEPLOY_ONNXRUNTIME_FEATURE_TYPES_H_
#define DCN_DEPLOY_ONNXRUNTIME_FEATURE_TYPES_H_

#include <onnxruntime_c_api.h>

#include <array>
#include <cstddef>
#include <string>

#include "core/dtype.h"
#include "core/shape_check.h"
#include "onnxruntime/api.h"

namespace dcn_deploy {
namespace onnxruntime {

// Types of X, one overload of an operator for each.
inline constexpr std::array<ONNXTensorElementDataType, 3> kFeatureTypes = {
    ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
    ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
    ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16,
};

// The core's name of one of kFeatureTypes.
DType dtype_of(ONNXTensorElementDataType type);

// Refuses an input that is there and has neither the type of X nor, if `may_be_float32`, float32.
// `where` is that of NodeInfo.
void check_type(const std::string& where, const char* input, const TensorDescription& tensor,
                ONNXTensorElementDataType feature_type, bool may_be_float32);

// Looks into `tensor`, which must outlive it.
ShapeView view_of(const TensorDescription& tensor);

}  // namespace onnxruntime
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_ONNXRUNTIME_FEATURE_TYPES_H_
