#include "onnxruntime/deform_conv2d.h"

#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "core/cpu/deform_conv2d.h"
#include "onnxruntime/api.h"
#include "onnxruntime/custom_op.h"
#include "onnxruntime/deform_conv2d_inference.h"
#include "onnxruntime/deform_conv2d_node.h"
#include "onnxruntime/session_threads.h"

namespace dcn_deploy {
namespace onnxruntime {
namespace {

// Memory for weights that are not constant, which runs at the same time do not share.
class FreeWeights {
 public:
  std::unique_ptr<cpu::PackedDeformConv2dWeights> take() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (weights_.empty()) return std::make_unique<cpu::PackedDeformConv2dWeights>();
    auto weights = std::move(weights_.back());
    weights_.pop_back();
    return weights;
  }

  void give_back(std::unique_ptr<cpu::PackedDeformConv2dWeights> weights) {
    const std::lock_guard<std::mutex> lock(mutex_);
    weights_.push_back(std::move(weights));
  }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<cpu::PackedDeformConv2dWeights>> weights_;
};

class LentWeights {
 public:
  explicit LentWeights(FreeWeights* owner) : owner_(owner), weights_(owner->take()) {}
  ~LentWeights() {
    try {
      owner_->give_back(std::move(weights_));
    } catch (...) {  // No memory to keep them in.
    }
  }
  LentWeights(const LentWeights&) = delete;
  LentWeights& operator=(const LentWeights&) = delete;

  cpu::PackedDeformConv2dWeights* get() const { return weights_.get(); }

 private:
  FreeWeights* owner_;
  std::unique_ptr<cpu::PackedDeformConv2dWeights> weights_;
};

class DeformConv2dKernel {
 public:
  DeformConv2dKernel(const OrtApi& api, const OrtKernelInfo* info,
                     ONNXTensorElementDataType feature_type)
      : api_(api), node_(api, info, feature_type) {
    if (node_.constant_weight() != nullptr) {
      pack(node_.constant_weight(), {}, &constant_weights_.emplace());
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

    const SessionThreads threads(api_, context);
    if (constant_weights_.has_value()) {
      check(cpu::deform_conv2d(run.params, tensors, *constant_weights_, threads.parallel_for()),
            node_.where());
      return;
    }
    const LentWeights weights(&free_weights_);
    pack(run.inputs[DeformConv2dNode::kW], threads.parallel_for(), weights.get());
    check(cpu::deform_conv2d(run.params, tensors, *weights.get(), threads.parallel_for()),
          node_.where());
  }

 private:
  void pack(const OrtValue* weight, const ParallelFor& parallel_for,
            cpu::PackedDeformConv2dWeights* packed) const {
    check(cpu::PackedDeformConv2dWeights::pack(node_.params_of_weight(weight),
                                               data_of(api_, weight), node_.dtype(),
                                               cpu::select_kernels(), parallel_for, packed),
          node_.where());
  }

  const OrtApi& api_;
  const DeformConv2dNode node_;
  std::optional<cpu::PackedDeformConv2dWeights> constant_weights_;
  mutable FreeWeights free_weights_;
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
