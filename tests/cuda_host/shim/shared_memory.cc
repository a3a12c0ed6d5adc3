#include "shared_memory.h"

#include <sys/mman.h>

#include <cstring>
#include <new>

#include "block.h"

namespace dcn_deploy {
namespace cuda {
namespace host {
namespace {

constexpr std::size_t kAddressSpace = std::size_t{1} << 20;
constexpr std::size_t kWarp = 32;
constexpr unsigned char kPoison = 0xff;

}  // namespace

SharedMemory::SharedMemory() : warp_epochs_(kWarp, 1) {
  void* memory = mmap(nullptr, kAddressSpace, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  address_ = static_cast<unsigned char*>(memory);
}

SharedMemory::~SharedMemory() { munmap(address_, kAddressSpace); }

void SharedMemory::start_block(std::size_t bytes, int threads, const Settings& settings) {
  bytes_.assign(bytes, kPoison);
  const std::size_t count = (bytes + kCellBytes - 1) / kCellBytes;
  if (cells_.size() < count) cells_.resize(count);
  for (std::size_t i = 0; i < count; ++i) cells_[i].copier = kNobody;
  copies_.resize(static_cast<std::size_t>(threads));
  for (Copies& copies : copies_) {
    copies.under_way.clear();
    copies.commits.clear();
  }
  size_ = bytes;
  first_epoch_ = ++block_epoch_;
  ++cluster_epoch_;
  ending_ = false;
  async_copies_ = settings.async_copies;
  report_uninitialized_ = settings.report_uninitialized;
}

std::size_t SharedMemory::offset_of(const void* address, std::size_t size, const char* what,
                                    Site site) const {
  const auto at = reinterpret_cast<std::uintptr_t>(address);
  const auto base = reinterpret_cast<std::uintptr_t>(address_);
  if (at < base || at - base > size_ || size_ - (at - base) < size) {
    fail(Violation::kOutOfBounds,
         "%s (%s:%d): expected %zu bytes within the block's %zu bytes of shared memory, got them "
         "at %lld",
         what, site.name(), site.line, size, size_,
         static_cast<long long>(static_cast<std::intptr_t>(at - base)));
  }
  if ((at - base) % size != 0) {
    fail(Violation::kMisaligned, "%s (%s:%d): expected an address aligned to %zu bytes, got %zu",
         what, site.name(), site.line, size, at - base);
  }
  return at - base;
}

void SharedMemory::check_not_in_flight(int thread, const Cell& cell, std::size_t offset,
                                       const char* what, Site site) const {
  if (cell.copier == kNobody) return;
  fail(Violation::kInFlight,
       "%s (%s:%d) by thread %d: expected no copy under way to shared memory at %zu, got that of "
       "thread %d. A copy_async_wait is missing",
       what, site.name(), site.line, thread, offset, cell.copier);
}

// `reader` and `number`: thread 7, or block 1.
void SharedMemory::check_written(const Cell& cell, std::size_t offset, const char* reader,
                                 int number, Site site) const {
  if (cell.write_epoch >= first_epoch_ || !report_uninitialized_) return;
  fail(Violation::kUninitialized,
       "read (%s:%d) by %s %d: expected shared memory at %zu to be written, got it as the block "
       "found it",
       site.name(), site.line, reader, number, offset);
}

// The last write to the cell comes before what `thread` does now.
void SharedMemory::check_after_write(int thread, const Cell& cell, std::size_t offset,
                                     const char* what, Site site) const {
  if (cell.write_epoch != block_epoch_ || cell.writer == thread) return;
  const auto warp = static_cast<std::size_t>(thread) / kWarp;
  if (cell.writer / kWarp == warp && cell.write_warp_epoch < warp_epochs_[warp]) return;
  fail(Violation::kRace,
       "%s (%s:%d) by thread %d: expected a barrier after thread %d's write (line %d) to shared "
       "memory at %zu, got none",
       what, site.name(), site.line, thread, cell.writer, cell.write_line, offset);
}

void SharedMemory::note_write(int thread, std::size_t offset, std::size_t size, Site site,
                              bool check) {
  constexpr const char* kWhat = "write";
  const auto warp = static_cast<std::uint16_t>(static_cast<std::size_t>(thread) / kWarp);
  const std::uint32_t warp_epoch = warp_epochs_[warp];
  const std::uint32_t lane = 1u << (static_cast<unsigned>(thread) % kWarp);
  Cell* cell = cells(offset);
  for (std::size_t at = offset; at < offset + size; at += kCellBytes, ++cell) {
    if (check) {
      check_not_in_flight(thread, *cell, at, kWhat, site);
      check_after_write(thread, *cell, at, kWhat, site);
      // Of many warps that read, one at least is not the writer's.
      if (cell->read_epoch == block_epoch_ &&
          (cell->read_warp != warp ||
           (cell->read_warp_epoch == warp_epoch && (cell->read_lanes & ~lane) != 0))) {
        fail(Violation::kRace,
             "write (%s:%d) by thread %d: expected a barrier after another thread's read (line "
             "%d) of shared memory at %zu, got none",
             site.name(), site.line, thread, cell->read_line, at);
      }
      if (cell->outside_read_epoch == cluster_epoch_) {
        fail(Violation::kRace,
             "write (%s:%d) by thread %d: expected a barrier of the cluster after another block's "
             "read (line %d) of shared memory at %zu, got none",
             site.name(), site.line, thread, cell->outside_read_line, at);
      }
    }
    cell->write_epoch = block_epoch_;
    cell->write_cluster_epoch = cluster_epoch_;
    cell->write_warp_epoch = warp_epoch;
    cell->writer = static_cast<std::uint16_t>(thread);
    cell->write_line = site.line;
  }
}

void SharedMemory::read(int thread, const void* address, void* value, std::size_t size, Site site) {
  constexpr const char* kWhat = "read";
  const std::size_t offset = offset_of(address, size, kWhat, site);
  const auto warp = static_cast<std::uint16_t>(static_cast<std::size_t>(thread) / kWarp);
  const std::uint32_t warp_epoch = warp_epochs_[warp];
  const std::uint32_t lane = 1u << (static_cast<unsigned>(thread) % kWarp);
  Cell* cell = cells(offset);
  for (std::size_t at = offset; at < offset + size; at += kCellBytes, ++cell) {
    check_not_in_flight(thread, *cell, at, kWhat, site);
    check_written(*cell, at, "thread", thread, site);
    check_after_write(thread, *cell, at, kWhat, site);
    if (cell->read_epoch != block_epoch_) {
      cell->read_epoch = block_epoch_;
      cell->read_warp = warp;
      cell->read_warp_epoch = warp_epoch;
      cell->read_lanes = lane;
    } else if (cell->read_warp != warp) {
      cell->read_warp = kManyWarps;
    } else if (cell->read_warp_epoch != warp_epoch) {
      cell->read_warp_epoch = warp_epoch;
      cell->read_lanes = lane;
    } else {
      cell->read_lanes |= lane;
    }
    cell->read_line = site.line;
  }
  std::memcpy(value, bytes_.data() + offset, size);
}

void SharedMemory::read_from_outside(int rank, const void* address, void* value, std::size_t size,
                                     Site site) {
  const std::size_t offset = offset_of(address, size, "cluster_load", site);
  if (ending_) {
    fail(Violation::kRace,
         "cluster_load (%s:%d) by block %d: expected a barrier of the cluster before the block "
         "that is read ends, got none",
         site.name(), site.line, rank);
  }
  Cell* cell = cells(offset);
  for (std::size_t at = offset; at < offset + size; at += kCellBytes, ++cell) {
    check_written(*cell, at, "block", rank, site);
    // An asynchronous copy that is under way is a write that no barrier of the cluster follows.
    if (cell->write_cluster_epoch == cluster_epoch_ || cell->copier != kNobody) {
      fail(Violation::kRace,
           "cluster_load (%s:%d) by block %d: expected a barrier of the cluster after the write "
           "(line %d) to shared memory at %zu, got none",
           site.name(), site.line, rank, cell->write_line, at);
    }
    cell->outside_read_epoch = cluster_epoch_;
    cell->outside_read_line = site.line;
  }
  outside_read_epoch_ = cluster_epoch_;
  outside_read_line_ = site.line;
  std::memcpy(value, bytes_.data() + offset, size);
}

void SharedMemory::write(int thread, void* address, const void* value, std::size_t size,
                         Site site) {
  const std::size_t offset = offset_of(address, size, "write", site);
  note_write(thread, offset, size, site, true);
  std::memcpy(bytes_.data() + offset, value, size);
}

void SharedMemory::copy_async(int thread, void* address, const void* global, Site site) {
  constexpr const char* kWhat = "copy_async_16";
  Copy copy;
  copy.offset = offset_of(address, kCopyBytes, kWhat, site);
  copy.line = site.line;
  if (reinterpret_cast<std::uintptr_t>(global) % kCopyBytes != 0) {
    fail(Violation::kMisaligned,
         "%s (%s:%d): expected an address in global memory aligned to 16 bytes, got %p", kWhat,
         site.name(), site.line, global);
  }
  // Here, where AddressSanitizer shows the kernel's line, and not when the copy is done: what is
  // copied does not change during a kernel.
  std::memcpy(copy.bytes, global, kCopyBytes);
  // The write may happen from now on.
  note_write(thread, copy.offset, kCopyBytes, site, true);
  Cell* cell = cells(copy.offset);
  for (std::size_t i = 0; i < kCopyBytes / kCellBytes; ++i) {
    cell[i].copier = static_cast<std::uint16_t>(thread);
  }
  if (async_copies_ == AsyncCopies::kAtOnce) {
    std::memcpy(bytes_.data() + copy.offset, copy.bytes, kCopyBytes);
  }
  copies_[static_cast<std::size_t>(thread)].under_way.push_back(copy);
}

void SharedMemory::commit(int thread) {
  Copies& copies = copies_[static_cast<std::size_t>(thread)];
  copies.commits.push_back(copies.under_way.size());
}

void SharedMemory::wait(int thread, int pending, Site site) {
  Copies& copies = copies_[static_cast<std::size_t>(thread)];
  const auto left = static_cast<std::size_t>(pending);
  if (copies.commits.size() <= left) return;
  const std::size_t groups = copies.commits.size() - left;
  const std::size_t done = copies.commits[groups - 1];
  for (std::size_t i = 0; i < done; ++i) {
    const Copy& copy = copies.under_way[i];
    std::memcpy(bytes_.data() + copy.offset, copy.bytes, kCopyBytes);
    Cell* cell = cells(copy.offset);
    for (std::size_t j = 0; j < kCopyBytes / kCellBytes; ++j) cell[j].copier = kNobody;
    // The write may have happened as late as now.
    note_write(thread, copy.offset, kCopyBytes, {site.file, copy.line}, false);
  }
  copies.under_way.erase(copies.under_way.begin(),
                         copies.under_way.begin() + static_cast<std::ptrdiff_t>(done));
  copies.commits.erase(copies.commits.begin(),
                       copies.commits.begin() + static_cast<std::ptrdiff_t>(groups));
  for (std::size_t& commit : copies.commits) commit -= done;
}

void SharedMemory::finish(int thread) {
  ending_ = true;
  if (outside_read_epoch_ == cluster_epoch_) {
    fail(Violation::kRace,
         "return of thread %d: expected a barrier of the cluster after another block's read (line "
         "%d) of shared memory, got none",
         thread, outside_read_line_);
  }
  const Copies& copies = copies_[static_cast<std::size_t>(thread)];
  if (copies.under_way.empty()) return;
  fail(Violation::kInFlight,
       "return of thread %d: expected its asynchronous copies to be waited for, got %zu under way "
       "(the first of line %d)",
       thread, copies.under_way.size(), copies.under_way.front().line);
}

}  // namespace host
}  // namespace cuda
}  // namespace dcn_deploy
