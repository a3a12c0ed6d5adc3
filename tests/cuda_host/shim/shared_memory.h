// A block's shared memory, and the record of who touched it when.
//
// Kernels hold addresses of a range that nobody can read or write; the bytes themselves are
// elsewhere. So an access that does not go through shared_load and the like ends the process
// instead of escaping the record.
//
// Two accesses to a word by different threads, at least one of them writing, are ordered if a
// barrier of the block lies between them or, in one warp, a barrier of the warp. Since those are
// the only means of order that kernels have, the record need not know more than how many barriers
// an access has behind it. A read or write that is not ordered is a race whatever order the
// threads happened to run in. Between a block's accesses and those of the other blocks of its
// cluster, which only read, it takes a barrier of the cluster.

#ifndef DCN_DEPLOY_TESTS_CUDA_HOST_SHIM_SHARED_MEMORY_H_
#define DCN_DEPLOY_TESTS_CUDA_HOST_SHIM_SHARED_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "host_device.h"
#include "site.h"

namespace dcn_deploy {
namespace cuda {
namespace host {

class SharedMemory {
 public:
  SharedMemory();
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  // Poisons `bytes` bytes and forgets what was before.
  void start_block(std::size_t bytes, int threads, const Settings& settings);
  // What a kernel takes for its shared memory.
  unsigned char* address() const { return address_; }

  // Barriers that all threads of the cluster, of the block, or of one warp, have reached.
  void cluster_barrier() {
    ++cluster_epoch_;
    ++block_epoch_;
  }
  void block_barrier() { ++block_epoch_; }
  void warp_barrier(int warp) { ++warp_epochs_[static_cast<std::size_t>(warp)]; }

  // The accesses of a thread. `size` is a multiple of 4 and the alignment asked for.
  void read(int thread, const void* address, void* value, std::size_t size, Site site);
  void write(int thread, void* address, const void* value, std::size_t size, Site site);

  // A read by a thread of the cluster's block at `rank`, which is another.
  void read_from_outside(int rank, const void* address, void* value, std::size_t size, Site site);

  // 16 bytes.
  void copy_async(int thread, void* address, const void* global, Site site);
  void commit(int thread);
  void wait(int thread, int pending, Site site);
  // A thread is done: its copies must be, too, and other blocks' reads.
  void finish(int thread);

 private:
  static constexpr std::size_t kCellBytes = 4;
  static constexpr std::size_t kCopyBytes = 16;
  static constexpr std::uint16_t kNobody = 0xffff;
  static constexpr std::uint16_t kManyWarps = 0xfffe;

  // Epochs count from 1 and never restart, so that the record need not be cleared for each block.
  struct Cell {
    std::uint32_t write_epoch = 0;
    std::uint32_t write_warp_epoch = 0;
    std::uint32_t write_cluster_epoch = 0;
    std::uint32_t outside_read_epoch = 0;
    std::uint32_t read_epoch = 0;
    std::uint32_t read_warp_epoch = 0;
    std::uint32_t read_lanes = 0;  // of read_warp since read_warp_epoch
    std::int32_t write_line = 0;
    std::int32_t read_line = 0;
    std::int32_t outside_read_line = 0;
    std::uint16_t writer = kNobody;
    std::uint16_t read_warp = kNobody;
    std::uint16_t copier = kNobody;  // whose asynchronous copy is under way
  };

  struct Copy {
    std::size_t offset;
    unsigned char bytes[kCopyBytes];
    int line;
  };
  struct Copies {
    std::vector<Copy> under_way;       // oldest first
    std::vector<std::size_t> commits;  // for each group, the number of its copies and older ones
  };

  std::size_t offset_of(const void* address, std::size_t size, const char* what, Site site) const;
  Cell* cells(std::size_t offset) { return &cells_[offset / kCellBytes]; }
  void check_not_in_flight(int thread, const Cell& cell, std::size_t offset, const char* what,
                           Site site) const;
  void check_written(const Cell& cell, std::size_t offset, const char* reader, int number,
                     Site site) const;
  void check_after_write(int thread, const Cell& cell, std::size_t offset, const char* what,
                         Site site) const;
  void note_write(int thread, std::size_t offset, std::size_t size, Site site, bool check);

  unsigned char* address_ = nullptr;
  std::vector<unsigned char> bytes_;
  std::vector<Cell> cells_;
  std::vector<Copies> copies_;
  std::vector<std::uint32_t> warp_epochs_;
  std::size_t size_ = 0;
  std::uint32_t block_epoch_ = 0;
  std::uint32_t first_epoch_ = 0;
  std::uint32_t cluster_epoch_ = 0;
  std::uint32_t outside_read_epoch_ = 0;  // of the last one
  std::int32_t outside_read_line_ = 0;
  bool ending_ = false;  // a thread is done
  AsyncCopies async_copies_ = AsyncCopies::kLate;
  bool report_uninitialized_ = true;
};

}  // namespace host
}  // namespace cuda
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_TESTS_CUDA_HOST_SHIM_SHARED_MEMORY_H_
