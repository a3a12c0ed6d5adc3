// Shapes as ONNX Runtime infers them while a graph is loaded.

#ifndef DCN_DEPLOY_ONNXRUNTIME_INFERENCE_H_
#define DCN_DEPLOY_ONNXRUNTIME_INFERENCE_H_

#include <onnxruntime_c_api.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "onnxruntime/api.h"

namespace dcn_deploy {
namespace onnxruntime {

// A dim that is a number, a symbol, or (number -1 and no symbol) unknown.
struct Dim {
  std::int64_t size = -1;
  std::string symbol;

  bool known() const { return size >= 0 || !symbol.empty(); }
};

using Shape = std::vector<Dim>;  // empty: unknown rank

// The dim along an axis of a tensor of `rank`; unknown if the rank is another or unknown.
Dim at(const Shape& shape, std::size_t axis, std::size_t rank = 4);

Dim first_known(const Dim& a, const Dim& b, const Dim& c);

// Reads a node while the shapes of its graph are inferred.
class Inference {
 public:
  Inference(const OrtApi& api, OrtShapeInferContext* context) : api_(api), context_(context) {}

  Shape input(std::size_t index) const;
  ONNXTensorElementDataType input_type(std::size_t index) const;

  // The values of an attribute, or the defaults if it is absent or malformed.
  template <std::size_t kLength>
  std::array<std::int64_t, kLength> ints(const char* name,
                                         std::array<std::int64_t, kLength> values) const {
    std::array<std::int64_t, kLength> read{};
    return read_attribute(name, ORT_OP_ATTR_INTS, read.data(), sizeof(read)) ? read : values;
  }

  std::int64_t integer(const char* name, std::int64_t value) const;
  std::string string(const char* name, const char* value) const;

  void set_output(ONNXTensorElementDataType type, const std::array<Dim, 4>& shape) const;

 private:
  // Whether there is such an attribute of that type and size in bytes.
  bool read_attribute(const char* name, OrtOpAttrType type, void* data, std::size_t size) const;
  // Owned by the context; null for an input that is not there.
  const OrtTensorTypeAndShapeInfo* input_info(std::size_t index) const;
  bool succeeded(OrtStatusPtr status) const;

  const OrtApi& api_;
  OrtShapeInferContext* context_;
};

}  // namespace onnxruntime
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_ONNXRUNTIME_INFERENCE_H_
