#include "tensorrt/creators.h"

#include <array>
#include <cstdio>
#include <memory>

#include "tensorrt/deform_conv2d_plugin.h"
#include "tensorrt/deform_roi_pool_plugin.h"
#include "tensorrt/failure.h"
#include "tensorrt/fields.h"

namespace dcn_deploy {
namespace tensorrt {
namespace {

template <typename Operator>
class Creator final : public nvinfer1::IPluginCreatorV3One {
 public:
  explicit Creator(const char* plugin_namespace) : namespace_(plugin_namespace) {
    Operator({Operator::kOpType, namespace_, ""}).visit_fields(&names_);
  }

  nvinfer1::IPluginV3* createPlugin(const char* name, const nvinfer1::PluginFieldCollection* fields,
                                    nvinfer1::TensorRTPhase phase) noexcept override {
    // What the plugin would say of itself, were there one.
    char where[1100];
    const char* layer = name == nullptr ? "" : name;
    std::snprintf(where, sizeof(where), "%s '%s'", Operator::kOpType, layer);
    return guarded<nvinfer1::IPluginV3*>(where, nullptr, [&] {
      auto plugin = std::make_unique<Operator>(Origin{Operator::kOpType, namespace_, layer});
      plugin->read_fields(fields, phase);
      return plugin.release();
    });
  }

  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override {
    return names_.collection();
  }
  const char* getPluginName() const noexcept override { return Operator::kOpType; }
  const char* getPluginVersion() const noexcept override { return kPluginVersion; }
  const char* getPluginNamespace() const noexcept override { return namespace_; }

 private:
  const char* const namespace_;
  FieldNames names_;
};

constexpr const char* kNamespaces[] = {"", "dcn_deploy"};

struct Creators {
  Creator<DeformConv2dPlugin> deform_conv2d[2] = {Creator<DeformConv2dPlugin>(kNamespaces[0]),
                                                  Creator<DeformConv2dPlugin>(kNamespaces[1])};
  Creator<DeformRoIPool2dPlugin> deform_roi_pool[2] = {
      Creator<DeformRoIPool2dPlugin>(kNamespaces[0]),
      Creator<DeformRoIPool2dPlugin>(kNamespaces[1])};
  std::array<nvinfer1::IPluginCreatorInterface*, 4> all = {
      &deform_conv2d[0], &deform_conv2d[1], &deform_roi_pool[0], &deform_roi_pool[1]};
};

}  // namespace

nvinfer1::IPluginCreatorInterface* const* creators(std::int32_t* count) noexcept {
  *count = 0;
  return guarded<nvinfer1::IPluginCreatorInterface* const*>("library", nullptr, [&] {
    static Creators creators;
    *count = static_cast<std::int32_t>(creators.all.size());
    return creators.all.data();
  });
}

}  // namespace tensorrt
}  // namespace dcn_deploy
