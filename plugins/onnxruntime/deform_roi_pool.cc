#include "onnxruntime/deform_roi_pool.h"

#include "core/cpu/deform_roi_pool.h"
#include "onnxruntime/api.h"
#include "onnxruntime/custom_op.h"
#include "onnxruntime/deform_roi_pool_inference.h"
#include "onnxruntime/deform_roi_pool_node.h"
#include "onnxruntime/session_memory.h"
#include "onnxruntime/session_threads.h"

namespace dcn_deploy {
namespace onnxruntime {
namespace {

class DeformRoIPool2dKernel {
 public:
  DeformRoIPool2dKernel(const OrtApi& api, const OrtKernelInfo* info,
                        ONNXTensorElementDataType feature_type)
      : api_(api), node_(api, info, feature_type) {}

  void compute(OrtKernelContext* context) const {
    const DeformRoIPool2dNode::Run run = node_.begin_run(context);
    if (run.params.rois == 0) return;

    cpu::DeformRoIPool2dTensors tensors;
    tensors.dtype = node_.dtype();
    tensors.rois_dtype = run.rois_dtype;
    tensors.offset_dtype = run.offset_dtype;
    tensors.mask_dtype = run.mask_dtype;
    tensors.x = data_of(api_, run.inputs[DeformRoIPool2dNode::kX]);
    tensors.rois = data_of(api_, run.inputs[DeformRoIPool2dNode::kRois]);
    tensors.offset = data_of(api_, run.inputs[DeformRoIPool2dNode::kOffset]);
    tensors.mask = data_of(api_, run.inputs[DeformRoIPool2dNode::kMask]);
    check(api_, api_.GetTensorMutableData(run.y, &tensors.y));

    const SessionThreads threads(api_, context);
    SessionMemory memory(api_, context);
    check(cpu::deform_roi_pool(run.params, tensors, cpu::select_kernels(), threads.parallel_for(),
                               memory.scratch_memory()),
          node_.where());
  }

 private:
  const OrtApi& api_;
  const DeformRoIPool2dNode node_;
};

struct DeformRoIPool2dOperator {
  using Node = DeformRoIPool2dNode;
  using Kernel = DeformRoIPool2dKernel;
  static constexpr const char* kProvider = nullptr;  // the CPU provider
  static void infer_shape(const OrtApi& api, OrtShapeInferContext* context) noexcept {
    infer_deform_roi_pool_shape(api, context);
  }
};

}  // namespace

const OrtCustomOp* deform_roi_pool_overload(const OrtApi& api, bool infer_shapes,
                                            std::size_t index) {
  return CustomOp<DeformRoIPool2dOperator>::overload(api, infer_shapes, index);
}

}  // namespace onnxruntime
}  // namespace dcn_deploy
