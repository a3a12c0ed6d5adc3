// The functions that the plugin library looks for in the TensorRT that calls it: here the test
// program is that TensorRT.

#ifndef DCN_DEPLOY_TESTS_TENSORRT_HOSTING_TENSORRT_H_
#define DCN_DEPLOY_TESTS_TENSORRT_HOSTING_TENSORRT_H_

#include <cstdint>

namespace dcn_deploy {
namespace tensorrt {

struct HostingTensorRT {
  std::int32_t major;
  std::int32_t minor;
  // What getLogger() gives.
  void* logger;
};

// Of the headers, without a logger, unless a test changes it.
HostingTensorRT& hosting_tensorrt();
HostingTensorRT tensorrt_of_the_headers();

}  // namespace tensorrt
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_TESTS_TENSORRT_HOSTING_TENSORRT_H_
