// TensorRT's plugin registry as far as it is called: libnvinfer of a version, whose loadLibrary
// says what it is given.
//
// STAND_IN_VERSION is what getInferLibVersion gives. Plugins stay registered, and nothing is taken
// a second time.

#include <NvInferRuntime.h>

#include <cstdio>
#include <cstring>

namespace {

class Registry final : public nvinfer1::IPluginRegistry {
 public:
  PluginLibraryHandle loadLibrary(const char* path) noexcept override {
    std::printf("loadLibrary %s\n", path);
    std::fflush(stdout);
    if (loaded_ || std::strstr(path, "refused") != nullptr) return nullptr;
    loaded_ = true;
    return this;
  }

  nvinfer1::IPluginCreatorInterface* getCreator(const char* name, const char* version,
                                                const char* space) noexcept override {
    const bool ours = std::strcmp(name, "DeformConv2d") == 0 && std::strcmp(version, "1") == 0 &&
                      std::strcmp(space, "dcn_deploy") == 0;
    // Not to be called, only to be there.
    return loaded_ && ours ? reinterpret_cast<nvinfer1::IPluginCreatorInterface*>(this) : nullptr;
  }

  // The rest is called by nobody. Not every version has all of it, so the last ones override
  // nothing there.
  bool registerCreator(nvinfer1::IPluginCreator&, const char*) noexcept override { return false; }
  nvinfer1::IPluginCreator* const* getPluginCreatorList(int32_t*) const noexcept override {
    return nullptr;
  }
  nvinfer1::IPluginCreator* getPluginCreator(const char*, const char*,
                                             const char*) noexcept override {
    return nullptr;
  }
  void setErrorRecorder(nvinfer1::IErrorRecorder*) noexcept override {}
  nvinfer1::IErrorRecorder* getErrorRecorder() const noexcept override { return nullptr; }
  bool deregisterCreator(const nvinfer1::IPluginCreator&) noexcept override { return false; }
  bool isParentSearchEnabled() const noexcept override { return false; }
  void setParentSearchEnabled(bool) noexcept override {}
  void deregisterLibrary(PluginLibraryHandle) noexcept override {}
  bool registerCreator(nvinfer1::IPluginCreatorInterface&, const char*) noexcept override {
    return false;
  }
  nvinfer1::IPluginCreatorInterface* const* getAllCreators(int32_t*) const noexcept override {
    return nullptr;
  }
  bool deregisterCreator(const nvinfer1::IPluginCreatorInterface&) noexcept override {
    return false;
  }
  nvinfer1::IPluginResource* acquirePluginResource(const char*,
                                                   nvinfer1::IPluginResource*) noexcept override {
    return nullptr;
  }
  int32_t releasePluginResource(const char*) noexcept override { return 0; }
  nvinfer1::IPluginCreatorInterface* const* getAllCreatorsRecursive(int32_t*) noexcept {
    return nullptr;
  }

 private:
  bool loaded_ = false;
};

}  // namespace

extern "C" {

__attribute__((visibility("default"))) nvinfer1::IPluginRegistry* getPluginRegistry() noexcept {
  static Registry registry;
  return &registry;
}

__attribute__((visibility("default"))) int32_t getInferLibVersion() noexcept {
  return STAND_IN_VERSION;
}

}  // extern "C"
