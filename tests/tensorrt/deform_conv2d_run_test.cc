// DeformConv2d from the node to the numbers, against the double reference.

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "comparison.h"
#include "core/cuda/deform_conv2d_fused_kernels.h"
#include "core/deform_conv2d_reference.h"
#include "deform_conv2d_cases.h"
#include "layer_memory.h"
#include "random_tensors.h"

namespace dcn_deploy {
namespace tensorrt {
namespace {

using testing::close;
using testing::deform_conv2d_case;
using testing::DeformConv2dCase;
using testing::seed_trace;

constexpr TensorFormat kLinear = TensorFormat::kLINEAR;
constexpr TensorFormat kHwc8 = TensorFormat::kHWC8;

// Channels for wide reads, and both numbers of them multiples of 8.
const DeformConv2dCase kUnits = {"Units", 2, 40, 7, 7, 24, 3, 2, 2, 1, 1, 0, 1, 1, 1, 2, 1, 1};
const DeformConv2dCase kUnitsOfGroups = {
    "UnitsOfGroups", 1, 64, 7, 5, 40, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 2, 4};

FieldList fields_of(const DeformConv2dCase& c) {
  const auto narrow = [](std::int64_t value) { return static_cast<std::int32_t>(value); };
  return FieldList()
      .integers("kernel_shape", {narrow(c.kernel_h), narrow(c.kernel_w)})
      .integers("strides", {narrow(c.stride_h), narrow(c.stride_w)})
      .integers("pads",
                {narrow(c.pad_top), narrow(c.pad_left), narrow(c.pad_bottom), narrow(c.pad_right)})
      .integers("dilations", {narrow(c.dilation_h), narrow(c.dilation_w)})
      .integers("group", {narrow(c.group)})
      .integers("offset_group", {narrow(c.offset_group)});
}

struct Storage {
  DType features = DType::kFloat32;
  DType offset = DType::kFloat32;
  DType mask = DType::kFloat32;
  TensorFormat x = kLinear;
  TensorFormat y = kLinear;
};

std::string described(const Storage& s) {
  return std::string(name_of(s.features)) + (s.x == kLinear ? " linear" : " HWC8") +
         (s.y == kLinear ? " to linear" : " to HWC8") + ", offset " + name_of(s.offset) +
         ", mask " + name_of(s.mask);
}

// A layer with random values.
class Conv2d {
 public:
  Conv2d(const DeformConv2dCase& c, const Storage& storage, bool bias, bool mask,
         std::mt19937_64* random)
      : params_(testing::params_of(c)), storage_(storage) {
    const DeformConv2dParams& p = params_;
    testing::DeformConv2dValues values = testing::random_values(p, bias, mask, random);
    const std::int64_t taps = p.kernel_h * p.kernel_w * p.offset_group;
    x_ = memory_.add_input(values.x, storage.features, storage.x,
                           {p.batch, p.in_channels, p.in_h, p.in_w});
    weight_ = memory_.add_input(values.weight, storage.features, kLinear, weight_sizes());
    offset_ = memory_.add_input(values.offset, storage.offset, kLinear,
                                {p.batch, 2 * taps, p.out_h, p.out_w});
    if (bias) {
      bias_ = memory_.add_input(*values.bias, storage.features, kLinear, {p.out_channels});
    }
    if (mask) {
      mask_ =
          memory_.add_input(*values.mask, storage.mask, kLinear, {p.batch, taps, p.out_h, p.out_w});
    }
    memory_.set_output(storage.features, storage.y, {p.batch, p.out_channels, p.out_h, p.out_w});
  }

  LayerMemory& memory() { return memory_; }
  const Tensors& tensors() const { return memory_.tensors(); }

  std::vector<double> reference() const {
    std::vector<double> y(static_cast<std::size_t>(params_.batch * params_.out_channels *
                                                   params_.out_h * params_.out_w));
    deform_conv2d_reference(params_, x_.data(), weight_.data(), offset_.data(),
                            bias_.empty() ? nullptr : bias_.data(),
                            mask_.empty() ? nullptr : mask_.data(), y.data());
    return y;
  }

