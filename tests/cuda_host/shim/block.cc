#include "block.h"

#include <algorithm>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "fibers.h"
#include "matrix_fragments.h"

namespace dcn_deploy {
namespace cuda {
namespace host {

Builtins builtins;

namespace {

constexpr int kWarp = 32;
constexpr int kMaxThreads = 1024;
constexpr int kMaxClusterBlocks = 8;
// Of a cluster, as far as the host plays them.
constexpr std::size_t kMaxWarps = 64;
constexpr std::uint32_t kAllLanes = 0xffffffffu;

const char* name_of(Operation operation) {
  switch (operation) {
    case Operation::kBlockBarrier:
      return "block_barrier";
    case Operation::kClusterBarrier:
      return "cluster_barrier";
    case Operation::kWarpBarrier:
      return "warp_barrier";
    case Operation::kShuffle:
      return "shuffle";
    case Operation::kShuffleXor:
      return "shuffle_xor";
    case Operation::kLoadMatrix:
      return "load_matrix_x4";
    case Operation::kMmaFloat16:
      return "mma_f16_16816";
    case Operation::kMmaBFloat16:
      return "mma_bf16_16816";
    case Operation::kMmaTf32:
      return "mma_tf32_1688";
    case Operation::kMmaInt8:
      return "mma_s8_16832";
  }
  return "unknown";
}

struct Thread {
  enum class State { kReady, kWaiting, kDone };

  State state = State::kReady;
  Index3 index;
  Operation operation = Operation::kBlockBarrier;
  Site site;
  void* arguments = nullptr;
};

struct Warp {
  std::uint32_t ready = 0;
  std::uint32_t waiting = 0;
};

struct Block {
  Index3 index;
  int at_barrier = 0;
  std::unique_ptr<SharedMemory> shared_memory = std::make_unique<SharedMemory>();
};

class Host {
 public:
  Status run(Dim3 grid, Dim3 block, int cluster_blocks, std::size_t shared_bytes,
             const std::function<void()>& kernel);
  void meet_block(Site site);
  void meet_cluster(Site site);
  void meet_warp(Operation operation, void* arguments, Site site);
  void read_cluster(const void* address, int rank, void* value, std::size_t size, Site site);
  [[noreturn]] void fail(Violation violation, const char* message);

  SharedMemory& shared_memory() { return *running_block().shared_memory; }
  int thread_of_block() const { return running_ % block_threads_; }
  int cluster_rank() const { return running_ / block_threads_; }
  bool in_kernel() const { return running_ >= 0; }

  Settings settings;
  std::vector<Finding> findings;
  Counters counters;
  int fault = 0;
  std::int64_t times_at_fault = 0;

 private:
  static void thread_main(int thread);
  Status refuse(const char* message);
  bool run_cluster(const std::function<void()>& kernel);
  Block& running_block() { return blocks_[static_cast<std::size_t>(cluster_rank())]; }
  void continue_as(int thread);
  int next_thread();
  void yield();
  void wait_at(Operation operation, void* arguments, Site site);
  void release_warp(std::size_t warp);
  void release_threads(std::size_t first, std::size_t count, Site site);
  void perform(std::size_t warp, Operation operation);
  [[noreturn]] void fail_stuck();
  [[noreturn]] void leave(int next);

