// Registers the plugins when it is opened: for trtexec --staticPlugins, Polygraphy --plugins and
// trt_extra_plugin_lib_paths of ONNX Runtime, which open a library and call nothing in it.
//
// What can hand a library to TensorRT's registry itself takes the plugin library, not this one.

#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <exception>
#include <string>

#include "dcn_deploy/plugins.h"

#define DCN_DEPLOY_EXPORT __attribute__((visibility("default")))

extern "C" {

DCN_DEPLOY_EXPORT const char* dcn_deploy_version() { return DCN_DEPLOY_VERSION; }

}  // extern "C"

namespace dcn_deploy {
namespace tensorrt {
namespace {

// A function of the TensorRT of this process; null if there is none.
template <typename Function>
Function* function_of_tensorrt(const char* symbol) {
  void* found = dlsym(RTLD_DEFAULT, symbol);
  if (found == nullptr) {
    // Its caller may have opened it for itself alone, or not yet: the loader gives the one that is
    // open, by the name in its file, and looks for one otherwise.
    const std::string name = "libnvinfer.so." + std::to_string(NV_TENSORRT_MAJOR);
    if (void* const library = dlopen(name.c_str(), RTLD_NOW)) found = dlsym(library, symbol);
  }
  return reinterpret_cast<Function*>(found);
}

// The plugin library in the folder of this one.
std::string plugin_library() {
  Dl_info self;
  if (dladdr(reinterpret_cast<void*>(&dcn_deploy_version), &self) == 0) return kTensorRtLibrary;
  const std::string path = self.dli_fname;
  const auto slash = path.rfind('/');
  return slash == std::string::npos ? kTensorRtLibrary
                                    : path.substr(0, slash + 1) + kTensorRtLibrary;
}

// Returns what went wrong; empty if nothing did.
std::string register_plugins() {
  const auto version = function_of_tensorrt<std::int32_t()>("getInferLibVersion");
  const auto registry = function_of_tensorrt<nvinfer1::IPluginRegistry*()>("getPluginRegistry");
  const std::string wanted = std::to_string(NV_TENSORRT_MAJOR);
  if (version == nullptr || registry == nullptr) {
    return "expected TensorRT " + wanted +
           " in this process or where the loader looks, found none. Load it first, or hand " +
           kTensorRtLibrary + " to its plugin registry.";
  }
  // Another version's registry has its functions in other places: none of them may be called.
  const std::string found = std::to_string(version() / 10000);
  if (found != wanted) {
    return "expected TensorRT " + wanted + ", whose headers this library was built with, found " +
           found + ". Hand " + kTensorRtLibrary +
           ", which serves both, to its plugin registry, or build dcn_deploy with the headers of "
           "TensorRT " +
           found + " (TENSORRT_ROOT).";
  }
  nvinfer1::IPluginRegistry* const plugins = registry();
  if (plugins == nullptr) return "TensorRT has no plugin registry.";
  // The library would be refused a second time.
  if (plugins->getCreator(kDeformConv2d, kPluginVersion, kDomain) != nullptr) return "";
  const std::string path = plugin_library();
  if (plugins->loadLibrary(path.c_str()) == nullptr) {
    return "TensorRT did not take " + path + ". See what its logger says.";
  }
  return "";
}

__attribute__((constructor)) void on_load() noexcept {
  try {
    const std::string wrong = register_plugins();
    if (!wrong.empty()) {
      std::fprintf(stderr, "dcn_deploy: no plugins registered: %s\n", wrong.c_str());
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "dcn_deploy: no plugins registered: %s\n", error.what());
  }
}

}  // namespace
}  // namespace tensorrt
}  // namespace dcn_deploy
