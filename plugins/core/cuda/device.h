// A GPU as the host sees it. No header of CUDA is needed to include this one.

#ifndef DCN_DEPLOY_CORE_CUDA_DEVICE_H_
#define DCN_DEPLOY_CORE_CUDA_DEVICE_H_

#include <cstddef>

#include "core/status.h"

struct CUstream_st;

namespace dcn_deploy {
namespace cuda {

// cudaStream_t.
using Stream = CUstream_st*;

// Order of a map's axes in memory.
enum class Layout : int { kNchw = 0, kNhwc = 1 };

struct Device {
  int compute_capability = 0;  // 10 · major + minor
  int multiprocessors = 0;
  std::size_t shared_bytes_per_block = 0;  // the most a block may ask for
  // The most blocks that may share their shared memory, as far as every device with such clusters
  // has them; 1 where there are none.
  int cluster_blocks = 1;
};

// The calling thread's current device.
Status query_device(Device* device);

}  // namespace cuda
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_CORE_CUDA_DEVICE_H_
