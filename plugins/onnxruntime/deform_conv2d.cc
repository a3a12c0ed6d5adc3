#include "onnxruntime/deform_conv2d.h"

#include <optional>

#include "core/cpu/deform_conv2d.h"
#include "onnxruntime/api.h"
#include "onnxruntime/custom_op.h"
#include "onnxruntime/deform_conv2d_inference.h"
#include "onnxruntime/deform_conv2d_node.h"
#include "onnxruntime/session_threads.h"

namespace dcn_deploy {
namespace onnxruntime {
namespace {

class DeformConv2dKernel {
 public:
  DeformConv2dKernel(const OrtApi& api, const OrtKernelInfo* info,
                     ONNXTensorElementDataType feature_type)
      : api_(api), node_(api, info, feature_type) {
    if (node_.constant_weight() != nullptr) {
      pack(node_.constant_weight(), &constant_weights_.emplace());
    }
  }

  void compute(OrtKernelContext* context) const {
    const DeformConv2dNode::Run run = node_.begin_run(context);
    if (run.params.batch == 0) return;

    cpu::DeformConv2dTensors tensors;
    tensors.dtype = node_.dtype();
    tensors.offset_dtype = run.offset_dtype;
    tensors.mask_dtype = run.mask_dtype;
    tensors.x = data_of(api_, run.inputs[DeformConv2dNode::kX]);
    tensors.offset = data_of(api_, run.inputs[DeformConv2dNode::kOffset]);
    tensors.bias = data_of(api_, run.inputs[DeformConv2dNode::kB]);
    tensors.mask = data_of(api_, run.inputs[DeformConv2dNode::kMask]);
    check(api_, api_.GetTensorMutableData(run.y, &tensors.y));

    cpu::PackedDeformConv2dWeights run_weights;
    if (!constant_weights_.has_value()) pack(run.inputs[DeformConv2dNode::kW], &run_weights);
    const SessionThreads threads(api_, context);
    check(cpu::deform_conv2d(run.params, tensors,
                             constant_weights_ ? *constant_weights_ : run_weights,
                             threads.parallel_for()),
          node_.where());
  }

 private:
  void pack(const OrtValue* weight, cpu::PackedDeformConv2dWeights* packed) const {
    check(
        cpu::PackedDeformConv2dWeights::pack(node_.params_of_weight(weight), data_of(api_, weight),
                                             node_.dtype(), cpu::select_kernels(), packed),
        node_.where());
  }

  const OrtApi& api_;
  const DeformConv2dNode node_;
  std::optional<cpu::PackedDeformConv2dWeights> constant_weights_;
};

struct DeformConv2dOperator {
  using Node = DeformConv2dNode;
  using Kernel = DeformConv2dKernel;
  static constexpr const char* kProvider = nullptr;  // the CPU provider
  static void infer_shape(const OrtApi& api, OrtShapeInferContext* context) noexcept {
    infer_deform_conv2d_shape(api, context);
  }
};

}  // namespace

const OrtCustomOp* deform_conv2d_overload(const OrtApi& api, bool infer_shapes, std::size_t index) {
  return CustomOp<DeformConv2dOperator>::overload(api, infer_shapes, index);
}

}  // namespace onnxruntime
}  // namespace dcn_deploy
