#include "onnxruntime/inference.h"

#include <atomic>
#include <memory>

namespace dcn_deploy {
namespace onnxruntime {
namespace {

// ONNX Runtime would write an unknown dim without a name into the graph as the size -1. The names
// must differ: dims of one name are taken to be equal.
std::string unknown_name() {
  static std::atomic<std::uint64_t> count{0};
  return "dcn_deploy_unknown_" + std::to_string(count.fetch_add(1));
}

}  // namespace

Dim at(const Shape& shape, std::size_t axis, std::size_t rank) {
  return shape.size() == rank ? shape[axis] : Dim{};
}

Dim first_known(const Dim& a, const Dim& b, const Dim& c) {
  if (a.known()) return a;
  return b.known() ? b : c;
}

Shape Inference::input(std::size_t index) const {
  const OrtTensorTypeAndShapeInfo* info = input_info(index);
  if (info == nullptr) return {};
  std::size_t rank = 0;
  check(api_, api_.GetDimensionsCount(info, &rank));
  std::vector<std::int64_t> sizes(rank);
  std::vector<const char*> symbols(rank, nullptr);
  if (rank > 0) {
    check(api_, api_.GetDimensions(info, sizes.data(), rank));
    check(api_, api_.GetSymbolicDimensions(info, symbols.data(), rank));
  }
  Shape shape(rank);
  for (std::size_t axis = 0; axis < rank; ++axis) {
    if (symbols[axis] != nullptr) shape[axis].symbol = symbols[axis];
    if (shape[axis].symbol.empty() && sizes[axis] >= 0) shape[axis].size = sizes[axis];
  }
  return shape;
}

ONNXTensorElementDataType Inference::input_type(std::size_t index) const {
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  const OrtTensorTypeAndShapeInfo* info = input_info(index);
  if (info != nullptr) check(api_, api_.GetTensorElementType(info, &type));
  return type;
}

std::int64_t Inference::integer(const char* name, std::int64_t value) const {
  std::int64_t read = 0;
  return read_attribute(name, ORT_OP_ATTR_INT, &read, sizeof(read)) ? read : value;
}

std::string Inference::string(const char* name, const char* value) const {
  const OrtOpAttr* attribute = nullptr;
  if (!succeeded(api_.ShapeInferContext_GetAttribute(context_, name, &attribute))) return value;
  // Long enough for every string that an operator knows; a longer one is malformed.
  std::array<char, 32> read{};
  std::size_t bytes = 0;
  const bool fits =
      succeeded(api_.ReadOpAttr(attribute, ORT_OP_ATTR_STRING, read.data(), read.size(), &bytes));
  return fits && bytes <= read.size() ? std::string(read.data(), bytes) : value;
}

void Inference::set_output(ONNXTensorElementDataType type, const std::array<Dim, 4>& shape) const {
  OrtTensorTypeAndShapeInfo* raw_info = nullptr;
  check(api_, api_.CreateTensorTypeAndShapeInfo(&raw_info));
  const std::unique_ptr<OrtTensorTypeAndShapeInfo, decltype(api_.ReleaseTensorTypeAndShapeInfo)>
      info(raw_info, api_.ReleaseTensorTypeAndShapeInfo);
  std::array<std::int64_t, 4> sizes{};
  std::array<std::string, 4> names;
  std::array<const char*, 4> symbols{};
  for (std::size_t axis = 0; axis < 4; ++axis) {
    names[axis] = shape[axis].known() ? shape[axis].symbol : unknown_name();
    sizes[axis] = names[axis].empty() ? shape[axis].size : -1;
    symbols[axis] = names[axis].c_str();
  }
  check(api_, api_.SetTensorElementType(info.get(), type));
  check(api_, api_.SetDimensions(info.get(), sizes.data(), sizes.size()));
  check(api_, api_.SetSymbolicDimensions(info.get(), symbols.data(), symbols.size()));
  check(api_, api_.ShapeInferContext_SetOutputTypeShape(context_, 0, info.get()));
}

bool Inference::read_attribute(const char* name, OrtOpAttrType type, void* data,
                               std::size_t size) const {
  const OrtOpAttr* attribute = nullptr;
  if (!succeeded(api_.ShapeInferContext_GetAttribute(context_, name, &attribute))) return false;
  std::size_t bytes = 0;
  return succeeded(api_.ReadOpAttr(attribute, type, data, size, &bytes)) && bytes == size;
}

const OrtTensorTypeAndShapeInfo* Inference::input_info(std::size_t index) const {
  std::size_t count = 0;
  check(api_, api_.ShapeInferContext_GetInputCount(context_, &count));
  if (index >= count) return nullptr;
  OrtTensorTypeAndShapeInfo* info = nullptr;
  return succeeded(api_.ShapeInferContext_GetInputTypeShape(context_, index, &info)) ? info
                                                                                     : nullptr;
}

bool Inference::succeeded(OrtStatusPtr status) const {
  if (status == nullptr) return true;
  api_.ReleaseStatus(status);
  return false;
}

}  // namespace onnxruntime
}  // namespace dcn_deploy
