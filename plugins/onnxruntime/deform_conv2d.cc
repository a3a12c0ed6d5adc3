#include "onnxruntime/deform_conv2d.h"

#include <array>
#include <optional>

#include "core/cpu/deform_conv2d.h"
#include "core/deform_conv2d_shape.h"
#include "onnxruntime/api.h"
#include "onnxruntime/deform_conv2d_inference.h"

namespace dcn_deploy {
namespace onnxruntime {
namespace {

constexpr const char* kOpType = "DeformConv2d";

enum Input : std::size_t { kX, kW, kOffset, kB, kMask, kInputCount };
constexpr std::array<const char*, kInputCount> kInputNames = {"X", "W", "offset", "B", "mask"};

// Types of X, W, B and Y.
constexpr std::array<ONNXTensorElementDataType, kDeformConv2dOverloads> kFeatureTypes = {
    ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
    ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
    ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16,
};

std::optional<DType> dtype_of(ONNXTensorElementDataType type) {
  switch (type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT:
      return DType::kFloat32;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16:
      return DType::kFloat16;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16:
      return DType::kBFloat16;
    default:
      return std::nullopt;
  }
}

struct DeformConv2dOp : OrtCustomOp {
  const OrtApi* api;
  ONNXTensorElementDataType feature_type;
};

using Descriptions = std::array<TensorDescription, kInputCount>;

ShapeView view_of(const TensorDescription& tensor) {
  if (!tensor.present) return {nullptr, ShapeView::kAbsent};
  if (!tensor.known_rank) return {nullptr, ShapeView::kUnknownRank};
  return {tensor.dims.data(), static_cast<std::int64_t>(tensor.dims.size())};
}

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
    if (weight != nullptr) pack(inputs[kW], weight, &constant_weights_.emplace());
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
    tensors.dtype = *dtype_of(feature_type_);
    tensors.offset_dtype = *dtype_of(inputs[kOffset].type);
    if (inputs[kMask].present) tensors.mask_dtype = *dtype_of(inputs[kMask].type);
    tensors.x = data_of(api_, values[kX]);
    tensors.offset = data_of(api_, values[kOffset]);
    tensors.bias = data_of(api_, values[kB]);
    tensors.mask = data_of(api_, values[kMask]);
    check(api_, api_.GetTensorMutableData(y, &tensors.y));

    cpu::PackedDeformConv2dWeights run_weights;
    if (!constant_weights_.has_value()) pack(inputs[kW], values[kW], &run_weights);
    const Session session{api_, context};
    const ParallelFor parallel_for{&Session::run, const_cast<Session*>(&session)};
    check(cpu::deform_conv2d(params, tensors, constant_weights_ ? *constant_weights_ : run_weights,
                             parallel_for),
          where_);
  }

 private:
  // Lends the threads of the session that runs the node.
  struct Session {
    const OrtApi& api;
    const OrtKernelContext* context;

    struct Call {
      ParallelFor::Task task;
      void* argument;
    };

    static void run(void* self, std::int64_t count, ParallelFor::Task task, void* argument) {
      const auto& session = *static_cast<const Session*>(self);
      Call call{task, argument};
      const auto total = static_cast<std::size_t>(count);
      // As many batches as tasks: threads that are done early take over from the others.
      check(session.api, session.api.KernelContext_ParallelFor(
                             session.context,
                             [](void* user_data, std::size_t index) {
                               const auto& c = *static_cast<const Call*>(user_data);
                               c.task(c.argument, static_cast<std::int64_t>(index));
                             },
                             total, total, &call));
    }
  };

  void check_types(const Descriptions& inputs) const {
    const std::string features = name_of(feature_type_);
    for (std::size_t i = 0; i < kInputCount; ++i) {
      const ONNXTensorElementDataType type = inputs[i].type;
      if (!inputs[i].present || type == feature_type_) continue;
      const bool positions = i == kOffset || i == kMask;
      if (positions && type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) continue;
      const std::string expected = positions && feature_type_ != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT
                                       ? "float32 or the type of X, " + features
                                       : "the type of X, " + features;
      throw Failure(ORT_INVALID_ARGUMENT, where_ + ": input " + kInputNames[i] + ": expected " +
                                              expected + ", got " + name_of(type));
    }
  }

