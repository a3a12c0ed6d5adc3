// What core/cuda/device.cuh gives the kernels, on the host. Test-only.
//
// Global memory is ordinary memory: a kernel's loads and stores are plain C++, and
// AddressSanitizer watches them.

#ifndef DCN_DEPLOY_TESTS_CUDA_HOST_SHIM_CUDA_HOST_SHIM_H_
#define DCN_DEPLOY_TESTS_CUDA_HOST_SHIM_CUDA_HOST_SHIM_H_

#include <stddef.h>
#include <stdint.h>

#include <type_traits>

#include "block.h"
#include "core/status.h"
#include "host_device.h"
#include "matrix_fragments.h"
#include "site.h"

// The language. Kernels are functions of internal or vague linkage, as templates are.
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(bytes) alignas(bytes)

#define DCN_DEPLOY_DYNAMIC_SHARED(name) \
  unsigned char* const name = ::dcn_deploy::cuda::host::shared_memory().address()
#define DCN_DEPLOY_FAULT(number) ::dcn_deploy::cuda::host::fault_is_planted(number)

using dim3 = dcn_deploy::cuda::host::Dim3;
struct CUstream_st;
using cudaStream_t = CUstream_st*;

// Of the fibre that runs.
static inline const dcn_deploy::cuda::host::Index3& threadIdx =
    dcn_deploy::cuda::host::builtins.thread_index;
static inline const dcn_deploy::cuda::host::Index3& blockIdx =
    dcn_deploy::cuda::host::builtins.block_index;
static inline const dim3& blockDim = dcn_deploy::cuda::host::builtins.block_size;
static inline const dim3& gridDim = dcn_deploy::cuda::host::builtins.grid_size;

namespace dcn_deploy {
namespace cuda {

inline void block_barrier(host::Site site = host::Site::here()) { host::meet_block(site); }
inline void warp_barrier(host::Site site = host::Site::here()) {
  host::meet_warp(host::Operation::kWarpBarrier, nullptr, site);
}

inline int kept(int value) { return value; }

inline Vec16 global_load_16(const void* address, bool valid) {
  return valid ? *static_cast<const Vec16*>(address) : Vec16{0, 0, 0, 0};
}

inline void cluster_barrier(host::Site site = host::Site::here()) { host::meet_cluster(site); }

template <typename T>
T cluster_load(const T* address, int rank, host::Site site = host::Site::here()) {
  static_assert(std::is_same<T, float>::value || std::is_same<T, int32_t>::value,
                "what the device's has");
  T value;
  host::read_cluster(address, rank, &value, sizeof(T), site);
  return value;
}

template <typename T>
T shuffle_xor(T value, int lane_mask, host::Site site = host::Site::here()) {
  static_assert(sizeof(T) == 4 && std::is_trivially_copyable<T>::value, "a 32-bit word");
  T result;
  host::ShuffleArguments arguments{&value, &result, lane_mask};
  host::meet_warp(host::Operation::kShuffleXor, &arguments, site);
  return result;
}

template <typename T>
T shuffle(T value, int lane, host::Site site = host::Site::here()) {
  static_assert(sizeof(T) == 4 && std::is_trivially_copyable<T>::value, "a 32-bit word");
  T result;
  host::ShuffleArguments arguments{&value, &result, lane};
  host::meet_warp(host::Operation::kShuffle, &arguments, site);
  return result;
}

template <typename T>
T shared_load(const T* address, host::Site site = host::Site::here()) {
  static_assert(sizeof(T) % 4 == 0 && sizeof(T) <= 16, "one access of a GPU, whole words");
  T value;
  host::shared_memory().read(host::linear_thread(), address, &value, sizeof(T), site);
  return value;
}

template <typename T>
void shared_store(T* address, T value, host::Site site = host::Site::here()) {
  static_assert(sizeof(T) % 4 == 0 && sizeof(T) <= 16, "one access of a GPU, whole words");
  host::shared_memory().write(host::linear_thread(), address, &value, sizeof(T), site);
}

template <int kTimes = 1, int kApart = 0>
void copy_async_16(void* shared, const void* global, host::Site site = host::Site::here()) {
  for (int i = 0; i < kTimes; ++i) {
    host::shared_memory().copy_async(host::linear_thread(),
                                     static_cast<unsigned char*>(shared) + i * kApart,
                                     static_cast<const unsigned char*>(global) + i * kApart, site);
  }
}

inline void copy_async_commit() { host::shared_memory().commit(host::linear_thread()); }

template <int kPending>
void copy_async_wait(host::Site site = host::Site::here()) {
  host::shared_memory().wait(host::linear_thread(), kPending, site);
}

inline void load_matrix_x4(uint32_t (&r)[4], const void* row,
                           host::Site site = host::Site::here()) {
  host::LoadMatrixArguments arguments{row, r};
  host::meet_warp(host::Operation::kLoadMatrix, &arguments, site);
}

inline void mma_f16_16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                          host::Site site = host::Site::here()) {
  host::MatrixOperands operands{d, a, b};
  host::meet_warp(host::Operation::kMmaFloat16, &operands, site);
}

inline void mma_bf16_16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                           host::Site site = host::Site::here()) {
  host::MatrixOperands operands{d, a, b};
  host::meet_warp(host::Operation::kMmaBFloat16, &operands, site);
}

inline void mma_tf32_1688(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                          host::Site site = host::Site::here()) {
  host::MatrixOperands operands{d, a, b};
  host::meet_warp(host::Operation::kMmaTf32, &operands, site);
}

inline void mma_s8_16832(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                         host::Site site = host::Site::here()) {
  host::MatrixOperands operands{d, a, b};
  host::meet_warp(host::Operation::kMmaInt8, &operands, site);
}

// Returns when the kernel is done.
template <typename... Parameters, typename... Arguments>
Status launch_clusters(void (*kernel)(Parameters...), dim3 grid, dim3 block, int cluster_blocks,
                       size_t shared_bytes, cudaStream_t stream, Arguments... arguments) {
  static_cast<void>(stream);
  // A reference parameter would let the threads share what a GPU gives each a copy of.
  static_assert((!std::is_reference<Parameters>::value && ...), "parameters by value");
  return host::run_grid(grid, block, cluster_blocks, shared_bytes,
                        [&] { kernel(Parameters(arguments)...); });
}

template <typename... Parameters, typename... Arguments>
Status launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
              cudaStream_t stream, Arguments... arguments) {
  return launch_clusters(kernel, grid, block, 1, shared_bytes, stream, arguments...);
}

}  // namespace cuda
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_TESTS_CUDA_HOST_SHIM_CUDA_HOST_SHIM_H_
