// The tests' view of the device that the host plays: how it schedules, what it found wrong, which
// fault is planted in the kernels.

#ifndef DCN_DEPLOY_TESTS_CUDA_HOST_SHIM_HOST_DEVICE_H_
#define DCN_DEPLOY_TESTS_CUDA_HOST_SHIM_HOST_DEVICE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace dcn_deploy {
namespace cuda {
namespace host {

// Which of the threads that can go on does so. Each order is one that a GPU may choose as well.
enum class ThreadOrder { kForward, kReverse, kRandom };

// When an asynchronous copy writes to shared memory: as late as its wait allows, or at once.
enum class AsyncCopies { kLate, kAtOnce };

struct Settings {
  ThreadOrder thread_order = ThreadOrder::kForward;
  bool shuffle_blocks = false;
  std::uint64_t seed = 1;  // of the random orders
  // If not 0, only so many blocks run, the grid's last (and those of their clusters): for grids
  // that would take days.
  std::uint64_t last_blocks = 0;
  AsyncCopies async_copies = AsyncCopies::kLate;
  // The most dynamic shared memory of a block; SM 9.0's 227 KiB unless said.
  std::size_t max_shared_bytes = 227 * 1024;
  // Off, a read of shared memory that nobody wrote gives the poison: bytes of 0xff, which are NaN
  // in every storage type.
  bool report_uninitialized = true;
};

void configure(const Settings& settings);
const Settings& settings();

enum class Violation {
  kLaunch,         // sizes that no GPU takes
  kDivergence,     // threads that should meet at one operation do not
  kRace,           // two threads, one of them writing, and no barrier between; or a block that ends
                   // while another may read its shared memory
  kUninitialized,  // shared memory read before it was written
  kInFlight,       // shared memory touched while an asynchronous copy to it is under way
  kOutOfBounds,    // beyond the block's shared memory
  kMisaligned,
};

struct Finding {
  Violation violation;
  std::string message;
};

// What the launches since the last call did wrong. A launch ends with its first finding.
std::vector<Finding> take_findings();

// Makes DCN_DEPLOY_FAULT(number) true in the kernels; 0 plants none.
void plant_fault(int number);
// How often a kernel came by the planted fault since it was planted.
std::int64_t times_at_fault();
// What DCN_DEPLOY_FAULT asks.
bool fault_is_planted(int number);

// Work of all launches since the process started, to see that a test exercises what it means to.
struct Counters {
  std::int64_t blocks = 0;
  std::int64_t block_barriers = 0;
  std::int64_t cluster_barriers = 0;
  std::int64_t cluster_loads = 0;
  std::int64_t matrix_products = 0;
  std::int64_t async_copies = 0;
};
const Counters& counters();

}  // namespace host
}  // namespace cuda
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_TESTS_CUDA_HOST_SHIM_HOST_DEVICE_H_
