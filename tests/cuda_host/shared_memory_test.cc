// What the device that the host plays sees of shared memory: races, reads before writes, accesses
// under an asynchronous copy or out of bounds.

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "core/cuda/device.cuh"
#include "host_device_test.h"
#include "random_tensors.h"

namespace dcn_deploy {
namespace cuda {
namespace {

class HostSharedMemory : public HostDeviceTest {};

__global__ void store_and_load(std::uint32_t* out) {
  DCN_DEPLOY_DYNAMIC_SHARED(shared);
  const unsigned i = threadIdx.x;
  auto* floats = reinterpret_cast<float*>(shared);
  auto* integers = reinterpret_cast<std::int32_t*>(shared + 256);
  auto* wide = reinterpret_cast<Vec16*>(shared + 512);
  auto* pairs = reinterpret_cast<Vec8*>(shared + 512 + 1024);
  shared_store(floats + i, static_cast<float>(i));
  shared_store(integers + i, -static_cast<std::int32_t>(i));
  shared_store(wide + i, Vec16{i, i + 1, i + 2, i + 3});
  shared_store(pairs + i, Vec8{i, 7 * i});
  block_barrier();
  const unsigned other = 63 - i;
  const Vec16 all = shared_load(wide + other);
  const Vec8 pair = shared_load(pairs + other);
  const std::uint32_t values[] = {static_cast<std::uint32_t>(shared_load(floats + other)),
                                  static_cast<std::uint32_t>(-shared_load(integers + other)),
                                  all.x,
                                  all.y,
                                  all.z,
                                  all.w,
                                  pair.x,
                                  pair.y};
  std::memcpy(out + 8 * i, values, sizeof(values));
}

TEST_F(HostSharedMemory, HoldsWhatIsStored) {
  for (const host::Settings& settings : all_orders()) {
    host::configure(settings);
    std::vector<std::uint32_t> out(8 * 64);
    ASSERT_TRUE(
        launch(&store_and_load, dim3(1), dim3(64), std::size_t{2048}, nullptr, out.data()).ok());
    for (std::uint32_t i = 0; i < 64; ++i) {
      const std::uint32_t other = 63 - i;
      const std::vector<std::uint32_t> expected = {other,     other,     other, other + 1,
                                                   other + 2, other + 3, other, 7 * other};
      EXPECT_EQ(std::vector<std::uint32_t>(out.begin() + 8 * i, out.begin() + 8 * i + 8), expected);
    }
  }
}

enum class Pattern {
  kNeighbour,        // each reads what the next thread wrote
  kNeighbourOfWarp,  // the same within the warp, over a barrier of the warp
  kOverwrite,        // each writes what the next thread has read
  kOverwriteOfWarp,  // the same within the warp
  kBothWrite,        // two threads write one word
  kAcrossWarps,      // a barrier of the warp, but the reader is in another
};

__global__ void race(Pattern pattern, bool barrier) {
  DCN_DEPLOY_DYNAMIC_SHARED(shared);
  auto* words = reinterpret_cast<int*>(shared);
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % kWarpSize;
  const int next = (thread + 1) % static_cast<int>(blockDim.x);
  const int next_in_warp = thread - lane + (lane + 1) % kWarpSize;
  shared_store(words + thread, thread);
  switch (pattern) {
    case Pattern::kNeighbour:
      if (barrier) block_barrier();
      shared_load(words + next);
      break;
    case Pattern::kNeighbourOfWarp:
      if (barrier) warp_barrier();
      shared_load(words + next_in_warp);
      break;
    case Pattern::kOverwrite:
      block_barrier();
      shared_load(words + next);
      if (barrier) block_barrier();
      shared_store(words + thread, 2);
      break;
    case Pattern::kOverwriteOfWarp:
      warp_barrier();
      shared_load(words + next_in_warp);
      if (barrier) warp_barrier();
      shared_store(words + thread, 2);
      break;
    case Pattern::kBothWrite:
      if (barrier) block_barrier();
      if (thread == 0) shared_store(words + 1, 5);
      break;
    case Pattern::kAcrossWarps:
      if (barrier) block_barrier();
      warp_barrier();
      shared_load(words + (thread + kWarpSize) % static_cast<int>(blockDim.x));
      break;
  }
}

// In any order of threads, also in one in which nothing goes wrong.
TEST_F(HostSharedMemory, RacesAreFoundInAnyOrder) {
  for (const host::Settings& settings : all_orders()) {
    host::configure(settings);
    for (const Pattern pattern :
         {Pattern::kNeighbour, Pattern::kNeighbourOfWarp, Pattern::kOverwrite,
          Pattern::kOverwriteOfWarp, Pattern::kBothWrite, Pattern::kAcrossWarps}) {
      SCOPED_TRACE(static_cast<int>(pattern));
      const auto run = [&](bool barrier) {
        return launch(&race, dim3(2), dim3(64), std::size_t{256}, nullptr, pattern, barrier);
      };
      EXPECT_TRUE(run(true).ok());
      EXPECT_FALSE(run(false).ok());
      const std::vector<host::Finding> findings = host::take_findings();
      ASSERT_EQ(findings.size(), 1u);
      // A reader that comes first sees what nobody has written yet.
      EXPECT_TRUE(findings[0].violation == host::Violation::kRace ||
                  findings[0].violation == host::Violation::kUninitialized)
          << findings[0].message;
      if (pattern == Pattern::kOverwrite || pattern == Pattern::kBothWrite) {
        EXPECT_EQ(findings[0].violation, host::Violation::kRace);
      }
    }
  }
}

// Random programs: a race is found if and only if two of their accesses are in conflict.
struct Step {
  enum Kind { kAccess, kBlockBarrier, kWarpBarrier } kind;
  int warp;                // of a barrier of a warp
  std::vector<int> words;  // of each thread, or -1
  std::vector<bool> writes;
};

__global__ void run_program(const std::vector<Step>* program, int words) {
  DCN_DEPLOY_DYNAMIC_SHARED(shared);
  auto* memory = reinterpret_cast<int*>(shared);
  const int thread = static_cast<int>(threadIdx.x);
  // Written by one, so that no read is the first access.
  for (int i = 0; thread == 0 && i < words; ++i) shared_store(memory + i, 0);
  block_barrier();
  for (const Step& step : *program) {
    if (step.kind == Step::kBlockBarrier) block_barrier();
    if (step.kind == Step::kWarpBarrier && step.warp == thread / kWarpSize) warp_barrier();
    if (step.kind != Step::kAccess) continue;
    const int word = step.words[threadIdx.x];
    if (word < 0) continue;
    if (step.writes[threadIdx.x]) {
      shared_store(memory + word, thread);
    } else {
      shared_load(memory + word);
    }
  }
}

bool has_conflict(const std::vector<Step>& program, std::size_t threads) {
  for (std::size_t first = 0; first < program.size(); ++first) {
    std::vector<bool> warp_ordered(threads / kWarpSize, false);
    for (std::size_t second = first; second < program.size(); ++second) {
      if (program[second].kind == Step::kBlockBarrier) break;
      if (program[second].kind == Step::kWarpBarrier) {
        warp_ordered[static_cast<std::size_t>(program[second].warp)] = true;
        continue;
      }
      if (program[first].kind != Step::kAccess) break;
      for (std::size_t a = 0; a < threads; ++a) {
        if (program[first].words[a] < 0) continue;
        for (std::size_t b = 0; b < threads; ++b) {
          if (a == b || program[first].words[a] != program[second].words[b]) continue;
          if (!program[first].writes[a] && !program[second].writes[b]) continue;
          if (a / kWarpSize == b / kWarpSize && warp_ordered[a / kWarpSize]) continue;
          return true;
        }
      }
    }
  }
  return false;
}

TEST_F(HostSharedMemory, RandomProgramsRaceExactlyIfTwoAccessesConflict) {
  constexpr int kThreads = 96;
  constexpr int kWords = 24;
  int racy = 0, clean = 0;
  for (std::uint64_t round = 0; round < 300; ++round) {
    std::mt19937_64 random(testing::seed() + round);
    const auto pick = [&](int count) {
      return static_cast<int>(random() % static_cast<unsigned>(count));
    };
    std::vector<Step> program(static_cast<std::size_t>(4 + pick(12)));
    for (Step& step : program) {
      const int kind = pick(10);
      step.kind = kind < 6 ? Step::kAccess : kind < 7 ? Step::kBlockBarrier : Step::kWarpBarrier;
      step.warp = pick(kThreads / kWarpSize);
      step.words.assign(kThreads, -1);
      step.writes.assign(kThreads, false);
      // Few accesses, so that about half of the programs are clean.
      for (int i = pick(5); i > 0; --i) {
        const auto thread = static_cast<std::size_t>(pick(kThreads));
        step.words[thread] = pick(kWords);
        step.writes[thread] = pick(3) == 0;
      }
    }
    const bool conflict = has_conflict(program, kThreads);
    (conflict ? racy : clean) += 1;
    for (const host::Settings& settings : all_orders()) {
      if (settings.async_copies == host::AsyncCopies::kAtOnce) continue;
      host::configure(settings);
      const Status status = launch(&run_program, dim3(1), dim3(kThreads), std::size_t{4 * kWords},
                                   nullptr, &program, kWords);
      const std::vector<host::Finding> findings = host::take_findings();
      ASSERT_EQ(!status.ok(), conflict) << "DCN_DEPLOY_TEST_SEED=" << testing::seed() + round
                                        << " (first round): " << status.message;
      if (conflict) {
        ASSERT_EQ(findings.at(0).violation, host::Violation::kRace) << status.message;
      }
    }
  }
  // The test means something.
  EXPECT_GT(racy, 60);
  EXPECT_GT(clean, 60);
}

__global__ void read_first(float* out, int word, bool store) {
  DCN_DEPLOY_DYNAMIC_SHARED(shared);
  auto* words = reinterpret_cast<float*>(shared);
  if (store) shared_store(words + threadIdx.x, 1.0f);
  out[blockIdx.x] = shared_load(words + word + threadIdx.x);
}

TEST_F(HostSharedMemory, ReadsBeforeAWriteAreFound) {
  std::vector<float> out(2);
  const auto run = [&](int word, bool store) {
    return launch(&read_first, dim3(2), dim3(32), std::size_t{512}, nullptr, out.data(), word,
                  store);
  };
  EXPECT_TRUE(run(0, true).ok());
  // What the launch before has left there does not count.
  EXPECT_FALSE(run(0, false).ok());
  EXPECT_TRUE(found(host::Violation::kUninitialized, "thread 0: expected shared memory at 0"));
  EXPECT_FALSE(run(32, true).ok());
  EXPECT_TRUE(found(host::Violation::kUninitialized, "expected shared memory at 128"));
  // Nor what another block has.
  host::Settings settings;
  settings.report_uninitialized = false;
  host::configure(settings);
  EXPECT_TRUE(run(0, false).ok());
  EXPECT_TRUE(std::isnan(out[0]) && std::isnan(out[1]));
}

__global__ void touch(int offset, int bytes, bool write) {
  DCN_DEPLOY_DYNAMIC_SHARED(shared);
  if (threadIdx.x != 3) return;
  unsigned char* at = shared + offset;
  if (bytes == 16 && write) shared_store(reinterpret_cast<Vec16*>(at), Vec16{});
  if (bytes == 16 && !write) shared_load(reinterpret_cast<const Vec16*>(at));
  if (bytes == 4 && write) shared_store(reinterpret_cast<float*>(at), 0.0f);
  if (bytes == 4 && !write) shared_load(reinterpret_cast<const float*>(at));
}

TEST_F(HostSharedMemory, BoundsAndAlignmentAreThoseOfTheLaunch) {
  const auto run = [](int offset, int bytes, bool write) {
    return launch(&touch, dim3(1), dim3(32), std::size_t{100}, nullptr, offset, bytes, write).ok();
  };
  EXPECT_TRUE(run(96, 4, true));
  EXPECT_TRUE(run(80, 16, true));
  for (const bool write : {true, false}) {
    EXPECT_FALSE(run(100, 4, write));
    EXPECT_TRUE(found(host::Violation::kOutOfBounds, "within the block's 100 bytes"));
    EXPECT_FALSE(run(96, 16, write));
    EXPECT_TRUE(found(host::Violation::kOutOfBounds, "got them at 96"));
    EXPECT_FALSE(run(-16, 16, write));
    EXPECT_TRUE(found(host::Violation::kOutOfBounds, "got them at -16"));
    EXPECT_FALSE(run(8, 16, write));
    EXPECT_TRUE(found(host::Violation::kMisaligned, "aligned to 16 bytes, got 8"));
    EXPECT_FALSE(run(2, 4, write));
    EXPECT_TRUE(found(host::Violation::kMisaligned, "aligned to 4 bytes, got 2"));
  }
}

__global__ void touch_raw(float* out) {
  DCN_DEPLOY_DYNAMIC_SHARED(shared);
  *out = *reinterpret_cast<const volatile float*>(shared);
}

TEST_F(HostSharedMemory, AnAccessPastTheRecordEndsTheProcess) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  float out = 0;
  EXPECT_DEATH(launch(&touch_raw, dim3(1), dim3(32), std::size_t{64}, nullptr, &out), "");
}

enum class Mistake {
  kNone,
  kNoWait,           // a barrier is no wait
  kWaitTooFew,       // leaves the group under way
  kNoCommit,         // so that the wait does not cover it
  kNoBarrier,        // others read after the copier's wait alone
  kOwnReadTooEarly,  // not even the copier may look
  kTwice,            // two copies to one place
  kOverRead,         // copies where a thread has read in this round
  kLeftBehind,       // the thread ends with a copy under way
  kUnaligned,        // global address
};

// Each thread copies 16 bytes, reversed among the threads of the block; out[i] is what the next
// thread's copy brought.
__global__ void copy(Mistake mistake, const Vec16* global, Vec16* out) {
  DCN_DEPLOY_DYNAMIC_SHARED(shared);
  auto* mine = reinterpret_cast<Vec16*>(shared) + threadIdx.x;
  const unsigned next = (threadIdx.x + 1) % blockDim.x;
  const auto* source = reinterpret_cast<const unsigned char*>(global + threadIdx.x);
  if (mistake == Mistake::kOverRead) {
    shared_store(mine, Vec16{});
    block_barrier();
    shared_load(reinterpret_cast<const Vec16*>(shared) + next);
  }
  copy_async_16(mine, source + (mistake == Mistake::kUnaligned ? 4 : 0));
  if (mistake == Mistake::kTwice) copy_async_16(mine, source);
  if (mistake != Mistake::kNoCommit) copy_async_commit();
  if (mistake == Mistake::kOwnReadTooEarly) shared_load(mine);
  if (mistake == Mistake::kWaitTooFew) {
    copy_async_wait<1>();
  } else if (mistake != Mistake::kNoWait && mistake != Mistake::kLeftBehind) {
    copy_async_wait<0>();
  }
  if (mistake == Mistake::kLeftBehind) return;
  if (mistake != Mistake::kNoBarrier) block_barrier();
  out[threadIdx.x] = shared_load(reinterpret_cast<const Vec16*>(shared) + next);
}

TEST_F(HostSharedMemory, AsyncCopiesArriveByTheirWait) {
  std::vector<Vec16> global(65);
  for (std::uint32_t i = 0; i < 65; ++i) global[i] = {i, 2 * i, 3 * i, ~i};
  std::vector<Vec16> out(64);
  const auto run = [&](Mistake mistake) {
    return launch(&copy, dim3(1), dim3(64), std::size_t{1024}, nullptr, mistake, global.data(),
                  out.data());
  };
  for (const host::Settings& settings : all_orders()) {
    host::configure(settings);
    ASSERT_TRUE(run(Mistake::kNone).ok());
    for (std::uint32_t i = 0; i < 64; ++i) {
      ASSERT_EQ(std::memcmp(&out[i], &global[(i + 1) % 64], sizeof(Vec16)), 0);
    }
    for (const Mistake mistake :
         {Mistake::kNoWait, Mistake::kWaitTooFew, Mistake::kNoCommit, Mistake::kOwnReadTooEarly}) {
      SCOPED_TRACE(static_cast<int>(mistake));
      EXPECT_FALSE(run(mistake).ok());
      EXPECT_TRUE(found(host::Violation::kInFlight, "A copy_async_wait is missing"));
    }
    EXPECT_FALSE(run(Mistake::kTwice).ok());
    EXPECT_TRUE(found(host::Violation::kInFlight, "write ("));
    EXPECT_FALSE(run(Mistake::kLeftBehind).ok());
    EXPECT_TRUE(found(host::Violation::kInFlight, "got 1 under way"));
    EXPECT_FALSE(run(Mistake::kOverRead).ok());
    EXPECT_TRUE(found(host::Violation::kRace, "expected a barrier after"));
    EXPECT_FALSE(run(Mistake::kUnaligned).ok());
    EXPECT_TRUE(found(host::Violation::kMisaligned, "global memory aligned to 16 bytes"));
    EXPECT_FALSE(run(Mistake::kNoBarrier).ok());
    const std::vector<host::Finding> findings = host::take_findings();
    ASSERT_EQ(findings.size(), 1u);
    EXPECT_TRUE(findings[0].violation == host::Violation::kRace ||
                findings[0].violation == host::Violation::kUninitialized);
  }
}

enum class ClusterMistake {
  kNone,
  kReadTooEarly,  // no barrier of the cluster after the write: one of the block will not do
  kOverwrite,     // none before the next write
  kEnd,           // none before the block that is read ends
  kNeverWritten,
  kBeyond,  // a block that the cluster has not
  kOutOfBounds,
  kCopyUnderWay,
};

__global__ void read_each_other(ClusterMistake mistake, const Vec16* global) {
  DCN_DEPLOY_DYNAMIC_SHARED(shared);
  auto* words = reinterpret_cast<std::int32_t*>(shared);
  const auto thread = static_cast<int>(threadIdx.x);
  const auto other = static_cast<int>(1 - blockIdx.x);
  shared_store(words + 4 * thread, thread);
  if (mistake == ClusterMistake::kCopyUnderWay) {
    block_barrier();
    copy_async_16(words + 4 * thread, global);
    copy_async_commit();
  }
  if (mistake == ClusterMistake::kReadTooEarly) {
    block_barrier();
  } else {
    cluster_barrier();
  }
  cluster_load(words + 4 * thread +
                   (mistake == ClusterMistake::kNeverWritten  ? 1
                    : mistake == ClusterMistake::kOutOfBounds ? 4 * 32
                                                              : 0),
               mistake == ClusterMistake::kBeyond ? 2 : other);
  if (mistake == ClusterMistake::kOverwrite) {
    block_barrier();
    shared_store(words + 4 * thread, 2);
  }
  copy_async_wait<0>();
  if (mistake != ClusterMistake::kEnd) cluster_barrier();
  // Its own shared memory is ordered by a barrier of the block.
  shared_store(words + 4 * thread, 3);
  block_barrier();
  cluster_load(words + 4 * (31 - thread), static_cast<int>(blockIdx.x));
}

TEST_F(HostSharedMemory, MistakesOfClustersAreFoundInAnyOrder) {
  const std::vector<Vec16> global(1);
  const auto run = [&](ClusterMistake mistake) {
    return launch_clusters(&read_each_other, dim3(2), dim3(32), 2, std::size_t{512}, nullptr,
                           mistake, global.data())
        .ok();
  };
  for (const host::Settings& settings : all_orders()) {
    host::configure(settings);
    EXPECT_TRUE(run(ClusterMistake::kNone));
    EXPECT_FALSE(run(ClusterMistake::kReadTooEarly));
    // Of a block that has not begun nothing is written yet.
    const std::vector<host::Finding> findings = host::take_findings();
    ASSERT_EQ(findings.size(), 1u);
    EXPECT_TRUE(findings[0].violation == host::Violation::kRace ||
                findings[0].violation == host::Violation::kUninitialized)
        << findings[0].message;
    EXPECT_FALSE(run(ClusterMistake::kOverwrite));
    EXPECT_TRUE(found(host::Violation::kRace, "expected a barrier of the cluster after"));
    EXPECT_FALSE(run(ClusterMistake::kEnd));
    EXPECT_TRUE(found(host::Violation::kRace, "expected a barrier of the cluster"));
    EXPECT_FALSE(run(ClusterMistake::kNeverWritten));
    EXPECT_TRUE(found(host::Violation::kUninitialized, "to be written"));
    EXPECT_FALSE(run(ClusterMistake::kBeyond));
    EXPECT_TRUE(found(host::Violation::kOutOfBounds, "expected a block of 0 to 1, got 2"));
    EXPECT_FALSE(run(ClusterMistake::kOutOfBounds));
    EXPECT_TRUE(found(host::Violation::kOutOfBounds, "within the block's 512 bytes"));
    EXPECT_FALSE(run(ClusterMistake::kCopyUnderWay));
    EXPECT_TRUE(found(host::Violation::kRace, "expected a barrier of the cluster after the write"));
  }
}

// Three groups of one copy each, the middle one empty; waits that leave 2, 1 and 0.
__global__ void copy_in_groups(const Vec16* global, std::uint32_t* out, bool peek) {
  DCN_DEPLOY_DYNAMIC_SHARED(shared);
  if (threadIdx.x != 0) return;
  auto* places = reinterpret_cast<Vec16*>(shared);
  copy_async_16(places, global);
  copy_async_commit();
  copy_async_commit();
  copy_async_16(places + 1, global + 1);
  copy_async_commit();
  copy_async_wait<2>();
  out[0] = shared_load(places).x;
  copy_async_wait<1>();
  if (peek) shared_load(places + 1);
  copy_async_wait<0>();
  out[1] = shared_load(places + 1).x;
}

TEST_F(HostSharedMemory, WaitsCountGroups) {
  std::vector<Vec16> global = {{11, 0, 0, 0}, {22, 0, 0, 0}};
  std::uint32_t out[2] = {};
  const auto run = [&](bool peek) {
    return launch(&copy_in_groups, dim3(1), dim3(32), std::size_t{64}, nullptr,
                  static_cast<const Vec16*>(global.data()), &out[0], peek);
  };
  EXPECT_TRUE(run(false).ok());
  EXPECT_EQ(out[0], 11u);
  EXPECT_EQ(out[1], 22u);
  EXPECT_FALSE(run(true).ok());
  EXPECT_TRUE(found(host::Violation::kInFlight, "A copy_async_wait is missing"));
}

}  // namespace
}  // namespace cuda
}  // namespace dcn_deploy
