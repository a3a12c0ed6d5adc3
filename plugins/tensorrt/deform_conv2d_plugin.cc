#include "tensorrt/deform_conv2d_plugin.h"

#include <algorithm>
#include <limits>
#include <string>

#include "core/deform_conv2d_shape.h"
#include "tensorrt/failure.h"

namespace dcn_deploy {
namespace tensorrt {
namespace {

// A tactic is a tile of one of the algorithms: 256 · algorithm + 1 + its index.
constexpr std::int32_t kTacticsOfAlgorithm = 256;

std::int32_t tactic_of(cuda::Algorithm algorithm, int tile) {
  return static_cast<std::int32_t>(algorithm) * kTacticsOfAlgorithm + 1 + tile;
}

// The tile of a tactic, if the tactic is one of the algorithm's; else zeros, which let the plan
// choose.
cuda::Tile tile_of(std::int32_t tactic, cuda::Algorithm algorithm) {
  int count = 0;
  const cuda::Tile* tiles = cuda::deform_conv2d_tiles(algorithm, &count);
  for (int i = 0; i < count; ++i) {
    if (tactic_of(algorithm, i) == tactic) return tiles[i];
  }
  return {};
}

constexpr cuda::Algorithm kAlgorithms[] = {cuda::Algorithm::kTensor, cuda::Algorithm::kSimt,
                                           cuda::Algorithm::kDirect};

bool is_tactic(std::int32_t tactic) {
  return std::any_of(
      std::begin(kAlgorithms), std::end(kAlgorithms),
      [&](cuda::Algorithm algorithm) { return tile_of(tactic, algorithm).rows > 0; });
}

}  // namespace

std::unique_ptr<Plugin> DeformConv2dPlugin::copy() const {
  return std::make_unique<DeformConv2dPlugin>(*this);
}

bool DeformConv2dPlugin::is_int8() const {
  return x_scale_ != 0 || y_scale_ != 0 || weight_scale_ != std::vector<float>{0};
}

std::vector<InputSpec> DeformConv2dPlugin::input_specs() const {
  if (is_int8()) {
    return {{"X", false, InputType::kInt8Features},
            {"W", false, InputType::kAsX},
            {"offset", false, InputType::kFloatingPoint},
            {"B", true, InputType::kFloat32},
            {"mask", true, InputType::kFloatingPoint}};
  }
  return {{"X", false, InputType::kFeatures},
          {"W", false, InputType::kAsX},
          {"offset", false, InputType::kFloat32OrAsX},
          {"B", true, InputType::kAsX},
          {"mask", true, InputType::kFloat32OrAsX}};
}

void DeformConv2dPlugin::visit_attributes(FieldVisitor* visitor) {
  DeformConv2dAttributes& a = attributes_;
  visitor->integers("kernel_shape", {&a.kernel_h, &a.kernel_w});
  visitor->integers("strides", {&a.stride_h, &a.stride_w});
  visitor->integers("pads", {&a.pad_top, &a.pad_left, &a.pad_bottom, &a.pad_right});
  visitor->integers("dilations", {&a.dilation_h, &a.dilation_w});
  visitor->integers("group", {&a.group});
  visitor->integers("offset_group", {&a.offset_group});
  visitor->real("x_scale", &x_scale_);
  visitor->reals("weight_scale", &weight_scale_);
  visitor->real("y_scale", &y_scale_);
  visitor->flag("allow_tf32", &allow_tf32_);
  visitor->flag("constant_weights", &constant_weights_);
}

void DeformConv2dPlugin::check_given(const FieldReader& reader) const {
  if (!reader.has("kernel_shape")) return;
  // A negative size must not pass for "not given".
  check(shape_check::at_least("attribute kernel_shape[0]", attributes_.kernel_h, 1));
  check(shape_check::at_least("attribute kernel_shape[1]", attributes_.kernel_w, 1));
}

namespace {

template <typename Shapes>
DeformConv2dShapes named(const Shapes& shapes) {
  return {shapes[DeformConv2dPlugin::kX], shapes[DeformConv2dPlugin::kW],
          shapes[DeformConv2dPlugin::kOffset], shapes[DeformConv2dPlugin::kB],
          shapes[DeformConv2dPlugin::kMask]};
}

ShapeView shape_of(const nvinfer1::PluginTensorDesc* desc) {
  return desc == nullptr ? ShapeView{nullptr, ShapeView::kAbsent} : view_of(desc->dims);
}

DeformConv2dShapes shapes_of_tensors(const LayerTensors& tensors) {
  std::array<ShapeView, kMaxInputs> shapes;
  std::transform(tensors.inputs.begin(), tensors.inputs.end(), shapes.begin(), shape_of);
  return named(shapes);
}

void check_scale(const char* field, float value) {
  if (value > 0 && value <= std::numeric_limits<float>::max()) return;
  throw Failure(std::string("field ") + field + ": expected positive, finite numbers, got " +
                std::to_string(value));
}

cuda::Layout layout_of(const nvinfer1::PluginTensorDesc& desc) {
  return find_feature_format(desc.type, desc.format)->layout;
}

}  // namespace

void DeformConv2dPlugin::check_shapes(const Shapes& shapes) const {
  check(check_deform_conv2d(attributes_, named(shapes)));
  if (!is_int8()) return;
  check_scale("x_scale", x_scale_);
  for (const float value : weight_scale_) check_scale("weight_scale", value);
  if (y_scale_ != 0) check_scale("y_scale", y_scale_);
  const std::int64_t channels = shapes[kW].dim(0);
  const auto count = static_cast<std::int64_t>(weight_scale_.size());
  if (count != 1 && channels != ShapeView::kUnknownDim && count != channels) {
    throw Failure("field weight_scale: expected 1 value, or one for each of the " +
                  std::to_string(channels) + " output channels, got " + std::to_string(count));
  }
}

nvinfer1::DataType DeformConv2dPlugin::output_type(nvinfer1::DataType x) const {
  if (!is_int8()) return x;
  return y_scale_ != 0 ? nvinfer1::DataType::kINT8 : nvinfer1::DataType::kFLOAT;
}

void DeformConv2dPlugin::describe_output(const Expressions& inputs, ExpressionBuilder* builder,
                                         nvinfer1::DimsExprs* y) const {
  const DeformConv2dAttributes& a = attributes_;
  const nvinfer1::DimsExprs& x = *inputs[kX];
  const nvinfer1::DimsExprs& w = *inputs[kW];
  y->nbDims = 4;
  y->d[0] = x.d[0];
  y->d[1] = w.d[0];
  y->d[2] =
      output_extent(builder, x.d[2], a.pad_top, a.pad_bottom, a.dilation_h, w.d[2], a.stride_h);
  y->d[3] =
      output_extent(builder, x.d[3], a.pad_left, a.pad_right, a.dilation_w, w.d[3], a.stride_w);
}

cuda::DeformConv2dPlan DeformConv2dPlugin::plan_of(const LayerTensors& tensors,
                                                   const cuda::Device& device,
                                                   const cuda::Tile& tile) const {
  DeformConv2dParams params{};
  check(resolve_deform_conv2d(attributes_, shapes_of_tensors(tensors), &params));
  cuda::DeformConv2dOptions options;
  options.allow_tf32 = allow_tf32_;
  options.tile = tile;
  if (is_int8()) {
    options.y_dtype = dtype_of(tensors.y->type);
    options.y_scale = y_scale_;
  }
  cuda::DeformConv2dPlan plan;
  const nvinfer1::PluginTensorDesc& x = *tensors.inputs[kX];
  check(cuda::plan_deform_conv2d(params, dtype_of(x.type), layout_of(x), layout_of(*tensors.y),
                                 device, options, &plan));
  return plan;
}

std::size_t DeformConv2dPlugin::workspace_bytes(const LayerTensors& tensors) const {
  // Enough for whatever kernel the device at run time gets: nothing is asked of the one here.
  const cuda::Device any{std::numeric_limits<int>::max(), 1,
                         std::numeric_limits<std::size_t>::max()};
  const ShapeView w = shape_of(tensors.inputs[kW]);
  check(shape_check::check_rank("W", "[M, C/group, kH, kW]", w, 4, 1));
  check(shape_check::check_known({{"W", w}}));
  DeformConv2dParams params{};
  params.batch = 1;
  params.out_channels = w.dim(0);
  params.in_channels = w.dim(1) * attributes_.group;
  params.kernel_h = w.dim(2);
  params.kernel_w = w.dim(3);
  params.in_h = params.in_w = params.out_h = params.out_w = 1;
  params.group = attributes_.group;
  params.offset_group = attributes_.offset_group;
  std::size_t bytes = 0;
  for (const cuda::Algorithm algorithm : kAlgorithms) {
    cuda::DeformConv2dOptions options;
    options.algorithm = algorithm;
    cuda::DeformConv2dPlan plan;
    check(cuda::plan_deform_conv2d(params, dtype_of(tensors.inputs[kX]->type), cuda::Layout::kNchw,
                                   cuda::Layout::kNchw, any, options, &plan));
    bytes = std::max(bytes, plan.packed_bytes);
  }
  return bytes + scale_bytes(params.out_channels);
}

std::size_t DeformConv2dPlugin::scale_bytes(std::int64_t out_channels) const {
  return is_int8() ? static_cast<std::size_t>(out_channels) * sizeof(float) : 0;
}

std::vector<std::int32_t> DeformConv2dPlugin::tactics_for(const LayerTensors& tensors) const {
  cuda::Device device;
  if (!cuda::query_device(&device).ok()) return {};
  const cuda::Algorithm algorithm = plan_of(tensors, device, {}).algorithm;
  int count = 0;
  const cuda::Tile* tiles = cuda::deform_conv2d_tiles(algorithm, &count);
  std::vector<std::int32_t> tactics;
  for (int i = 0; i < count; ++i) {
    try {
      static_cast<void>(plan_of(tensors, device, tiles[i]));
      tactics.push_back(tactic_of(algorithm, i));
    } catch (const Failure&) {
      // Does not fit into this device's shared memory.
    }
  }
  return tactics;
}

void DeformConv2dPlugin::check_tactic(std::int32_t tactic) const {
  if (tactic == 0 || is_tactic(tactic)) return;
  throw Failure("tactic: expected one of this library, got " + std::to_string(tactic) +
                ". Rebuild the engine with this library");
}

void DeformConv2dPlugin::plan(const LayerTensors& tensors, std::int32_t tactic) {
  cuda::Device device;
  check(cuda::query_device(&device));
  plan_ = plan_of(tensors, device, {});
  const cuda::Tile tile = tile_of(tactic, plan_.algorithm);
  if (tile.rows > 0) {
    try {
      plan_ = plan_of(tensors, device, tile);
    } catch (const Failure& failure) {
      warn(std::string(failure.what()) + ". Another tile is taken");
    }
  } else if (tactic != 0) {
    warn("tactic " + std::to_string(tactic) +
         " was chosen on a device that takes another algorithm. A tile of this one's is taken");
  }
  offset_dtype_ = dtype_of(tensors.inputs[kOffset]->type);
  if (tensors.inputs[kMask] != nullptr) mask_dtype_ = dtype_of(tensors.inputs[kMask]->type);
}

void DeformConv2dPlugin::pack(const void* weight, void* packed, cuda::Stream stream) const {
  check(cuda::pack_deform_conv2d_weights(plan_, weight, packed, stream));
  if (!is_int8()) return;
  auto* scale = reinterpret_cast<float*>(static_cast<unsigned char*>(packed) + plan_.packed_bytes);
  check(cuda::write_deform_conv2d_scale(x_scale_, weight_scale_.data(),
                                        static_cast<std::int64_t>(weight_scale_.size()),
                                        plan_.params.out_channels, scale, stream));
}

const void* DeformConv2dPlugin::packed_weights(const Addresses& addresses, cuda::Stream stream) {
  const void* weight = addresses.inputs[kW];
  const std::size_t bytes = plan_.packed_bytes + scale_bytes(plan_.params.out_channels);
  KeptWeights& kept = kept_.value;
  if (constant_weights_ && attached()) {
    if (kept.source == weight && kept.algorithm == plan_.algorithm) return kept.packed.data();
    // What goes into a graph is not done yet, and other runs may come before it: there the
    // workspace is used as without constant weights.
    bool capturing = false;
    check(is_capturing(stream, &capturing));
    // A graph may hold the address of what was kept: it is written anew in place, never freed.
    const bool has_room = kept.packed.data() == nullptr || kept.packed.bytes() >= bytes;
    if (!capturing && has_room) {
      kept.source = nullptr;
      if (kept.packed.data() == nullptr) check(allocate(bytes, &kept.packed));
      pack(weight, kept.packed.data(), stream);
      kept.source = weight;
      kept.algorithm = plan_.algorithm;
      return kept.packed.data();
    }
  }
  if (addresses.workspace == nullptr) {
    throw Failure("workspace: expected " + std::to_string(bytes) + " bytes, got none");
  }
  pack(weight, addresses.workspace, stream);
  return addresses.workspace;
}

void DeformConv2dPlugin::launch(const Addresses& addresses, cuda::Stream stream) {
  if (plan_.params.batch == 0) return;
  cuda::DeformConv2dTensors tensors;
  tensors.offset_dtype = offset_dtype_;
  tensors.mask_dtype = mask_dtype_;
  tensors.x = addresses.inputs[kX];
  tensors.offset = addresses.inputs[kOffset];
  tensors.bias = addresses.inputs[kB];
  tensors.mask = addresses.inputs[kMask];
  tensors.y = addresses.y;
  const void* packed = packed_weights(addresses, stream);
  if (is_int8()) {
    tensors.scale = reinterpret_cast<const float*>(static_cast<const unsigned char*>(packed) +
                                                   plan_.packed_bytes);
  }
  check(cuda::deform_conv2d(plan_, tensors, packed, stream));
}

}  // namespace tensorrt
}  // namespace dcn_deploy
