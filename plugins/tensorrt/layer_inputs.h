// Which tensor of a layer is which input of its operator, and which types and formats each takes.
//
// A layer of TensorRT has no place for an input that is not there: of X, W, offset, "", mask it has
// four tensors. Which optional inputs those are, the field `optional_inputs` says: their names in
// the operator's order, separated by commas ("mask"). Without it they are the first ones, as many
// as there are tensors: B of four, B and mask of five. It is never guessed from a shape.

#ifndef DCN_DEPLOY_TENSORRT_LAYER_INPUTS_H_
#define DCN_DEPLOY_TENSORRT_LAYER_INPUTS_H_

#include <NvInferRuntime.h>

#include <array>
#include <cstddef>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/shape_check.h"
#include "tensorrt/tensor_desc.h"

namespace dcn_deploy {
namespace tensorrt {

enum class InputType {
  kFeatures,       // X itself: any row of kFeatureFormats of a floating-point type
  kInt8Features,   // X itself: any row of int8
  kAsX,            // the type of X, linear
  kFloat32OrAsX,   // float32 or the type of X, linear
  kFloat32,        // linear
  kFloatingPoint,  // any floating-point type, linear
};

struct InputSpec {
  const char* name;
  bool optional;
  InputType type;
};

inline constexpr std::size_t kMaxInputs = 5;
// Y has any row of kFeatureFormats of its type.
inline constexpr int kOutputs = 1;

// A layer's tensors under their operator's names; null where an optional input is not there.
struct LayerTensors {
  std::array<const nvinfer1::PluginTensorDesc*, kMaxInputs> inputs{};
  const nvinfer1::PluginTensorDesc* y = nullptr;
};

// The inputs of one operator. `specs` in the operator's order, X first, the optional ones last.
class LayerInputs {
 public:
  // Throws a Failure if `optional_inputs` names something else.
  LayerInputs(std::vector<InputSpec> specs, const std::string& optional_inputs);

  std::size_t count() const { return specs_.size(); }
  const InputSpec& spec(std::size_t input) const { return specs_[input]; }

  static constexpr int kAbsent = -1;
  using Positions = std::array<int, kMaxInputs>;
  // For each input its tensor, or kAbsent. Throws a Failure if there cannot be so many.
  Positions positions(int tensors) const;

  // The input that tensor `position` of `tensors` is.
  std::size_t input_at(int position, int tensors) const;

  LayerTensors tensors(const nvinfer1::PluginTensorDesc* inputs, int count,
                       const nvinfer1::PluginTensorDesc* outputs) const;

  // Throws a Failure for a type that the input cannot have beside that of X.
  void check_type(std::size_t input, nvinfer1::DataType type, nvinfer1::DataType x_type) const;
  // Throws a Failure for a type, format or number of channels that does not fit. Y
  // is to have `y_type`.
  void check_formats(const LayerTensors& tensors, nvinfer1::DataType y_type) const;

  // Whether input `input` can have the type and format of `desc` where X is `x`.
  bool fits(std::size_t input, const nvinfer1::PluginTensorDesc& desc,
            const nvinfer1::PluginTensorDesc& x) const;

 private:
  bool type_fits(std::size_t input, nvinfer1::DataType type, nvinfer1::DataType x_type) const;

  const std::vector<InputSpec> specs_;
  std::size_t required_ = 0;
  // Inputs of the layer in their order, as `optional_inputs` has it; empty if it says nothing.
  std::vector<std::size_t> given_;
};

// Whether X or Y can lie in memory like that.
bool fits_features(const nvinfer1::PluginTensorDesc& desc);

}  // namespace tensorrt
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_TENSORRT_LAYER_INPUTS_H_
