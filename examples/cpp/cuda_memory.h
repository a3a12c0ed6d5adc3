// The few things of CUDA that the program owns, each released when it goes.
#ifndef DCN_DEPLOY_EXAMPLES_CUDA_MEMORY_H_
#define DCN_DEPLOY_EXAMPLES_CUDA_MEMORY_H_

#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>

namespace examples {

// Throws std::runtime_error unless the call succeeded.
inline void check_cuda(cudaError_t status, const char* call) {
  if (status != cudaSuccess) {
    throw std::runtime_error(std::string(call) + ": " + cudaGetErrorString(status));
  }
}

// Calls of destructors: there is nobody to tell.
struct Release {
  void operator()(cudaStream_t stream) const { static_cast<void>(cudaStreamDestroy(stream)); }
  void operator()(cudaEvent_t event) const { static_cast<void>(cudaEventDestroy(event)); }
  void operator()(cudaGraph_t graph) const { static_cast<void>(cudaGraphDestroy(graph)); }
  void operator()(cudaGraphExec_t graph) const { static_cast<void>(cudaGraphExecDestroy(graph)); }
};
struct ReleaseDevice {
  void operator()(char* memory) const { static_cast<void>(cudaFree(memory)); }
};
struct ReleasePinned {
  void operator()(char* memory) const { static_cast<void>(cudaFreeHost(memory)); }
};

using Stream = std::unique_ptr<std::remove_pointer_t<cudaStream_t>, Release>;
using Event = std::unique_ptr<std::remove_pointer_t<cudaEvent_t>, Release>;
using Graph = std::unique_ptr<std::remove_pointer_t<cudaGraph_t>, Release>;
using GraphExec = std::unique_ptr<std::remove_pointer_t<cudaGraphExec_t>, Release>;
using DeviceMemory = std::unique_ptr<char, ReleaseDevice>;
using PinnedMemory = std::unique_ptr<char, ReleasePinned>;

inline Stream make_stream() {
  cudaStream_t stream = nullptr;
  check_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking),
             "cudaStreamCreateWithFlags");
  return Stream(stream);
}

inline Event make_event() {
  cudaEvent_t event = nullptr;
  check_cuda(cudaEventCreate(&event), "cudaEventCreate");
  return Event(event);
}

// At least one byte: an address is wanted even for a tensor without elements.
inline DeviceMemory make_device_memory(std::size_t bytes) {
  void* memory = nullptr;
  check_cuda(cudaMalloc(&memory, bytes == 0 ? 1 : bytes), "cudaMalloc");
  return DeviceMemory(static_cast<char*>(memory));
}

inline PinnedMemory make_pinned_memory(std::size_t bytes) {
  void* memory = nullptr;
  check_cuda(cudaMallocHost(&memory, bytes == 0 ? 1 : bytes), "cudaMallocHost");
  return PinnedMemory(static_cast<char*>(memory));
}

inline float milliseconds(const Event& begin, const Event& end) {
  float taken = 0;
  check_cuda(cudaEventElapsedTime(&taken, begin.get(), end.get()), "cudaEventElapsedTime");
  return taken;
}

}  // namespace examples

#endif  // DCN_DEPLOY_EXAMPLES_CUDA_MEMORY_H_
