// The CUDA runtime as far as the adapters use it, where the host plays the device: its memory is
// the host's, a launch is done when it returns, and there is one device, like an H100 but for its
// few multiprocessors.

#include <cstddef>
#include <cstring>
#include <string>

#include "core/cuda/device.h"
#include "core/cuda/runtime.h"
#include "host_device.h"

namespace dcn_deploy {
namespace cuda {

Status query_device(Device* device) {
  device->compute_capability = 90;
  device->multiprocessors = 2;
  device->shared_bytes_per_block = host::settings().max_shared_bytes;
  device->cluster_blocks = 8;
  return {};
}

Status count_devices(int* count) {
  *count = 1;
  return {};
}

Status get_current_device(int* ordinal) {
  *ordinal = 0;
  return {};
}

Status set_current_device(int ordinal) {
  if (ordinal == 0) return {};
  return make_status(StatusCode::kDevice, "choice of the device: expected 0, got %d", ordinal);
}

Status copy_to_device(void* device, const void* host, std::size_t bytes) {
  std::memcpy(device, host, bytes);
  return {};
}

Status wait_for(Stream) { return {}; }

}  // namespace cuda
}  // namespace dcn_deploy

extern "C" {

// What the launches since the last call did wrong, a line each; empty where all was well.
__attribute__((visibility("default"))) const char* dcn_deploy_host_findings() {
  static std::string text;
  text.clear();
  for (const dcn_deploy::cuda::host::Finding& finding : dcn_deploy::cuda::host::take_findings()) {
    text += finding.message + "\n";
  }
  return text.c_str();
}

}  // extern "C"
