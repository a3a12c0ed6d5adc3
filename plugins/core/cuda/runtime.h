// What an adapter needs of the CUDA runtime, as statuses. No header of CUDA is needed to include
// this one.

#ifndef DCN_DEPLOY_CORE_CUDA_RUNTIME_H_
#define DCN_DEPLOY_CORE_CUDA_RUNTIME_H_

#include <cstddef>

#include "core/cuda/device.h"
#include "core/status.h"

namespace dcn_deploy {
namespace cuda {

// Refuses, with the reason, where there is no driver or no GPU.
Status count_devices(int* count);

// The calling thread's.
Status get_current_device(int* ordinal);
Status set_current_device(int ordinal);

// From the host's memory to the current device's; returns when it is done.
Status copy_to_device(void* device, const void* host, std::size_t bytes);

// Returns when everything enqueued so far is done.
Status wait_for(Stream stream);

}  // namespace cuda
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_CORE_CUDA_RUNTIME_H_
