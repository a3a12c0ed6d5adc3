#include "onnxruntime/cuda/deform_conv2d.h"

#include "core/cuda/deform_conv2d.h"
#include "core/cuda/runtime.h"
#include "onnxruntime/api.h"
#include "onnxruntime/cuda/current_device.h"
#include "onnxruntime/cuda/device_memory.h"
#include "onnxruntime/cuda/provider.h"
#include "onnxruntime/custom_op.h"
#include "onnxruntime/deform_conv2d_inference.h"
#include "onnxruntime/deform_conv2d_node.h"

namespace dcn_deploy {
namespace onnxruntime {
namespace cuda {
namespace {

namespace core = dcn_deploy::cuda;

template <bool kAllowTf32>
class DeformConv2dKernel {
 public:
  DeformConv2dKernel(const OrtApi& api, const OrtKernelInfo* info,
                     ONNXTensorElementDataType feature_type)
      : api_(api), node_(api, info, feature_type), memory_(api, info) {
    on_device(memory_.device(), node_.where(), [&] {
      check(core::query_device(&device_), node_.where());
      if (node_.constant_weight() != nullptr) pack_once(node_.constant_weight());
    });
  }

  void compute(OrtKernelContext* context) const {
    const DeformConv2dNode::Run run = node_.begin_run(context);
    if (run.params.batch == 0) return;

    core::DeformConv2dTensors tensors;
    tensors.offset_dtype = run.offset_dtype;
    tensors.mask_dtype = run.mask_dtype;
    tensors.x = data_of(api_, run.inputs[DeformConv2dNode::kX]);
    tensors.offset = data_of(api_, run.inputs[DeformConv2dNode::kOffset]);
    tensors.bias = data_of(api_, run.inputs[DeformConv2dNode::kB]);
    tensors.mask = data_of(api_, run.inputs[DeformConv2dNode::kMask]);
    check(api_, api_.GetTensorMutableData(run.y, &tensors.y));

    const core::Stream stream = stream_of(api_, context);
    const core::DeformConv2dPlan plan = plan_for(run.params);
    on_device(memory_.device(), node_.where(), [&] {
      DeviceBuffer run_weights;
      if (packed_.data() == nullptr) {
        run_weights = memory_.allocate_in_run(context, stream, plan.packed_bytes,
                                              node_.where() + ": packed weights");
        check(
            core::pack_deform_conv2d_weights(plan, data_of(api_, run.inputs[DeformConv2dNode::kW]),
                                             run_weights.data(), stream),
            node_.where());
      }
      const void* packed = packed_.data() != nullptr ? packed_.data() : run_weights.data();
      check(core::deform_conv2d(plan, tensors, packed, stream), node_.where());
    });
  }

 private:
  core::DeformConv2dPlan plan_for(const DeformConv2dParams& params) const {
    core::DeformConv2dOptions options;
    options.allow_tf32 = kAllowTf32;
    core::DeformConv2dPlan plan;
    check(core::plan_deform_conv2d(params, node_.dtype(), core::Layout::kNchw, core::Layout::kNchw,
                                   device_, options, &plan),
          node_.where());
    return plan;
  }

  // What a plan packs depends on the filter, not on the map, which is not known yet.
  void pack_once(const OrtValue* weight) {
    const core::DeformConv2dPlan plan = plan_for(node_.params_of_weight(weight));
    const std::string what = node_.where() + ": packed weights";
    packed_ = memory_.allocate(plan.packed_bytes, what);
    const void* data = data_of(api_, weight);
    DeviceBuffer copy;
    // ONNX Runtime has moved initialisers to the device by now, but does not promise it.
    if (is_on_host(api_, weight)) {
      const DeformConv2dParams& p = plan.params;
      const std::size_t bytes =
          static_cast<std::size_t>(p.out_channels * (p.in_channels / p.group) * p.kernel_h *
                                   p.kernel_w) *
          size_of(node_.dtype());
      copy = memory_.allocate(bytes, what);
      check(core::copy_to_device(copy.data(), data, bytes), node_.where());
      data = copy.data();
    }
    // No session runs yet: there is no stream but the default one, and waiting costs nobody.
    check(core::pack_deform_conv2d_weights(plan, data, packed_.data(), nullptr), node_.where());
    check(core::wait_for(nullptr), node_.where());
  }

  const OrtApi& api_;
  const DeformConv2dNode node_;
  const DeviceMemory memory_;
  core::Device device_;
  DeviceBuffer packed_;
};

template <bool kAllowTf32>
struct DeformConv2dOperator {
  using Node = DeformConv2dNode;
  using Kernel = DeformConv2dKernel<kAllowTf32>;
  static constexpr const char* kProvider = cuda::kProvider;
  static void infer_shape(const OrtApi& api, OrtShapeInferContext* context) noexcept {
    infer_deform_conv2d_shape(api, context);
  }
};

}  // namespace

const OrtCustomOp* exact_deform_conv2d_overload(const OrtApi& api, bool infer_shapes,
                                                std::size_t index) {
  return CustomOp<DeformConv2dOperator<false>>::overload(api, infer_shapes, index);
}

const OrtCustomOp* tf32_deform_conv2d_overload(const OrtApi& api, bool infer_shapes,
                                               std::size_t index) {
  return CustomOp<DeformConv2dOperator<true>>::overload(api, infer_shapes, index);
}

}  // namespace cuda
}  // namespace onnxruntime
}  // namespace dcn_deploy
