#include "onnxruntime/api.h"

namespace dcn_deploy {
namespace onnxruntime {
namespace {

// A name that ONNX Runtime writes into a buffer of ours, whose size it tells first.
template <typename Read>
std::string read_string(const OrtApi& api, Read&& read) {
  std::size_t size = 0;
  check(api, read(nullptr, &size));
  std::string text(size, '\0');
  check(api, read(text.data(), &size));
  while (!text.empty() && text.back() == '\0') text.pop_back();
  return text;
}

// Whether a call succeeded; its status is released.
bool succeeded(const OrtApi& api, OrtStatusPtr status) {
  if (status == nullptr) return true;
  api.ReleaseStatus(status);
  return false;
}

}  // namespace

void check(const OrtApi& api, OrtStatusPtr status) {
  if (status == nullptr) return;
  const OrtErrorCode code = api.GetErrorCode(status);
  std::string message;
  try {
    message = api.GetErrorMessage(status);
  } catch (...) {
    api.ReleaseStatus(status);
    throw;
  }
  api.ReleaseStatus(status);
  throw Failure(code, std::move(message));
}

void check(const Status& status, const std::string& where) {
  if (status.ok()) return;
  const bool is_of_the_machine =
      status.code == StatusCode::kOutOfMemory || status.code == StatusCode::kDevice;
  const OrtErrorCode code = is_of_the_machine ? ORT_FAIL : ORT_INVALID_ARGUMENT;
  throw Failure(code, where + ": " + status.message);
}

const char* name_of(ONNXTensorElementDataType type) {
  switch (type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT:
      return "float32";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16:
      return "float16";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16:
      return "bfloat16";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE:
      return "float64";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8:
      return "int8";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8:
      return "uint8";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16:
      return "int16";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16:
      return "uint16";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32:
      return "int32";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32:
      return "uint32";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64:
      return "int64";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64:
      return "uint64";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL:
      return "bool";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING:
      return "string";
    default:
      return "another type";
  }
}

NodeInfo::NodeInfo(const OrtApi& api, const OrtKernelInfo* info, const char* op_type)
    : api_(api), info_(info) {
  std::string name = read_string(api, [&](char* out, std::size_t* size) {
    return api.KernelInfo_GetNodeName(info, out, size);
  });
  where_ = std::string(op_type) + " node ";
  if (name.empty()) {
    name = read_string(api, [&](char* out, std::size_t* size) {
      return api.KernelInfo_GetOutputName(info, 0, out, size);
    });
    where_ += "with output ";
  }
  where_ += "'" + name + "'";
}

bool NodeInfo::has_single_value(const char* name) const {
  std::size_t size = 0;
  std::int64_t integer = 0;
  float real = 0;
  return succeeded(api_, api_.KernelInfoGetAttribute_int64(info_, name, &integer)) ||
         succeeded(api_, api_.KernelInfoGetAttribute_float(info_, name, &real)) ||
         succeeded(api_, api_.KernelInfoGetAttribute_string(info_, name, nullptr, &size));
}

// There is no call that asks for an attribute's type. The readers of one value fail for another
// type; those of a list find no values in it.

bool NodeInfo::has_attribute(const char* name) const {
  std::size_t integers = 0;
  std::size_t reals = 0;
  return has_single_value(name) ||
         succeeded(api_, api_.KernelInfoGetAttributeArray_int64(info_, name, nullptr, &integers)) ||
         succeeded(api_, api_.KernelInfoGetAttributeArray_float(info_, name, nullptr, &reals));
}

void NodeInfo::refuse_other_type(const char* name, const char* expected) const {
  if (!has_attribute(name)) return;
  throw Failure(ORT_INVALID_ARGUMENT, where_ + ": attribute " + name + ": expected " + expected +
                                          ", got another type of attribute");
}

std::int64_t NodeInfo::int_attribute(const char* name, std::int64_t default_value) const {
  std::int64_t value = 0;
  if (succeeded(api_, api_.KernelInfoGetAttribute_int64(info_, name, &value))) return value;
  refuse_other_type(name, "an integer");
  return default_value;
}

float NodeInfo::float_attribute(const char* name, float default_value) const {
  float value = 0;
  if (succeeded(api_, api_.KernelInfoGetAttribute_float(info_, name, &value))) return value;
  refuse_other_type(name, "a real number");
  return default_value;
}

std::string NodeInfo::string_attribute(const char* name, const char* default_value) const {
  std::size_t size = 0;
  if (succeeded(api_, api_.KernelInfoGetAttribute_string(info_, name, nullptr, &size))) {
    return read_string(api_, [&](char* out, std::size_t* length) {
      return api_.KernelInfoGetAttribute_string(info_, name, out, length);
    });
  }
  refuse_other_type(name, "a string");
  return default_value;
}

std::vector<std::int64_t> NodeInfo::ints_attribute(const char* name, std::size_t length) const {
  std::size_t size = 0;
  const bool present =
      succeeded(api_, api_.KernelInfoGetAttributeArray_int64(info_, name, nullptr, &size));
  if (size == 0) {
    std::size_t reals = 0;
    const bool has_reals =
        succeeded(api_, api_.KernelInfoGetAttributeArray_float(info_, name, nullptr, &reals)) &&
        reals > 0;
    if (has_reals || has_single_value(name)) {
      throw Failure(ORT_INVALID_ARGUMENT,
                    where_ + ": attribute " + name +
                        ": expected a list of integers, got another type of attribute");
    }
  }
  if (!present) return {};
  if (size != length) {
    throw Failure(ORT_INVALID_ARGUMENT, where_ + ": attribute " + name + ": expected " +
                                            std::to_string(length) + " values, got " +
                                            std::to_string(size));
  }
  std::vector<std::int64_t> values(size);
  check(api_, api_.KernelInfoGetAttributeArray_int64(info_, name, values.data(), &size));
  return values;
}

std::string NodeInfo::input_name(std::size_t index) const {
  return read_string(api_, [&](char* out, std::size_t* size) {
    return api_.KernelInfo_GetInputName(info_, index, out, size);
  });
}

TensorDescription NodeInfo::input(std::size_t index) const {
  std::size_t count = 0;
  check(api_, api_.KernelInfo_GetInputCount(info_, &count));
  // An optional input left out before a later one has the empty name.
  if (index >= count || input_name(index).empty()) return {};
  OrtTypeInfo* raw_type_info = nullptr;
  check(api_, api_.KernelInfo_GetInputTypeInfo(info_, index, &raw_type_info));
  const std::unique_ptr<OrtTypeInfo, decltype(api_.ReleaseTypeInfo)> type_info(
      raw_type_info, api_.ReleaseTypeInfo);
  const OrtTensorTypeAndShapeInfo* tensor_info = nullptr;
  check(api_, api_.CastTypeInfoToTensorInfo(type_info.get(), &tensor_info));
  if (tensor_info == nullptr) {
    throw Failure(ORT_INVALID_ARGUMENT, where_ + ": input " + std::to_string(index) +
                                            ": expected a tensor, got another kind of value");
  }
  TensorDescription description = describe(api_, tensor_info);
  description.known_rank = !description.dims.empty();
  return description;
}

const OrtValue* NodeInfo::constant_input(std::size_t index) const {
  int is_constant = 0;
  const OrtValue* value = nullptr;
  check(api_, api_.KernelInfoGetConstantInput_tensor(info_, index, &is_constant, &value));
  return is_constant != 0 ? value : nullptr;
}

TensorDescription describe(const OrtApi& api, const OrtTensorTypeAndShapeInfo* info) {
  TensorDescription description;
  description.present = true;
  check(api, api.GetTensorElementType(info, &description.type));
  std::size_t rank = 0;
  check(api, api.GetDimensionsCount(info, &rank));
  description.dims.resize(rank);
  if (rank > 0) check(api, api.GetDimensions(info, description.dims.data(), rank));
  for (std::int64_t& dim : description.dims) {
    if (dim < 0) dim = -1;
  }
  description.known_rank = true;
  return description;
}

TensorDescription describe(const OrtApi& api, const OrtValue* value) {
  if (value == nullptr) return {};
  OrtTensorTypeAndShapeInfo* raw_info = nullptr;
  check(api, api.GetTensorTypeAndShape(value, &raw_info));
  const std::unique_ptr<OrtTensorTypeAndShapeInfo, decltype(api.ReleaseTensorTypeAndShapeInfo)>
      info(raw_info, api.ReleaseTensorTypeAndShapeInfo);
  return describe(api, info.get());
}

const void* data_of(const OrtApi& api, const OrtValue* value) {
  if (value == nullptr) return nullptr;
  // The C API has one accessor, which takes a mutable value; the data is only read.
  void* data = nullptr;
  check(api, api.GetTensorMutableData(const_cast<OrtValue*>(value), &data));
  return data;
}

}  // namespace onnxruntime
}  // namespace dcn_deploy
