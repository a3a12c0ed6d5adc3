// What the kernels need of a GPU, each under one name: barriers, shuffles, asynchronous copies,
// matrix instructions.
//
// The kernels are written against this header alone. With DCN_DEPLOY_CUDA_HOST_SHIM the same names
// come from a test-only header that runs a block's threads as fibres on the host, so that the very
// same kernel source can be checked without a GPU. Every access to shared memory goes through
// shared_load and shared_store: that is where the tests look for races and for reads of what was
// never written.

#ifndef DCN_DEPLOY_CORE_CUDA_DEVICE_CUH_
#define DCN_DEPLOY_CORE_CUDA_DEVICE_CUH_

#include <stddef.h>
#include <stdint.h>

namespace dcn_deploy {
namespace cuda {

constexpr int kWarpSize = 32;

// 16 bytes, the widest access of a thread.
struct alignas(16) Vec16 {
  uint32_t x, y, z, w;
};
struct alignas(8) Vec8 {
  uint32_t x, y;
};

}  // namespace cuda
}  // namespace dcn_deploy

// A kernel's parameter whose address may be taken without a copy of it being made for every thread,
// and a device function that gets registers of its own.
#if defined(__CUDACC__)
#define DCN_DEPLOY_KERNEL_PARAMETER const __grid_constant__
#define DCN_DEPLOY_NOINLINE __noinline__
#else
#define DCN_DEPLOY_KERNEL_PARAMETER const
#define DCN_DEPLOY_NOINLINE __attribute__((noinline))
#endif

#if defined(DCN_DEPLOY_CUDA_HOST_SHIM)

#include <cuda_host_shim.h>

#else

#include <cuda_runtime.h>

#include "core/status.h"

// Dynamic shared memory of the block, as bytes.
#define DCN_DEPLOY_DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]
// True where a test has planted the fault of that number; see the tests of the kernels on the host.
#define DCN_DEPLOY_FAULT(number) false

namespace dcn_deploy {
namespace cuda {

__device__ __forceinline__ void block_barrier() { __syncthreads(); }
__device__ __forceinline__ void warp_barrier() { __syncwarp(); }

template <typename T>
__device__ __forceinline__ T shuffle_xor(T value, int lane_mask) {
  return __shfl_xor_sync(0xffffffffu, value, lane_mask);
}

template <typename T>
__device__ __forceinline__ T shuffle(T value, int lane) {
  return __shfl_sync(0xffffffffu, value, lane);
}

// `value`, of which the compiler does not know how it came about: it keeps it in a register instead
// of computing it anew where it is used.
__device__ __forceinline__ int kept(int value) {
  return __shfl_sync(0xffffffffu, value, threadIdx.x % kWarpSize);
}

// 16 bytes of what no thread of the kernel writes; zeros, and nothing is read, if not `valid`.
__device__ __forceinline__ Vec16 global_load_16(const void* address, bool valid) {
  Vec16 v;
  asm("{\n"
      ".reg .pred valid;\n"
      "setp.ne.u32 valid, %5, 0;\n"
      "mov.u32 %0, 0;\n"
      "mov.u32 %1, 0;\n"
      "mov.u32 %2, 0;\n"
      "mov.u32 %3, 0;\n"
      "@valid ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];\n"
      "}\n"
      : "=&r"(v.x), "=&r"(v.y), "=&r"(v.z), "=&r"(v.w)
      : "l"(address), "r"(static_cast<unsigned>(valid)));
  return v;
}

template <typename T>
__device__ __forceinline__ T shared_load(const T* address) {
  return *address;
}

template <typename T>
__device__ __forceinline__ void shared_store(T* address, T value) {
  *address = value;
}

// Copies 16 bytes from global to shared memory, kTimes, each kApart bytes behind the ones before in
// both; seen by this thread after copy_async_wait, by the others after a barrier behind it. Before
// SM 8.0 it is an ordinary copy.
template <int kTimes = 1, int kApart = 0>
__device__ __forceinline__ void copy_async_16(void* shared, const void* global) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0 + %2], [%1 + %2], 16;\n" ::"r"(
                   static_cast<unsigned>(__cvta_generic_to_shared(shared))),
               "l"(global), "n"((kTimes - 1) * kApart));
#else
  constexpr int kLast = (kTimes - 1) * kApart;
  *reinterpret_cast<Vec16*>(static_cast<unsigned char*>(shared) + kLast) =
      *reinterpret_cast<const Vec16*>(static_cast<const unsigned char*>(global) + kLast);
#endif
  if constexpr (kTimes > 1) copy_async_16<kTimes - 1, kApart>(shared, global);
}

__device__ __forceinline__ void copy_async_commit() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;\n" ::: "memory");
#endif
}

// Waits until at most `kPending` of this thread's latest groups are under way.
template <int kPending>
__device__ __forceinline__ void copy_async_wait() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
#endif
}

// A cluster: neighbouring blocks of a grid that run at the same time and may read each other's
// shared memory. SM 9.0 and later; a launch without one makes each block a cluster of its own.

// For all threads of all blocks of the cluster. What was written to shared memory before it is seen
// behind it; a block whose shared memory is read by others must not end before.
__device__ __forceinline__ void cluster_barrier() {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "barrier.cluster.arrive.release;\n"
      "barrier.cluster.wait.acquire;\n" ::
          : "memory");
#else
  __trap();  // never asked for there; see Device::cluster_blocks
#endif
}

