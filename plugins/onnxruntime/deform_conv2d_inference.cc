#include "onnxruntime/deform_conv2d_inference.h"

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/deform_conv2d_shape.h"
#include "onnxruntime/api.h"

namespace dcn_deploy {
namespace onnxruntime {
namespace {

// A dim that is a number, a symbol, or (number -1 and no symbol) unknown.
struct Dim {
  std::int64_t size = -1;
  std::string symbol;

  bool known() const { return size >= 0 || !symbol.empty(); }
};

using Shape = std::vector<Dim>;  // empty: unknown rank

// Reads a node while the shapes of its graph are inferred.
class Inference {
 public:
  Inference(const OrtApi& api, OrtShapeInferContext* context) : api_(api), context_(context) {}

  Shape input(std::size_t index) const {
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

  // The values of an attribute, or the defaults if it is absent or malformed.
  template <std::size_t kLength>
  std::array<std::int64_t, kLength> ints(const char* name,
                                         std::array<std::int64_t, kLength> values) const {
    const OrtOpAttr* attribute = nullptr;
    if (!succeeded(api_.ShapeInferContext_GetAttribute(context_, name, &attribute))) return values;
    std::array<std::int64_t, kLength> read{};
    std::size_t bytes = 0;
    const bool fits =
        succeeded(api_.ReadOpAttr(attribute, ORT_OP_ATTR_INTS, read.data(), sizeof(read), &bytes));
    return fits && bytes == sizeof(read) ? read : values;
  }

  ONNXTensorElementDataType input_type(std::size_t index) const {
    ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    const OrtTensorTypeAndShapeInfo* info = input_info(index);
    if (info != nullptr) check(api_, api_.GetTensorElementType(info, &type));
    return type;
  }

  void set_output(ONNXTensorElementDataType type, const std::array<Dim, 4>& shape) const {
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

 private:
  // Owned by the context; null for an input that is not there.
  const OrtTensorTypeAndShapeInfo* input_info(std::size_t index) const {
    std::size_t count = 0;
    check(api_, api_.ShapeInferContext_GetInputCount(context_, &count));
    if (index >= count) return nullptr;
    OrtTensorTypeAndShapeInfo* info = nullptr;
    return succeeded(api_.ShapeInferContext_GetInputTypeShape(context_, index, &info)) ? info
                                                                                       : nullptr;
  }

  bool succeeded(OrtStatusPtr status) const {
    if (status == nullptr) return true;
    api_.ReleaseStatus(status);
    return false;
  }

  // ONNX Runtime would write an unknown dim without a name into the graph as the size -1. The names
  // must differ: dims of one name are taken to be equal.
  static std::string unknown_name() {
    static std::atomic<std::uint64_t> count{0};
    return "dcn_deploy_unknown_" + std::to_string(count.fetch_add(1));
  }

  const OrtApi& api_;
  OrtShapeInferContext* context_;
};

Dim at(const Shape& shape, std::size_t axis) { return shape.size() == 4 ? shape[axis] : Dim{}; }

Dim first_known(const Dim& a, const Dim& b, const Dim& c) {
  if (a.known()) return a;
  return b.known() ? b : c;
}

// Along one axis: from the size of X if that and the kernel are numbers.
Dim output_dim(const Dim& x, const Dim& kernel, std::int64_t pad_begin, std::int64_t pad_end,
               std::int64_t dilation, std::int64_t stride) {
  if (kernel.size < 1 || stride < 1 || dilation < 1 || pad_begin < 0 || pad_end < 0) return {};
  if (x.size >= 0) {
    Dim out;
    out.size = output_extent(x.size, pad_begin, pad_end, dilation, kernel.size, stride);
    if (out.size < 1) out.size = -1;  // the kernel's constructor refuses it
    return out;
  }
  // A padding that makes up for the kernel's reach keeps the size, whatever it is.
  constexpr std::int64_t kProbe = 4096;
  const bool keeps_size =
      stride == 1 && output_extent(kProbe, pad_begin, pad_end, dilation, kernel.size, 1) == kProbe;
  return keeps_size ? x : Dim{};
}

void infer(const Inference& node) {
  const Shape x = node.input(0);
  const Shape w = node.input(1);
  const Shape offset = node.input(2);
  const Shape mask = node.input(4);
  const auto kernel_shape = node.ints<2>("kernel_shape", {-1, -1});
  const auto strides = node.ints<2>("strides", {1, 1});
  const auto pads = node.ints<4>("pads", {0, 0, 0, 0});
  const auto dilations = node.ints<2>("dilations", {1, 1});
  Dim kernel_h = at(w, 2);
  Dim kernel_w = at(w, 3);
  if (kernel_h.size < 0) kernel_h.size = kernel_shape[0];
  if (kernel_w.size < 0) kernel_w.size = kernel_shape[1];
  const Dim out_h = output_dim(at(x, 2), kernel_h, pads[0], pads[2], dilations[0], strides[0]);
  const Dim out_w = output_dim(at(x, 3), kernel_w, pads[1], pads[3], dilations[1], strides[1]);
  node.set_output(node.input_type(0), {first_known(at(x, 0), at(offset, 0), at(mask, 0)), at(w, 0),
                                       first_known(out_h, at(offset, 2), at(mask, 2)),
                                       first_known(out_w, at(offset, 3), at(mask, 3))});
}

}  // namespace

void infer_deform_conv2d_shape(const OrtApi& api, OrtShapeInferContext* context) noexcept {
  OrtStatusPtr status = guarded(api, [&] { infer(Inference(api, context)); });
  if (status != nullptr) api.ReleaseStatus(status);
}

}  // namespace onnxruntime
}  // namespace dcn_deploy