  void pack(const TensorDescription& description, const OrtValue* weight,
            cpu::PackedDeformConv2dWeights* packed) const {
    DeformConv2dParams params{};
    params.out_channels = description.dims[0];
    params.in_channels = description.dims[1] * attributes_.group;
    params.kernel_h = description.dims[2];
    params.kernel_w = description.dims[3];
    params.group = attributes_.group;
    params.offset_group = attributes_.offset_group;
    check(
        cpu::PackedDeformConv2dWeights::pack(
            params, data_of(api_, weight), *dtype_of(feature_type_), cpu::select_kernels(), packed),
        where_);
  }

  const OrtApi& api_;
  const ONNXTensorElementDataType feature_type_;
  std::string where_;
  DeformConv2dAttributes attributes_;
  std::optional<cpu::PackedDeformConv2dWeights> constant_weights_;

  friend struct KernelCallbacks;
};

struct KernelCallbacks {
  static OrtStatusPtr ORT_API_CALL create(const OrtCustomOp* op, const OrtApi* api,
                                          const OrtKernelInfo* info, void** kernel) {
    return guarded(*api, [&] {
      *kernel =
          new DeformConv2dKernel(*api, info, static_cast<const DeformConv2dOp*>(op)->feature_type);
    });
  }

  static OrtStatusPtr ORT_API_CALL compute(void* kernel, OrtKernelContext* context) {
    const auto& self = *static_cast<const DeformConv2dKernel*>(kernel);
    return guarded(self.api_, [&] { self.compute(context); });
  }

  static void ORT_API_CALL destroy(void* kernel) {
    delete static_cast<DeformConv2dKernel*>(kernel);
  }
};

DeformConv2dOp make_overload(const OrtApi& api, bool infer_shapes,
                             ONNXTensorElementDataType feature_type) {
  DeformConv2dOp op{};
  op.api = &api;
  op.feature_type = feature_type;
  op.version = kApiVersion;
  op.GetName = [](const OrtCustomOp*) { return kOpType; };
  // The CPU provider.
  op.GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return nullptr; };
  op.GetInputTypeCount = [](const OrtCustomOp*) -> std::size_t { return kInputCount; };
  // X tells the overloads apart. The other inputs are left open, so that it is the kernel that
  // refuses a wrong type, with a message that says what was expected.
  op.GetInputType = [](const OrtCustomOp* self, std::size_t index) {
    return index == kX ? static_cast<const DeformConv2dOp*>(self)->feature_type
                       : ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  };
  op.GetInputCharacteristic = [](const OrtCustomOp*, std::size_t index) {
    return index == kB || index == kMask ? INPUT_OUTPUT_OPTIONAL : INPUT_OUTPUT_REQUIRED;
  };
  op.GetInputMemoryType = [](const OrtCustomOp*, std::size_t) { return OrtMemTypeDefault; };
  op.GetOutputTypeCount = [](const OrtCustomOp*) -> std::size_t { return 1; };
  op.GetOutputType = [](const OrtCustomOp* self, std::size_t) {
    return static_cast<const DeformConv2dOp*>(self)->feature_type;
  };
  op.GetOutputCharacteristic = [](const OrtCustomOp*, std::size_t) {
    return INPUT_OUTPUT_REQUIRED;
  };
  op.GetVariadicInputMinArity = [](const OrtCustomOp*) { return 0; };
  op.GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 0; };
  op.GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 0; };
  op.GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 0; };
  op.CreateKernelV2 = &KernelCallbacks::create;
  op.KernelComputeV2 = &KernelCallbacks::compute;
  op.KernelDestroy = &KernelCallbacks::destroy;
  if (infer_shapes) {
    op.InferOutputShapeFn = [](const OrtCustomOp* self,
                               OrtShapeInferContext* context) -> OrtStatusPtr {
      infer_deform_conv2d_shape(*static_cast<const DeformConv2dOp*>(self)->api, context);
      return nullptr;
    };
  }
  op.GetStartVersion = [](const OrtCustomOp*) { return 1; };
  op.GetEndVersion = [](const OrtCustomOp*) { return 1; };
  return op;
}

}  // namespace

const OrtCustomOp* deform_conv2d_overload(const OrtApi& api, bool infer_shapes, std::size_t index) {
  static const std::array<DeformConv2dOp, kDeformConv2dOverloads> overloads = {
      make_overload(api, infer_shapes, kFeatureTypes[0]),
      make_overload(api, infer_shapes, kFeatureTypes[1]),
      make_overload(api, infer_shapes, kFeatureTypes[2])};
  return &overloads[index];
}

}  // namespace onnxruntime
}  // namespace dcn_deploy
