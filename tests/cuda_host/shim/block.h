// A grid's clusters one after another; the threads of a cluster's blocks as fibres that meet at
// barriers and at the operations of a warp.

#ifndef DCN_DEPLOY_TESTS_CUDA_HOST_SHIM_BLOCK_H_
#define DCN_DEPLOY_TESTS_CUDA_HOST_SHIM_BLOCK_H_

#include <cstddef>
#include <functional>

#include "core/status.h"
#include "host_device.h"
#include "shared_memory.h"
#include "site.h"

namespace dcn_deploy {
namespace cuda {
namespace host {

// A kernel's built-in variables.
struct Index3 {
  unsigned x = 0, y = 0, z = 0;
};
struct Dim3 {
  unsigned x = 1, y = 1, z = 1;

  constexpr Dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

struct Builtins {
  Index3 thread_index, block_index;
  Dim3 block_size, grid_size;
};
// Those of the thread that runs.
extern Builtins builtins;

// Runs `kernel` once for each thread of the grid, `cluster_blocks` neighbouring blocks at a time.
// Not ok if something was found wrong.
Status run_grid(Dim3 grid, Dim3 block, int cluster_blocks, std::size_t shared_bytes,
                const std::function<void()>& kernel);

// Whatever follows is for the thread that runs.

// What a warp, a block or a cluster does together.
enum class Operation {
  kBlockBarrier,
  kClusterBarrier,
  kWarpBarrier,
  kShuffle,
  kShuffleXor,
  kLoadMatrix,
  kMmaFloat16,
  kMmaBFloat16,
  kMmaTf32,
  kMmaInt8,
};

struct ShuffleArguments {
  const void* value;
  void* result;
  int lane;  // or the mask
};
struct LoadMatrixArguments {
  const void* row;
  std::uint32_t* registers;  // 4
};

void meet_block(Site site);
void meet_cluster(Site site);
// `arguments`: ShuffleArguments, LoadMatrixArguments, MatrixOperands; none for a barrier.
void meet_warp(Operation operation, void* arguments, Site site);

// Of its block, and its place in it.
SharedMemory& shared_memory();
int linear_thread();
// The shared memory of the block at `rank`, where the running thread's has `address`.
void read_cluster(const void* address, int rank, void* value, std::size_t size, Site site);

// Notes what is wrong and leaves the kernel for good. Nothing on the fibre's stack is destroyed.
[[noreturn]] __attribute__((format(printf, 2, 3))) void fail(Violation violation,
                                                             const char* format, ...);

}  // namespace host
}  // namespace cuda
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_TESTS_CUDA_HOST_SHIM_BLOCK_H_