  // Other weights in the same place, as a refit would leave them.
  void change_weights(std::mt19937_64* random) {
    const std::vector<double> values =
        testing::normal_values(random, static_cast<std::int64_t>(weight_.size()), 1);
    memory_.overwrite(1, values);
    weight_ = decode(encode(values, storage_.features, kLinear, weight_sizes()), storage_.features,
                     kLinear, weight_sizes());
  }

 private:
  std::vector<std::int64_t> weight_sizes() const {
    return {params_.out_channels, params_.in_channels / params_.group, params_.kernel_h,
            params_.kernel_w};
  }

  DeformConv2dParams params_;
  Storage storage_;
  LayerMemory memory_;
  std::vector<double> x_, weight_, offset_, bias_, mask_;
};

class DeformConv2dRuns : public PluginTest {
 protected:
  DeformConv2dRuns() : random_(testing::seed()) {}

  // Built, written, read back, attached; null if something was refused.
  PluginPointer ready(const FieldList& fields, const Tensors& tensors) {
    const PluginPointer built = create(creator("DeformConv2d"), fields);
    if (built == nullptr || build(*built, tensors) != 0) return nullptr;
    workspace_ = workspace_bytes(*built, tensors);
    const PluginPointer back = read_back(creator("DeformConv2d"), *built);
    if (back == nullptr) return nullptr;
    PluginPointer attached = attach(*back);
    if (attached == nullptr || change_shapes(*attached, tensors) != 0) return nullptr;
    return attached;
  }

