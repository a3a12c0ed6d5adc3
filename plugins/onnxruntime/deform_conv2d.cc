#include "onnxruntime/deform_conv2d.h"

#include <array>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/cpu/deform_conv2d.h"
#include "core/deform_conv2d_shape.h"
#include "onnxruntime/api.h"
#include "onnxruntime/custom_op.h"
#include "onnxruntime/deform_conv2d_inference.h"
#include "onnxruntime/feature_types.h"
#include "onnxruntime/session_threads.h"

namespace dcn_deploy {
namespace onnxruntime {
namespace {

constexpr const char* kOpType = "DeformConv2d";

enum Input : std::size_t { kX, kW, kOffset, kB, kMask, kInputCount };
constexpr std::array<const char*, kInputCount> kInputNames = {"X", "W", "offset", "B", "mask"};

using Descriptions = std::array<TensorDescription, kInputCount>;

DeformConv2dShapes shapes_of(const Descriptions& inputs) {
  return {view_of(inputs[kX]), view_of(inputs[kW]), view_of(inputs[kOffset]), view_of(inputs[kB]),
          view_of(inputs[kMask])};
}

DeformConv2dAttributes read_attributes(const NodeInfo& node) {
  DeformConv2dAttributes attributes;
  const auto kernel_shape = node.ints_attribute("kernel_shape", 2);
  if (!kernel_shape.empty()) {
    // A negative size must not pass for "not given".
    for (std::size_t axis = 0; axis < 2; ++axis) {
      if (kernel_shape[axis] < 1) {
        throw Failure(ORT_INVALID_ARGUMENT,
                      node.where() + ": attribute kernel_shape[" + std::to_string(axis) +
                          "]: expected at least 1, got " + std::to_string(kernel_shape[axis]));
      }
    }
    attributes.kernel_h = kernel_shape[0];
    attributes.kernel_w = kernel_shape[1];
  }
  const auto strides = node.ints_attribute("strides", 2);
  if (!strides.empty()) {
    attributes.stride_h = strides[0];
    attributes.stride_w = strides[1];
  }
  const auto pads = node.ints_attribute("pads", 4);
  if (!pads.empty()) {
    attributes.pad_top = pads[0];
    attributes.pad_left = pads[1];
    attributes.pad_bottom = pads[2];
    attributes.pad_right = pads[3];
  }
  const auto dilations = node.ints_attribute("dilations", 2);
  if (!dilations.empty()) {
    attributes.dilation_h = dilations[0];
    attributes.dilation_w = dilations[1];
  }
  attributes.group = node.int_attribute("group", 1);
  attributes.offset_group = node.int_attribute("offset_group", 1);
  return attributes;
}

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
      : api_(api), feature_type_(feature_type) {
    const NodeInfo node(api, info, kOpType);
    where_ = node.where();
    attributes_ = read_attributes(node);
    Descriptions inputs;
    for (std::size_t i = 0; i < kInputCount; ++i) inputs[i] = node.input(i);
    const OrtValue* weight = node.constant_input(kW);
    if (weight != nullptr) inputs[kW] = describe(api, weight);
    check_types(inputs);
    check(check_deform_conv2d(attributes_, shapes_of(inputs)), where_);
    if (weight != nullptr) pack(inputs[kW], weight, {}, &constant_weights_.emplace());
  }

  void compute(OrtKernelContext* context) const {
    std::size_t count = 0;
    check(api_, api_.KernelContext_GetInputCount(context, &count));
    std::array<const OrtValue*, kInputCount> values{};
    Descriptions inputs;
    for (std::size_t i = 0; i < kInputCount && i < count; ++i) {
      check(api_, api_.KernelContext_GetInput(context, i, &values[i]));
      inputs[i] = describe(api_, values[i]);
    }
    check_types(inputs);
    DeformConv2dParams params;
    check(resolve_deform_conv2d(attributes_, shapes_of(inputs), &params), where_);

    const std::array<std::int64_t, 4> y_shape = {params.batch, params.out_channels, params.out_h,
                                                 params.out_w};
    OrtValue* y = nullptr;
    check(api_, api_.KernelContext_GetOutput(context, 0, y_shape.data(), y_shape.size(), &y));
    if (params.batch == 0) return;

    cpu::DeformConv2dTensors tensors;
    tensors.dtype = dtype_of(feature_type_);
    tensors.offset_dtype = dtype_of(inputs[kOffset].type);
    if (inputs[kMask].present) tensors.mask_dtype = dtype_of(inputs[kMask].type);
    tensors.x = data_of(api_, values[kX]);
    tensors.offset = data_of(api_, values[kOffset]);
    tensors.bias = data_of(api_, values[kB]);
    tensors.mask = data_of(api_, values[kMask]);
    check(api_, api_.GetTensorMutableData(y, &tensors.y));

    const SessionThreads threads(api_, context);
    if (constant_weights_.has_value()) {
      check(cpu::deform_conv2d(params, tensors, *constant_weights_, threads.parallel_for()),
            where_);
      return;
    }
    const LentWeights weights(&free_weights_);
    pack(inputs[kW], values[kW], threads.parallel_for(), weights.get());
    check(cpu::deform_conv2d(params, tensors, *weights.get(), threads.parallel_for()), where_);
  }

 private:
  void check_types(const Descriptions& inputs) const {
    for (std::size_t i = 0; i < kInputCount; ++i) {
      check_type(where_, kInputNames[i], inputs[i], feature_type_, i == kOffset || i == kMask);
    }
  }

  void pack(const TensorDescription& description, const OrtValue* weight,
            const ParallelFor& parallel_for, cpu::PackedDeformConv2dWeights* packed) const {
    DeformConv2dParams params{};
    params.out_channels = description.dims[0];
    params.in_channels = description.dims[1] * attributes_.group;
    params.kernel_h = description.dims[2];
    params.kernel_w = description.dims[3];
    params.group = attributes_.group;
    params.offset_group = attributes_.offset_group;
    check(
        cpu::PackedDeformConv2dWeights::pack(params, data_of(api_, weight), dtype_of(feature_type_),
                                             cpu::select_kernels(), parallel_for, packed),
        where_);
  }

  const OrtApi& api_;
  const ONNXTensorElementDataType feature_type_;
  std::string where_;
  DeformConv2dAttributes attributes_;
  std::optional<cpu::PackedDeformConv2dWeights> constant_weights_;
  mutable FreeWeights free_weights_;
};

struct DeformConv2dOperator {
  static constexpr const char* kOpType = onnxruntime::kOpType;
  static constexpr std::size_t kInputCount = onnxruntime::kInputCount;
  static constexpr bool is_optional(std::size_t index) { return index == kB || index == kMask; }
  using Kernel = DeformConv2dKernel;
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
