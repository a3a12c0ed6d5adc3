// What a C++ program needs to know of the plugin libraries: it loads them at run time, by path, and
// links with none.
//
//   ONNX Runtime  Ort::SessionOptions::RegisterCustomOpsLibrary(path)
//   TensorRT      getPluginRegistry()->loadLibrary(path), before a plugin of an engine is created
//
// The paths are those of the CMake targets dcn_deploy::onnxruntime, dcn_deploy::onnxruntime_cuda
// and dcn_deploy::tensorrt of find_package(dcn_deploy).
#ifndef DCN_DEPLOY_PLUGINS_H_
#define DCN_DEPLOY_PLUGINS_H_

#include <dlfcn.h>

#include <stdexcept>
#include <string>

namespace dcn_deploy {

// File names of the libraries.
inline constexpr char kOnnxRuntimeLibrary[] = "libdcn_deploy_onnxruntime.so";
inline constexpr char kOnnxRuntimeCudaLibrary[] = "libdcn_deploy_onnxruntime_cuda.so";
inline constexpr char kTensorRtLibrary[] = "libdcn_deploy_tensorrt.so";
// Loads the one before into TensorRT's registry when it is opened itself.
inline constexpr char kTensorRtRegisterLibrary[] = "libdcn_deploy_tensorrt_register.so";

// The operators: ONNX op_type and name of TensorRT's plugin.
inline constexpr char kDeformConv2d[] = "DeformConv2d";
inline constexpr char kDeformRoiPool2d[] = "DeformRoIPool2d";

// ONNX domain of the operators. TensorRT's creators are registered under this namespace and under
// the empty one.
inline constexpr char kDomain[] = "dcn_deploy";

// Version of the operators in ONNX, and of TensorRT's plugins.
inline constexpr int kOperatorVersion = 1;
inline constexpr char kPluginVersion[] = "1";

// Version of the library in a file: the one of dcn_deploy it was built from. The library stays
// loaded, as whoever registers it wants it anyway.
//
// Throws std::runtime_error if the file cannot be loaded or is not a library of dcn_deploy.
inline std::string library_version(const std::string& path) {
  void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* const reason = dlerror();
    throw std::runtime_error(path + ": expected a plugin library of dcn_deploy, got " +
                             (reason == nullptr ? "no reason from the loader" : reason) +
                             ". Pass the path that find_package(dcn_deploy) gives.");
  }
  using Version = const char* (*)();
  const auto version = reinterpret_cast<Version>(dlsym(library, "dcn_deploy_version"));
  if (version == nullptr) {
    throw std::runtime_error(
        path +
        ": expected a plugin library of dcn_deploy, got one without dcn_deploy_version. Pass "
        "the path that find_package(dcn_deploy) gives.");
  }
  return version();
}

}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_PLUGINS_H_
