// The device that calls of the CUDA runtime go to.

#ifndef DCN_DEPLOY_ONNXRUNTIME_CUDA_CURRENT_DEVICE_H_
#define DCN_DEPLOY_ONNXRUNTIME_CUDA_CURRENT_DEVICE_H_

#include <string>

#include "core/cuda/runtime.h"
#include "onnxruntime/api.h"

namespace dcn_deploy {
namespace onnxruntime {
namespace cuda {

// Runs `body` with `device` as the calling thread's current one, and leaves the thread as it was.
template <typename Body>
void on_device(int device, const std::string& where, Body&& body) {
  namespace runtime = dcn_deploy::cuda;
  int before = 0;
  check(runtime::get_current_device(&before), where);
  if (before == device) {
    body();
    return;
  }
  check(runtime::set_current_device(device), where);
  try {
    body();
  } catch (...) {
    // The first failure is the one to tell.
    static_cast<void>(runtime::set_current_device(before));
    throw;
  }
  check(runtime::set_current_device(before), where);
}

}  // namespace cuda
}  // namespace onnxruntime
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_ONNXRUNTIME_CUDA_CURRENT_DEVICE_H_