// What the block at `rank` of the cluster has where this one has `address` in its shared memory.
__device__ __forceinline__ uint32_t cluster_load_word(const void* address, int rank) {
  uint32_t value = 0;
#if __CUDA_ARCH__ >= 900
  uint32_t remote;
  asm("mapa.shared::cluster.u32 %0, %1, %2;"
      : "=r"(remote)
      : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(address))), "r"(rank));
  // Volatile, and so are the barriers: it stays between them.
  asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(value) : "r"(remote));
#else
  __trap();
#endif
  return value;
}
__device__ __forceinline__ int32_t cluster_load(const int32_t* address, int rank) {
  return static_cast<int32_t>(cluster_load_word(address, rank));
}
__device__ __forceinline__ float cluster_load(const float* address, int rank) {
  return __uint_as_float(cluster_load_word(address, rank));
}

// Four 8×8 matrices of 16-bit elements (or 8×4 of 32 bits): lane l gives the address of row l % 8
// of matrix l / 8; r[i] is the 32-bit word at row l / 4, word l % 4 of matrix i.
__device__ __forceinline__ void load_matrix_x4(uint32_t (&r)[4], const void* row) {
#if __CUDA_ARCH__ >= 750
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
#endif
}

// d += a · b for a 16 × 16 times 16 × 8 product; fragments as the PTX ISA has them for
// mma.m16n8k16.
__device__ __forceinline__ void mma_f16_16816(float (&d)[4], const uint32_t (&a)[4],
                                              const uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, "
      "%9}, "
      "{%0, %1, %2, %3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  __trap();  // never chosen there; see plan_deform_conv2d
#endif
}

__device__ __forceinline__ void mma_bf16_16816(float (&d)[4], const uint32_t (&a)[4],
                                               const uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, "
      "{%0, %1, %2, %3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  __trap();
#endif
}

// The same for 16 × 8 times 8 × 8 in TF32 (mma.m16n8k8); operands are float32 rounded by to_tf32.
__device__ __forceinline__ void mma_tf32_1688(float (&d)[4], const uint32_t (&a)[4],
                                              const uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, "
      "%9}, "
      "{%0, %1, %2, %3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  __trap();
#endif
}

// d += a · b for a 16 × 32 times 32 × 8 product of signed bytes, modulo 2^32 (mma.m16n8k32). A
// fragment has the bytes that one of mma.m16n8k16 has.
__device__ __forceinline__ void mma_s8_16832(int32_t (&d)[4], const uint32_t (&a)[4],
                                             const uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, "
      "%9}, "
      "{%0, %1, %2, %3};\n"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  __trap();
#endif
}

// "what: expected success, got <error>" for a call of the CUDA runtime.
inline Status status_of(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return {};
  // Forgotten, so that the next launch is not blamed for it.
  static_cast<void>(cudaGetLastError());
  const StatusCode code =
      error == cudaErrorMemoryAllocation ? StatusCode::kOutOfMemory : StatusCode::kDevice;
  return make_status(code, "%s: expected success, got %s (%s)", what, cudaGetErrorName(error),
                     cudaGetErrorString(error));
}

// Lets a block of `kernel` have so many bytes of dynamic shared memory.
inline Status allow_shared_bytes(const void* kernel, size_t shared_bytes) {
  // What a block may have without asking.
  constexpr size_t kDefaultSharedBytes = 48 * 1024;
  if (shared_bytes <= kDefaultSharedBytes) return {};
  // The limit is the kernel's and not the launch's: as much as the device has, so that no other
  // thread, which starts the same kernel with less, can lower it in between.
  int ordinal = 0;
  int most = 0;
  DCN_DEPLOY_RETURN_IF_ERROR(status_of(cudaGetDevice(&ordinal), "current device"));
  DCN_DEPLOY_RETURN_IF_ERROR(
      status_of(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, ordinal),
                "attribute of the device"));
  return status_of(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most),
                   "shared memory of a block");
}

// Starts kernel(arguments...) on a stream; the status says whether it could be started.
template <typename... Parameters, typename... Arguments>
Status launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
              cudaStream_t stream, Arguments... arguments) {
  DCN_DEPLOY_RETURN_IF_ERROR(
      allow_shared_bytes(reinterpret_cast<const void*>(kernel), shared_bytes));
  kernel<<<grid, block, shared_bytes, stream>>>(Parameters(arguments)...);
  return status_of(cudaGetLastError(), "launch");
}

// The same in clusters of so many blocks, neighbours along x, of which the grid has a multiple.
template <typename... Parameters, typename... Arguments>
Status launch_clusters(void (*kernel)(Parameters...), dim3 grid, dim3 block, int cluster_blocks,
                       size_t shared_bytes, cudaStream_t stream, Arguments... arguments) {
  DCN_DEPLOY_RETURN_IF_ERROR(
      allow_shared_bytes(reinterpret_cast<const void*>(kernel), shared_bytes));
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = static_cast<unsigned>(cluster_blocks);
  cluster.val.clusterDim.y = 1;
  cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &cluster;
  config.numAttrs = 1;
  return status_of(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...), "launch");
}

}  // namespace cuda
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_CUDA_HOST_SHIM

namespace dcn_deploy {
namespace cuda {

// Nearest TF32 number, ties away from zero, as cvt.rna.tf32.f32 has it; infinities and NaNs stay
// what they are.
__device__ __forceinline__ uint32_t to_tf32(uint32_t bits) {
  const bool finite = (bits & 0x7f800000u) != 0x7f800000u;
  return finite ? (bits + 0x1000u) & 0xffffe000u : bits;
}

}  // namespace cuda
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_CORE_CUDA_DEVICE_CUH_
