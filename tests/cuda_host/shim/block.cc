#include "block.h"

#include <algorithm>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>
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
constexpr std::uint32_t kAllLanes = 0xffffffffu;

const char* name_of(Operation operation) {
  switch (operation) {
    case Operation::kBlockBarrier:
      return "block_barrier";
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

class Host {
 public:
  Status run(Dim3 grid, Dim3 block, std::size_t shared_bytes, const std::function<void()>& kernel);
  void meet_block(Site site);
  void meet_warp(Operation operation, void* arguments, Site site);
  [[noreturn]] void fail(Violation violation, const char* message);

  SharedMemory& shared_memory() { return shared_memory_; }
  int running() const { return running_; }
  bool in_kernel() const { return running_ >= 0; }

  Settings settings;
  std::vector<Finding> findings;
  Counters counters;
  int fault = 0;
  std::int64_t times_at_fault = 0;

 private:
  static void thread_main(int thread);
  Status refuse(const char* message);
  bool run_block(const std::function<void()>& kernel);
  int next_thread();
  void yield();
  void wait_at(Operation operation, void* arguments, Site site);
  void release_warp(std::size_t warp);
  void perform(std::size_t warp, Operation operation);
  [[noreturn]] void fail_stuck();
  [[noreturn]] void leave(int next);

  Fibers fibers_;
  SharedMemory shared_memory_;
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  std::uint32_t ready_warps_ = 0;
  int running_ = Fibers::kThread;
  int done_ = 0;
  int at_block_barrier_ = 0;
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

Status Host::run(Dim3 grid, Dim3 block, std::size_t shared_bytes,
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
  threads_.assign(threads, Thread{});
  for (std::size_t i = 0; i < threads; ++i) {
    const auto linear = static_cast<unsigned>(i);
    threads_[i].index = {linear % block.x, linear / block.x % block.y, linear / block.x / block.y};
  }
  const std::uint64_t blocks = std::uint64_t{grid.x} * grid.y * grid.z;
  const std::uint64_t first =
      settings.last_blocks > 0 && settings.last_blocks < blocks ? blocks - settings.last_blocks : 0;
  std::vector<std::uint64_t> order;
  if (settings.shuffle_blocks) {
    order.resize(blocks - first);
    std::iota(order.begin(), order.end(), first);
    std::shuffle(order.begin(), order.end(), random_);
  }
  for (std::uint64_t i = first; i < blocks; ++i) {
    const std::uint64_t at = order.empty() ? i : order[i - first];
    builtins.block_index = {static_cast<unsigned>(at % grid.x),
                            static_cast<unsigned>(at / grid.x % grid.y),
                            static_cast<unsigned>(at / grid.x / grid.y)};
    if (!run_block(kernel)) {
      return make_status(StatusCode::kDevice, "%s", findings.back().message.c_str());
    }
  }
  return {};
}

bool Host::run_block(const std::function<void()>& kernel) {
  const auto count = static_cast<int>(threads_.size());
  if (!fibers_.prepare(count, &Host::thread_main)) {
    refuse("launch: no memory for the stacks of a block's threads");
    return false;
  }
  shared_memory_.start_block(shared_bytes_, count, settings);
  for (Thread& thread : threads_) thread.state = Thread::State::kReady;
  warps_.assign(threads_.size() / kWarp, Warp{kAllLanes, 0});
  ready_warps_ = warps_.size() == 32 ? kAllLanes : (1u << warps_.size()) - 1;
  done_ = 0;
  at_block_barrier_ = 0;
  failed_ = false;
  kernel_ = &kernel;
  ++counters.blocks;
  running_ = next_thread();
  builtins.thread_index = threads_[static_cast<std::size_t>(running_)].index;
  fibers_.switch_to(running_);
  // Back: all are done, or one has failed.
  running_ = Fibers::kThread;
  if (failed_) fibers_.forget_frames();
  return !failed_;
}

void Host::thread_main(int thread) {
  Host& host = the_host();
  (*host.kernel_)();
  host.shared_memory_.finish(thread);
  host.threads_[static_cast<std::size_t>(thread)].state = Thread::State::kDone;
  if (++host.done_ == static_cast<int>(host.threads_.size())) host.leave(Fibers::kThread);
  const int next = host.next_thread();
  if (next == Fibers::kThread) host.fail_stuck();
  host.leave(next);
}

void Host::leave(int next) {
  running_ = next;
  if (next != Fibers::kThread) {
    builtins.thread_index = threads_[static_cast<std::size_t>(next)].index;
  }
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
  const auto pick = [this](std::uint32_t set) {
    switch (settings.thread_order) {
      case ThreadOrder::kForward:
        return __builtin_ctz(set);
      case ThreadOrder::kReverse:
        return 31 - __builtin_clz(set);
      case ThreadOrder::kRandom:
        break;
    }
    auto skip = static_cast<int>(random_() % static_cast<unsigned>(__builtin_popcount(set)));
    for (; skip > 0; --skip) set &= set - 1;
    return __builtin_ctz(set);
  };
  const int warp = pick(ready_warps_);
  std::uint32_t& ready = warps_[static_cast<std::size_t>(warp)].ready;
  const int lane = pick(ready);
  ready &= ~(1u << lane);
  if (ready == 0) ready_warps_ &= ~(1u << warp);
  return warp * kWarp + lane;
}

void Host::yield() {
  const int next = next_thread();
  if (next == Fibers::kThread) fail_stuck();
  running_ = next;
  builtins.thread_index = threads_[static_cast<std::size_t>(next)].index;
  fibers_.switch_to(next);
}

void Host::release_warp(std::size_t warp) {
  for (int lane = 0; lane < kWarp; ++lane) {
    threads_[warp * kWarp + static_cast<std::size_t>(lane)].state = Thread::State::kReady;
  }
  warps_[warp] = {kAllLanes, 0};
  ready_warps_ |= 1u << warp;
}

void Host::wait_at(Operation operation, void* arguments, Site site) {
  Thread& thread = threads_[static_cast<std::size_t>(running_)];
  thread.state = Thread::State::kWaiting;
  thread.operation = operation;
  thread.arguments = arguments;
  thread.site = site;
}

void Host::meet_block(Site site) {
  wait_at(Operation::kBlockBarrier, nullptr, site);
  if (++at_block_barrier_ == static_cast<int>(threads_.size())) {
    at_block_barrier_ = 0;
    ++counters.block_barriers;
    for (const Thread& thread : threads_) {
      // The hardware may let them pass, CUDA does not allow it.
      if (!(thread.site == site)) fail_stuck();
    }
    shared_memory_.block_barrier();
    for (std::size_t warp = 0; warp < warps_.size(); ++warp) release_warp(warp);
  }
  yield();
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
  const auto first_thread = static_cast<int>(warp) * kWarp;
  switch (operation) {
    case Operation::kBlockBarrier:
      break;
    case Operation::kWarpBarrier:
      shared_memory_.warp_barrier(static_cast<int>(warp));
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
            shared_memory_.read(first_thread + lane,
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
  // waits for it.
  const auto waits = [](const Thread& thread) { return thread.state == Thread::State::kWaiting; };
  auto waiting = std::find_if(threads_.begin(), threads_.end(), [&](const Thread& thread) {
    return waits(thread) && thread.operation != Operation::kBlockBarrier;
  });
  if (waiting == threads_.end()) waiting = std::find_if(threads_.begin(), threads_.end(), waits);
  const bool whole_block = waiting->operation == Operation::kBlockBarrier;
  const auto first =
      whole_block ? threads_.begin() : waiting - (waiting - threads_.begin()) % kWarp;
  const auto last = whole_block ? threads_.end() : first + kWarp;
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
                static_cast<int>(last - first), whole_block ? "block" : "warp",
                static_cast<int>(there), missing->index.x, missing->index.y, missing->index.z,
                elsewhere);
  fail(Violation::kDivergence, message);
}

}  // namespace

Status run_grid(Dim3 grid, Dim3 block, std::size_t shared_bytes,
                const std::function<void()>& kernel) {
  return the_host().run(grid, block, shared_bytes, kernel);
}

void meet_block(Site site) { the_host().meet_block(site); }
void meet_warp(Operation operation, void* arguments, Site site) {
  the_host().meet_warp(operation, arguments, site);
}

SharedMemory& shared_memory() { return the_host().shared_memory(); }
int linear_thread() { return the_host().running(); }

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