  std::mt19937_64 random_;
  std::size_t workspace_ = 0;
};

std::vector<Storage> storages(bool channels_last) {
  constexpr DType kFloat32 = DType::kFloat32;
  std::vector<Storage> all = {{}};
  for (const DType half : {DType::kFloat16, DType::kBFloat16}) {
    all.push_back({half, kFloat32, kFloat32, kLinear, kLinear});
    all.push_back({half, half, kFloat32, kLinear, kLinear});
    if (!channels_last) continue;
    all.push_back({half, kFloat32, half, kHwc8, kHwc8});
    all.push_back({half, half, half, kLinear, kHwc8});
    all.push_back({half, kFloat32, kFloat32, kHwc8, kLinear});
  }
  return all;
}

TEST_F(DeformConv2dRuns, AgreeWithTheReferenceInEveryFormat) {
  SCOPED_TRACE(seed_trace());
  std::vector<DeformConv2dCase> cases = testing::deform_conv2d_cases();
  cases.insert(cases.end(), {kUnits, kUnitsOfGroups});
  for (const DeformConv2dCase& c : cases) {
    // Long, and of nothing that is the plugin's.
    if (std::string(c.name) == "FarColumns" || c.out_channels > 1000) continue;
    for (const Storage& storage : storages(c.in_channels % 8 == 0 && c.out_channels % 8 == 0)) {
      SCOPED_TRACE(c.name + (": " + described(storage)));
      Conv2d layer(c, storage, true, true, &random_);
      const PluginPointer plugin = ready(fields_of(c), layer.tensors());
      ASSERT_NE(plugin, nullptr) << message();
      EXPECT_TRUE(
          close(layer.memory().run(*plugin, workspace_), layer.reference(), storage.features));
    }
  }
}

TEST_F(DeformConv2dRuns, AgreeWithTheReferenceWithoutOptionalInputs) {
  SCOPED_TRACE(seed_trace());
  const DeformConv2dCase c = deform_conv2d_case("Group3OffsetGroup2");
  for (const bool bias : {false, true}) {
    for (const bool mask : {false, true}) {
      SCOPED_TRACE(std::string(bias ? "bias" : "no bias") + (mask ? ", mask" : ", no mask"));
      Conv2d layer(c, {DType::kFloat16, DType::kFloat32, DType::kFloat32, kLinear, kLinear}, bias,
                   mask, &random_);
      FieldList fields = fields_of(c);
      if (mask && !bias) fields.text("optional_inputs", "mask");
      const PluginPointer plugin = ready(fields, layer.tensors());
      ASSERT_NE(plugin, nullptr) << message();
      EXPECT_TRUE(
          close(layer.memory().run(*plugin, workspace_), layer.reference(), DType::kFloat16));
    }
  }
}

TEST_F(DeformConv2dRuns, EveryTacticAgreesWithTheReference) {
  SCOPED_TRACE(seed_trace());
  const struct {
    Storage storage;
    bool tf32;
    std::size_t tiles;
  } cases[] = {{{}, false, cuda::kSimtTileCount},
               {{}, true, cuda::kTensorTileCount},
               {{DType::kFloat16, DType::kFloat32, DType::kFloat32, kHwc8, kHwc8},
                false,
                cuda::kTensorTileCount}};
  // More pixels than a tile.
  DeformConv2dCase large = kUnits;
  large.in_h = large.in_w = 21;
  for (const auto& c : cases) {
    SCOPED_TRACE(described(c.storage) + (c.tf32 ? " TF32" : ""));
    Conv2d layer(large, c.storage, true, true, &random_);
    const FieldList fields = fields_of(large).integers("allow_tf32", {c.tf32 ? 1 : 0});
    const PluginPointer built = create(creator("DeformConv2d"), fields);
    ASSERT_EQ(build(*built, layer.tensors()), 0);
    const std::size_t workspace = workspace_bytes(*built, layer.tensors());
    std::vector<std::int32_t> tactics(static_cast<std::size_t>(build_of(*built).getNbTactics()));
    // All of them fit on the device that the rehearsal plays.
    if (PluginLibrary::instance().is_rehearsal()) {
      EXPECT_EQ(tactics.size(), c.tiles);
    }
    ASSERT_GE(tactics.size(), 1u);
    ASSERT_EQ(
        build_of(*built).getValidTactics(tactics.data(), static_cast<std::int32_t>(tactics.size())),
        0);
    const std::vector<double> expected = layer.reference();
    std::set<std::int64_t> blocks;
    for (const std::int32_t tactic : tactics) {
      SCOPED_TRACE(tactic);
      EXPECT_NE(tactic, 0);
      // As the builder times it, and as a context runs it.
      ASSERT_EQ(runtime_of(*built).setTactic(tactic), 0);
      ASSERT_EQ(change_shapes(*built, layer.tensors()), 0);
      const PluginPointer attached = attach(*read_back(creator("DeformConv2d"), *built));
      ASSERT_EQ(runtime_of(*attached).setTactic(tactic), 0);
      ASSERT_EQ(change_shapes(*attached, layer.tensors()), 0);
      const DType bound = c.tf32 ? DType::kFloat16 : c.storage.features;
      EXPECT_TRUE(close(layer.memory().run(*built, workspace), expected, bound));
      const std::int64_t before = PluginLibrary::instance().blocks();
      EXPECT_TRUE(close(layer.memory().run(*attached, workspace), expected, bound));
      blocks.insert(PluginLibrary::instance().blocks() - before);
    }
    // The tiles are not all of one size.
    if (PluginLibrary::instance().is_rehearsal() && c.tiles > 1) {
      EXPECT_GT(blocks.size(), 1u);
    }
  }
}

TEST_F(DeformConv2dRuns, OfAnotherDevicesTacticTakeTheirOwn) {
  Conv2d layer(kUnits, {}, false, false, &random_);
  const PluginPointer plugin = ready(fields_of(kUnits), layer.tensors());
  ASSERT_NE(plugin, nullptr);
  // A tile of tensor cores, which float32 does not use.
  ASSERT_EQ(runtime_of(*plugin).setTactic(257), 0);
  EXPECT_TRUE(close(layer.memory().run(*plugin, workspace_), layer.reference(), DType::kFloat32));
  EXPECT_EQ(message(),
            "dcn_deploy: DeformConv2d 'layer': tactic 257 was chosen on a device that takes "
            "another algorithm. A tile of this one's is taken");
}

TEST_F(DeformConv2dRuns, ChangeTheirSizes) {
  SCOPED_TRACE(seed_trace());
  DeformConv2dCase small = kUnits;
  small.batch = 1;
  small.in_h = 3;
  Conv2d large(kUnits, {}, true, false, &random_), other(small, {}, true, false, &random_);
  const PluginPointer plugin = ready(fields_of(kUnits), large.tensors());
  ASSERT_NE(plugin, nullptr) << message();
  for (int round = 0; round < 2; ++round) {
    ASSERT_EQ(change_shapes(*plugin, other.tensors()), 0);
    EXPECT_TRUE(close(other.memory().run(*plugin, workspace_), other.reference(), DType::kFloat32));
    // Without being told first.
    EXPECT_TRUE(close(large.memory().run(*plugin, workspace_), large.reference(), DType::kFloat32));
  }
}

// Without constant_weights the weights are an input like any other.
TEST_F(DeformConv2dRuns, TakeWeightsThatChange) {
  SCOPED_TRACE(seed_trace());
  Conv2d layer(kUnits, {}, true, true, &random_);
  const PluginPointer plugin = ready(fields_of(kUnits), layer.tensors());
  ASSERT_NE(plugin, nullptr);
  EXPECT_TRUE(close(layer.memory().run(*plugin, workspace_), layer.reference(), DType::kFloat32));
  layer.change_weights(&random_);
  EXPECT_TRUE(close(layer.memory().run(*plugin, workspace_), layer.reference(), DType::kFloat32));
}

TEST_F(DeformConv2dRuns, KeepConstantWeightsForEachContext) {
  SCOPED_TRACE(seed_trace());
  Conv2d layer(kUnits, {}, true, true, &random_);
  const FieldList fields = fields_of(kUnits).integers("constant_weights", {1});
  PluginPointer plugin = ready(fields, layer.tensors());
  ASSERT_NE(plugin, nullptr);
  const std::vector<double> before = layer.reference();
  const PluginPointer built = create(creator("DeformConv2d"), fields);
  ASSERT_EQ(change_shapes(*built, layer.tensors()), 0);

  EXPECT_TRUE(close(layer.memory().run(*plugin, workspace_), before, DType::kFloat32));
  if (PluginLibrary::instance().is_rehearsal()) {
    EXPECT_EQ(PluginLibrary::instance().kept_buffers(), 1);
  }
  // What is in W no longer matters to this context: it is promised not to change.
  layer.change_weights(&random_);
  const std::vector<double> after = layer.reference();
  EXPECT_TRUE(close(layer.memory().run(*plugin, workspace_), before, DType::kFloat32));
  // Another context, on another stream, has its own.
  PluginPointer other = attach(*plugin);
  ASSERT_EQ(change_shapes(*other, layer.tensors()), 0);
  EXPECT_TRUE(close(layer.memory().run(*other, workspace_, 1), after, DType::kFloat32));
  EXPECT_TRUE(close(layer.memory().run(*plugin, workspace_, 2), before, DType::kFloat32));
  // The builder's, which no context has, keeps nothing.
  EXPECT_TRUE(close(layer.memory().run(*built, workspace_), after, DType::kFloat32));
  // Weights in another place are other weights.
  layer.memory().move(1);
  EXPECT_TRUE(close(layer.memory().run(*plugin, workspace_), after, DType::kFloat32));
  if (PluginLibrary::instance().is_rehearsal()) {
    EXPECT_EQ(PluginLibrary::instance().kept_buffers(), 2);
    plugin.reset();
    other.reset();
    EXPECT_EQ(PluginLibrary::instance().kept_buffers(), 0);
  }
}

// What is put into a CUDA graph is not done yet: nothing may be taken for kept.
TEST_F(DeformConv2dRuns, KeepNothingWhileAGraphIsCaptured) {
  const PluginLibrary& library = PluginLibrary::instance();
  if (!library.is_rehearsal()) GTEST_SKIP() << "the capture is played by the rehearsal";
  SCOPED_TRACE(seed_trace());
  Conv2d layer(kUnits, {}, true, true, &random_);
  const PluginPointer plugin =
      ready(fields_of(kUnits).integers("constant_weights", {1}), layer.tensors());
  ASSERT_NE(plugin, nullptr);
  library.set_capturing(true);
  EXPECT_TRUE(close(layer.memory().run(*plugin, workspace_), layer.reference(), DType::kFloat32));
  EXPECT_EQ(library.kept_buffers(), 0);
  library.set_capturing(false);
  layer.change_weights(&random_);
  const std::vector<double> kept = layer.reference();
  EXPECT_TRUE(close(layer.memory().run(*plugin, workspace_), kept, DType::kFloat32));
  EXPECT_EQ(library.kept_buffers(), 1);
  // From here on a graph uses what is kept.
  layer.change_weights(&random_);
  library.set_capturing(true);
  EXPECT_TRUE(close(layer.memory().run(*plugin, workspace_), kept, DType::kFloat32));
}

TEST_F(DeformConv2dRuns, OfNoImagesDoNothing) {
  DeformConv2dCase none = kUnits;
  none.batch = 0;
  Conv2d layer(none, {}, true, true, &random_);
  const PluginPointer plugin = ready(fields_of(none), layer.tensors());
  ASSERT_NE(plugin, nullptr) << message();
  EXPECT_TRUE(layer.memory().run(*plugin, workspace_).empty());
}

TEST_F(DeformConv2dRuns, WorkspaceGrowsWithTheWeightsAlone) {
  DeformConv2dCase large = kUnits;
  large.batch = 3;
  large.in_h = large.in_w = 21;
  DeformConv2dCase wide = kUnits;
  wide.out_channels = 48;
  std::vector<std::size_t> bytes;
  for (const DeformConv2dCase& c : {kUnits, large, wide}) {
    Conv2d layer(c, {}, false, false, &random_);
    const PluginPointer plugin = create(creator("DeformConv2d"), fields_of(c));
    bytes.push_back(workspace_bytes(*plugin, layer.tensors()));
  }
  // At least W itself in float32; at most with rows rounded up to 16, and those of the widest tile
  // behind the last.
  EXPECT_GE(bytes[0], std::size_t{24 * 40 * 6 * 4});
  EXPECT_LE(bytes[0], std::size_t{32 * 48 * 6 * 4 + (256 - 16) * 64});
  EXPECT_EQ(bytes[1], bytes[0]);
  EXPECT_GT(bytes[2], bytes[0]);
}

TEST_F(DeformConv2dRuns, RefuseWhatIsNotReady) {
  Conv2d layer(kUnits, {}, true, true, &random_);
  const PluginPointer fresh = create(creator("DeformConv2d"), fields_of(kUnits));
  EXPECT_NE(layer.memory().status_of_run(*fresh), 0);
  EXPECT_EQ(message(),
            "dcn_deploy: DeformConv2d 'layer': enqueue: expected onShapeChange or configurePlugin "
            "before it, got neither");
  const PluginPointer plugin = ready(fields_of(kUnits), layer.tensors());
  ASSERT_NE(plugin, nullptr);
  EXPECT_NE(layer.memory().status_of_run(*plugin), 0);
  const std::string said = message();
  EXPECT_NE(said.find("DeformConv2d 'layer': workspace: expected "), std::string::npos) << said;
  EXPECT_NE(said.find(" bytes, got none"), std::string::npos) << said;
  std::vector<const void*> nothing(5, nullptr);
  EXPECT_NE(enqueue(*plugin, layer.tensors(), nothing, nullptr, nullptr), 0);
  EXPECT_EQ(message(), "dcn_deploy: DeformConv2d 'layer': input X: expected an address, got null");
}

TEST_F(DeformConv2dRuns, RefuseSizesThatAreKnownToBeWrongOnlyNow) {
  Conv2d layer(kUnits, {}, true, false, &random_);
  const PluginPointer plugin = ready(fields_of(kUnits), layer.tensors());
  ASSERT_NE(plugin, nullptr);
  Tensors wrong = layer.tensors();
  wrong[2].dims.d[3] += 1;
  EXPECT_NE(change_shapes(*plugin, wrong), 0);
  EXPECT_EQ(message(),
            "dcn_deploy: DeformConv2d 'layer': input offset, axis 3 (Wo): expected 6 (the output "
            "width), got 7");
  Tensors huge = layer.tensors();
  const std::int64_t batch = std::int64_t{1} << 31;
  for (const std::size_t i : {0u, 2u, 4u}) huge[i].dims.d[0] = batch;
  EXPECT_NE(change_shapes(*plugin, huge), 0);
  EXPECT_EQ(message(),
            "dcn_deploy: DeformConv2d 'layer': batch: expected at most 2^31 - 1 on a GPU, got "
            "2147483648");
  // The refused sizes are not the plan's.
  EXPECT_TRUE(close(layer.memory().run(*plugin, workspace_), layer.reference(), DType::kFloat32));
}

}  // namespace
}  // namespace tensorrt
}  // namespace dcn_deploy