  Fibers fibers_;
  // Of the cluster: its blocks, and their threads and warps, one block's after another's.
  std::vector<Block> blocks_;
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  std::uint64_t ready_warps_ = 0;
  int block_threads_ = 1;
  int running_ = Fibers::kThread;
  int done_ = 0;
  int at_cluster_barrier_ = 0;
  bool failed_ = false;
  std::size_t shared_bytes_ = 0;
  const std::function<void()>* kernel_ = nullptr;
  std::mt19937_64 random_;
};

Host& the_host() {
  static Host host;
  return host;
}

Status Host::refuse(const char* message) {
  findings.push_back({Violation::kLaunch, message});
  return make_status(StatusCode::kDevice, "%s", message);
}

Status Host::run(Dim3 grid, Dim3 block, int cluster_blocks, std::size_t shared_bytes,
                 const std::function<void()>& kernel) {
  char message[256];
  if (in_kernel()) return refuse("launch: expected a call from outside a kernel");
  const std::uint64_t threads = std::uint64_t{block.x} * block.y * block.z;
  if (threads < 1 || threads > kMaxThreads || threads % kWarp != 0) {
    std::snprintf(message, sizeof(message),
                  "launch: expected whole warps and at most %d threads in a block, got %u x %u x "
                  "%u",
                  kMaxThreads, block.x, block.y, block.z);
    return refuse(message);
  }
  if (grid.x < 1 || grid.y < 1 || grid.z < 1 || grid.x > 0x7fffffffu || grid.y > 65535u ||
      grid.z > 65535u) {
    std::snprintf(message, sizeof(message),
                  "launch: expected a grid of 1 to 2147483647 x 65535 x 65535 blocks, got %u x %u "
                  "x %u",
                  grid.x, grid.y, grid.z);
    return refuse(message);
  }
  if (cluster_blocks < 1 || cluster_blocks > kMaxClusterBlocks ||
      grid.x % static_cast<unsigned>(cluster_blocks) != 0) {
    std::snprintf(message, sizeof(message),
                  "launch: expected a cluster of 1 to %d blocks and a grid of whole clusters, got "
                  "%d, of %u",
                  kMaxClusterBlocks, cluster_blocks, grid.x);
    return refuse(message);
  }
  const std::size_t cluster_threads = threads * static_cast<std::size_t>(cluster_blocks);
  if (cluster_threads > kMaxWarps * kWarp) {
    std::snprintf(message, sizeof(message),
                  "launch: expected at most %zu warps of a cluster, as many as the host plays, got "
                  "%zu",
                  kMaxWarps, cluster_threads / kWarp);
    return refuse(message);
  }
  if (shared_bytes > settings.max_shared_bytes) {
    std::snprintf(message, sizeof(message),
                  "launch: expected at most %zu bytes of shared memory, got %zu",
                  settings.max_shared_bytes, shared_bytes);
    return refuse(message);
  }

  builtins.block_size = block;
  builtins.grid_size = grid;
  shared_bytes_ = shared_bytes;
  random_.seed(settings.seed);
  block_threads_ = static_cast<int>(threads);
  blocks_.resize(static_cast<std::size_t>(cluster_blocks));
  threads_.assign(cluster_threads, Thread{});
  for (std::size_t i = 0; i < cluster_threads; ++i) {
    const auto linear = static_cast<unsigned>(i % threads);
    threads_[i].index = {linear % block.x, linear / block.x % block.y, linear / block.x / block.y};
  }
  const std::uint64_t in_row = grid.x / static_cast<unsigned>(cluster_blocks);
  const std::uint64_t clusters = in_row * grid.y * grid.z;
  const std::uint64_t wanted =
      (settings.last_blocks + blocks_.size() - 1) / blocks_.size();  // clusters
  const std::uint64_t first = wanted > 0 && wanted < clusters ? clusters - wanted : 0;
  std::vector<std::uint64_t> order;
  if (settings.shuffle_blocks) {
    order.resize(clusters - first);
    std::iota(order.begin(), order.end(), first);
    std::shuffle(order.begin(), order.end(), random_);
  }
  for (std::uint64_t i = first; i < clusters; ++i) {
    const std::uint64_t at = order.empty() ? i : order[i - first];
    for (std::size_t rank = 0; rank < blocks_.size(); ++rank) {
      blocks_[rank].index = {static_cast<unsigned>(at % in_row * blocks_.size() + rank),
                             static_cast<unsigned>(at / in_row % grid.y),
                             static_cast<unsigned>(at / in_row / grid.y)};
    }
    if (!run_cluster(kernel)) {
      return make_status(StatusCode::kDevice, "%s", findings.back().message.c_str());
    }
  }
  return {};
}

bool Host::run_cluster(const std::function<void()>& kernel) {
  const auto count = static_cast<int>(threads_.size());
  if (!fibers_.prepare(count, &Host::thread_main)) {
    refuse("launch: no memory for the stacks of a block's threads");
    return false;
  }
  for (Block& block : blocks_) {
    block.at_barrier = 0;
    block.shared_memory->start_block(shared_bytes_, block_threads_, settings);
  }
  for (Thread& thread : threads_) thread.state = Thread::State::kReady;
  warps_.assign(threads_.size() / kWarp, Warp{kAllLanes, 0});
  ready_warps_ = ~std::uint64_t{0} >> (kMaxWarps - warps_.size());
  done_ = 0;
  at_cluster_barrier_ = 0;
  failed_ = false;
  kernel_ = &kernel;
  counters.blocks += static_cast<std::int64_t>(blocks_.size());
  continue_as(next_thread());
  fibers_.switch_to(running_);
  // Back: all are done, or one has failed.
  running_ = Fibers::kThread;
  if (failed_) fibers_.forget_frames();
  return !failed_;
}

void Host::continue_as(int thread) {
  running_ = thread;
  if (thread == Fibers::kThread) return;
  builtins.thread_index = threads_[static_cast<std::size_t>(thread)].index;
  builtins.block_index = running_block().index;
}

void Host::thread_main(int thread) {
  Host& host = the_host();
  (*host.kernel_)();
  host.shared_memory().finish(host.thread_of_block());
  host.threads_[static_cast<std::size_t>(thread)].state = Thread::State::kDone;
  if (++host.done_ == static_cast<int>(host.threads_.size())) host.leave(Fibers::kThread);
  const int next = host.next_thread();
  if (next == Fibers::kThread) host.fail_stuck();
  host.leave(next);
}

void Host::leave(int next) {
  continue_as(next);
  fibers_.switch_for_good(next);
}

void Host::fail(Violation violation, const char* message) {
  char text[1024];
  const Index3& at = builtins.block_index;
  std::snprintf(text, sizeof(text), "block (%u, %u, %u): %s", at.x, at.y, at.z, message);
  findings.push_back({violation, text});
  failed_ = true;
  leave(Fibers::kThread);
}

// The thread that goes on, no longer among those that could; kThread if there is none.
int Host::next_thread() {
  if (ready_warps_ == 0) return Fibers::kThread;
  const auto pick = [this](std::uint64_t set) {
    switch (settings.thread_order) {
      case ThreadOrder::kForward:
        return __builtin_ctzll(set);
      case ThreadOrder::kReverse:
        return 63 - __builtin_clzll(set);
      case ThreadOrder::kRandom:
        break;
    }
    auto skip = static_cast<int>(random_() % static_cast<unsigned>(__builtin_popcountll(set)));
    for (; skip > 0; --skip) set &= set - 1;
    return __builtin_ctzll(set);
  };
  const int warp = pick(ready_warps_);
  std::uint32_t& ready = warps_[static_cast<std::size_t>(warp)].ready;
  const int lane = pick(ready);
  ready &= ~(1u << lane);
  if (ready == 0) ready_warps_ &= ~(std::uint64_t{1} << warp);
  return warp * kWarp + lane;
}

void Host::yield() {
  const int next = next_thread();
  if (next == Fibers::kThread) fail_stuck();
  continue_as(next);
  fibers_.switch_to(next);
}

void Host::release_warp(std::size_t warp) {
  for (int lane = 0; lane < kWarp; ++lane) {
    threads_[warp * kWarp + static_cast<std::size_t>(lane)].state = Thread::State::kReady;
  }
  warps_[warp] = {kAllLanes, 0};
  ready_warps_ |= std::uint64_t{1} << warp;
}

void Host::wait_at(Operation operation, void* arguments, Site site) {
  Thread& thread = threads_[static_cast<std::size_t>(running_)];
  thread.state = Thread::State::kWaiting;
  thread.operation = operation;
  thread.arguments = arguments;
  thread.site = site;
}

// All of `count` threads have come to a barrier, of which `site` is one place.
void Host::release_threads(std::size_t first, std::size_t count, Site site) {
  for (std::size_t i = first; i < first + count; ++i) {
    // The hardware may let them pass, CUDA does not allow it.
    if (!(threads_[i].site == site)) fail_stuck();
  }
  for (std::size_t warp = first / kWarp; warp < (first + count) / kWarp; ++warp) release_warp(warp);
}

void Host::meet_block(Site site) {
  wait_at(Operation::kBlockBarrier, nullptr, site);
  Block& block = running_block();
  if (++block.at_barrier == block_threads_) {
    block.at_barrier = 0;
    ++counters.block_barriers;
    const auto count = static_cast<std::size_t>(block_threads_);
    release_threads(static_cast<std::size_t>(cluster_rank()) * count, count, site);
    block.shared_memory->block_barrier();
  }
  yield();
}

void Host::meet_cluster(Site site) {
  wait_at(Operation::kClusterBarrier, nullptr, site);
  if (++at_cluster_barrier_ == static_cast<int>(threads_.size())) {
    at_cluster_barrier_ = 0;
    ++counters.cluster_barriers;
    release_threads(0, threads_.size(), site);
    for (const Block& block : blocks_) block.shared_memory->cluster_barrier();
  }
  yield();
}

void Host::read_cluster(const void* address, int rank, void* value, std::size_t size, Site site) {
  if (rank < 0 || static_cast<std::size_t>(rank) >= blocks_.size()) {
    host::fail(Violation::kOutOfBounds,
               "cluster_load (%s:%d): expected a block of 0 to %zu, got %d", site.name(), site.line,
               blocks_.size() - 1, rank);
  }
  ++counters.cluster_loads;
  const std::ptrdiff_t offset =
      static_cast<const unsigned char*>(address) - shared_memory().address();
  SharedMemory& memory = *blocks_[static_cast<std::size_t>(rank)].shared_memory;
  const unsigned char* there = memory.address() + offset;
  if (rank == cluster_rank()) {
    memory.read(thread_of_block(), there, value, size, site);
  } else {
    memory.read_from_outside(cluster_rank(), there, value, size, site);
  }
}

void Host::meet_warp(Operation operation, void* arguments, Site site) {
  const auto index = static_cast<std::size_t>(running_) / kWarp;
  Warp& warp = warps_[index];
  wait_at(operation, arguments, site);
  if (warp.waiting != 0) {
    const Thread& first =
        threads_[index * kWarp + static_cast<std::size_t>(__builtin_ctz(warp.waiting))];
    if (first.operation != operation || !(first.site == site)) fail_stuck();
  }
  warp.waiting |= 1u << (running_ % kWarp);
  if (warp.waiting == kAllLanes) {
    perform(index, operation);
    release_warp(index);
  }
  yield();
}

void Host::perform(std::size_t warp, Operation operation) {
  const Thread* lanes = &threads_[warp * kWarp];
  const auto first_thread = static_cast<int>(warp) * kWarp % block_threads_;
  switch (operation) {
    case Operation::kBlockBarrier:
    case Operation::kClusterBarrier:
      break;
    case Operation::kWarpBarrier:
      shared_memory().warp_barrier(first_thread / kWarp);
      break;
    case Operation::kShuffle:
    case Operation::kShuffleXor:
      for (int lane = 0; lane < kWarp; ++lane) {
        const auto& to = *static_cast<const ShuffleArguments*>(lanes[lane].arguments);
        const int source = operation == Operation::kShuffle ? to.lane : lane ^ to.lane;
        if (source < 0 || source >= kWarp) {
          char message[128];
          std::snprintf(message, sizeof(message), "%s (%s:%d): expected a lane of 0 to 31, got %d",
                        name_of(operation), lanes[lane].site.name(), lanes[lane].site.line, source);
          fail(Violation::kOutOfBounds, message);
        }
        const auto& from = *static_cast<const ShuffleArguments*>(lanes[source].arguments);
        std::memcpy(to.result, from.value, sizeof(std::uint32_t));
      }
      break;
    case Operation::kLoadMatrix:
      for (int matrix = 0; matrix < 4; ++matrix) {
        for (int row = 0; row < 8; ++row) {
          const Thread& giver = lanes[matrix * 8 + row];
          const auto& given = *static_cast<const LoadMatrixArguments*>(giver.arguments);
          if (reinterpret_cast<std::uintptr_t>(given.row) % 16 != 0) {
            char message[128];
            std::snprintf(message, sizeof(message),
                          "load_matrix_x4 (%s:%d): expected rows aligned to 16 bytes, got %p",
                          giver.site.name(), giver.site.line, given.row);
            fail(Violation::kMisaligned, message);
          }
          for (int word = 0; word < 4; ++word) {
            const int lane = row * 4 + word;
            const auto& to = *static_cast<const LoadMatrixArguments*>(lanes[lane].arguments);
            // To the record it is the lane that receives the word which reads it.
            shared_memory().read(first_thread + lane,
                                 static_cast<const unsigned char*>(given.row) + 4 * word,
                                 &to.registers[matrix], sizeof(std::uint32_t), giver.site);
          }
        }
      }
      break;
    case Operation::kMmaFloat16:
    case Operation::kMmaBFloat16:
    case Operation::kMmaTf32:
    case Operation::kMmaInt8: {
      MatrixOperands operands[kWarp];
      for (int lane = 0; lane < kWarp; ++lane) {
        operands[lane] = *static_cast<const MatrixOperands*>(lanes[lane].arguments);
      }
      ++counters.matrix_products;
      multiply_fragments(operation == Operation::kMmaFloat16    ? MatrixFormat::kFloat16
                         : operation == Operation::kMmaBFloat16 ? MatrixFormat::kBFloat16
                         : operation == Operation::kMmaInt8     ? MatrixFormat::kInt8
                                                                : MatrixFormat::kTf32,
                         operands);
      break;
    }
  }
}

// Says who waits where, and names one thread that should be there and is not.
void Host::fail_stuck() {
  // Somebody waits: otherwise all would be done. A warp that is apart says more than the block that
  // waits for it, and a block more than its cluster.
  const auto extent = [](const Thread& thread) {
    if (thread.state != Thread::State::kWaiting) return 3;
    return thread.operation == Operation::kClusterBarrier ? 2
           : thread.operation == Operation::kBlockBarrier ? 1
                                                          : 0;
  };
  const auto waiting =
      std::min_element(threads_.begin(), threads_.end(),
                       [&](const Thread& a, const Thread& b) { return extent(a) < extent(b); });
  constexpr const char* kNames[] = {"warp", "block", "cluster"};
  const std::ptrdiff_t sizes[] = {kWarp, block_threads_,
                                  static_cast<std::ptrdiff_t>(threads_.size())};
  const std::ptrdiff_t size = sizes[extent(*waiting)];
  const auto first = waiting - (waiting - threads_.begin()) % size;
  const auto last = first + size;
  const auto is_there = [&](const Thread& thread) {
    return thread.state == Thread::State::kWaiting && thread.operation == waiting->operation &&
           thread.site == waiting->site;
  };
  const auto there = std::count_if(first, last, is_there);
  auto missing = std::find_if(first, last, [&](const Thread& thread) {
    return !is_there(thread) && thread.state != Thread::State::kReady;
  });
  if (missing == last) missing = std::find_if_not(first, last, is_there);
  char elsewhere[160] = "runs";
  if (missing->state == Thread::State::kDone) {
    std::snprintf(elsewhere, sizeof(elsewhere), "has returned");
  } else if (missing->state == Thread::State::kWaiting) {
    std::snprintf(elsewhere, sizeof(elsewhere), "waits at %s (%s:%d)", name_of(missing->operation),
                  missing->site.name(), missing->site.line);
  }
  char message[512];
  std::snprintf(message, sizeof(message),
                "%s (%s:%d): expected all %d threads of the %s, got %d; thread (%u, %u, %u) %s",
                name_of(waiting->operation), waiting->site.name(), waiting->site.line,
                static_cast<int>(size), kNames[extent(*waiting)], static_cast<int>(there),
                missing->index.x, missing->index.y, missing->index.z, elsewhere);
  fail(Violation::kDivergence, message);
}

}  // namespace

Status run_grid(Dim3 grid, Dim3 block, int cluster_blocks, std::size_t shared_bytes,
                const std::function<void()>& kernel) {
  return the_host().run(grid, block, cluster_blocks, shared_bytes, kernel);
}

void meet_block(Site site) { the_host().meet_block(site); }
void meet_cluster(Site site) { the_host().meet_cluster(site); }
void meet_warp(Operation operation, void* arguments, Site site) {
  the_host().meet_warp(operation, arguments, site);
}

SharedMemory& shared_memory() { return the_host().shared_memory(); }
int linear_thread() { return the_host().thread_of_block(); }
void read_cluster(const void* address, int rank, void* value, std::size_t size, Site site) {
  the_host().read_cluster(address, rank, value, size, site);
}

void fail(Violation violation, const char* format, ...) {
  char message[512];
  std::va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(message, sizeof(message), format, arguments);
  va_end(arguments);
  the_host().fail(violation, message);
}

void configure(const Settings& settings) { the_host().settings = settings; }
const Settings& settings() { return the_host().settings; }

std::vector<Finding> take_findings() {
  std::vector<Finding> taken;
  taken.swap(the_host().findings);
  return taken;
}

void plant_fault(int number) {
  the_host().fault = number;
  the_host().times_at_fault = 0;
}
std::int64_t times_at_fault() { return the_host().times_at_fault; }

bool fault_is_planted(int number) {
  Host& host = the_host();
  if (host.fault == 0 || host.fault != number) return false;
  ++host.times_at_fault;
  return true;
}

const Counters& counters() { return the_host().counters; }

}  // namespace host
}  // namespace cuda
}  // namespace dcn_deploy
