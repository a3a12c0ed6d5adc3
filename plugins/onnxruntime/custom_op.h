// A custom operator for one of ONNX Runtime's providers, with one overload for each type of X.

#ifndef DCN_DEPLOY_ONNXRUNTIME_CUSTOM_OP_H_
#define DCN_DEPLOY_ONNXRUNTIME_CUSTOM_OP_H_

#include <onnxruntime_c_api.h>

#include <array>
#include <cstddef>

#include "onnxruntime/api.h"
#include "onnxruntime/feature_types.h"

namespace dcn_deploy {
namespace onnxruntime {

// `Operator` has
//
//   Node, with kOpType, kInputCount and is_optional(index), index 0 being X;
//   kProvider, the provider's name, null for the CPU's;
//   Kernel, made from (const OrtApi&, const OrtKernelInfo*, type of X), with
//       compute(OrtKernelContext*) const, which throws Failure;
//   infer_shape(const OrtApi&, OrtShapeInferContext*) noexcept.
template <typename Operator>
class CustomOp : public OrtCustomOp {
 public:
  // They live as long as the library; the arguments of the first call count.
  static const OrtCustomOp* overload(const OrtApi& api, bool infer_shapes, std::size_t index) {
    static const std::array<CustomOp, kFeatureTypes.size()> overloads = {
        CustomOp(api, infer_shapes, kFeatureTypes[0]),
        CustomOp(api, infer_shapes, kFeatureTypes[1]),
        CustomOp(api, infer_shapes, kFeatureTypes[2])};
    return &overloads[index];
  }

 private:
  struct Instance {
    const OrtApi& api;
    typename Operator::Kernel kernel;
  };

  CustomOp(const OrtApi& api, bool infer_shapes, ONNXTensorElementDataType feature_type)
      : OrtCustomOp{}, api_(&api), feature_type_(feature_type) {
    version = kApiVersion;
    GetName = [](const OrtCustomOp*) { return Operator::Node::kOpType; };
    GetExecutionProviderType = [](const OrtCustomOp*) { return Operator::kProvider; };
    GetInputTypeCount = [](const OrtCustomOp*) -> std::size_t {
      return Operator::Node::kInputCount;
    };
    // X tells the overloads apart. The other inputs are left open, so that it is the kernel that
    // refuses a wrong type, with a message that says what was expected.
    GetInputType = [](const OrtCustomOp* self, std::size_t index) {
      return index == 0 ? of(self).feature_type_ : ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    };
    GetInputCharacteristic = [](const OrtCustomOp*, std::size_t index) {
      return Operator::Node::is_optional(index) ? INPUT_OUTPUT_OPTIONAL : INPUT_OUTPUT_REQUIRED;
    };
    GetInputMemoryType = [](const OrtCustomOp*, std::size_t) { return OrtMemTypeDefault; };
    GetOutputTypeCount = [](const OrtCustomOp*) -> std::size_t { return 1; };
    GetOutputType = [](const OrtCustomOp* self, std::size_t) { return of(self).feature_type_; };
    GetOutputCharacteristic = [](const OrtCustomOp*, std::size_t) { return INPUT_OUTPUT_REQUIRED; };
    GetVariadicInputMinArity = [](const OrtCustomOp*) { return 0; };
    GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 0; };
    GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 0; };
    GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 0; };
    CreateKernelV2 = [](const OrtCustomOp* self, const OrtApi* of_session,
                        const OrtKernelInfo* info, void** instance) -> OrtStatusPtr {
      return guarded(*of_session, [&] {
        *instance = new Instance{*of_session, {*of_session, info, of(self).feature_type_}};
      });
    };
    KernelComputeV2 = [](void* instance, OrtKernelContext* context) -> OrtStatusPtr {
      const auto& self = *static_cast<const Instance*>(instance);
      return guarded(self.api, [&] { self.kernel.compute(context); });
    };
    KernelDestroy = [](void* instance) { delete static_cast<Instance*>(instance); };
    if (infer_shapes) {
      InferOutputShapeFn = [](const OrtCustomOp* self,
                              OrtShapeInferContext* context) -> OrtStatusPtr {
        Operator::infer_shape(*of(self).api_, context);
        return nullptr;
      };
    }
    GetStartVersion = [](const OrtCustomOp*) { return 1; };
    GetEndVersion = [](const OrtCustomOp*) { return 1; };
  }

  static const CustomOp& of(const OrtCustomOp* op) { return *static_cast<const CustomOp*>(op); }

  const OrtApi* api_;
  ONNXTensorElementDataType feature_type_;
};

}  // namespace onnxruntime
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_ONNXRUNTIME_CUSTOM_OP_H_
