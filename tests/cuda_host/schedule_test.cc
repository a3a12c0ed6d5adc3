// Threads, barriers and shuffles of the device that the host plays.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <set>
#include <vector>

#include "core/cuda/device.cuh"
#include "host_device_test.h"

namespace dcn_deploy {
namespace cuda {
namespace {

class HostSchedule : public HostDeviceTest {};

__global__ void write_indices(int* out) {
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  out[block * blockDim.x * blockDim.y * blockDim.z + thread] += static_cast<int>(thread) + 1;
}

TEST_F(HostSchedule, EveryThreadOfEveryBlockRunsOnce) {
  const dim3 grid(3, 2, 5), block(8, 4, 3);
  for (const host::Settings& settings : all_orders()) {
    host::configure(settings);
    std::vector<int> out(30 * 96, 0);
    ASSERT_TRUE(launch(&write_indices, grid, block, 0, nullptr, out.data()).ok());
    for (std::size_t i = 0; i < out.size(); ++i) ASSERT_EQ(out[i], static_cast<int>(i % 96) + 1);
  }
}

__global__ void note_order(std::vector<int>* order, bool barrier) {
  order->push_back(static_cast<int>(threadIdx.x));
  if (barrier) block_barrier();
  if (barrier) order->push_back(static_cast<int>(threadIdx.x));
}

TEST_F(HostSchedule, OrdersAreWhatTheySay) {
  std::vector<int> ascending(64);
  std::iota(ascending.begin(), ascending.end(), 0);
  const auto run = [](host::ThreadOrder thread_order, std::uint64_t seed, bool barrier) {
    host::Settings settings;
    settings.thread_order = thread_order;
    settings.seed = seed;
    host::configure(settings);
    std::vector<int> order;
    EXPECT_TRUE(launch(&note_order, dim3(1), dim3(64), 0, nullptr, &order, barrier).ok());
    return order;
  };
  EXPECT_EQ(run(host::ThreadOrder::kForward, 1, false), ascending);
  const std::vector<int> descending(ascending.rbegin(), ascending.rend());
  EXPECT_EQ(run(host::ThreadOrder::kReverse, 1, false), descending);

  const std::vector<int> random = run(host::ThreadOrder::kRandom, 1, false);
  EXPECT_TRUE(std::is_permutation(random.begin(), random.end(), ascending.begin()));
  EXPECT_EQ(random, run(host::ThreadOrder::kRandom, 1, false));
  EXPECT_NE(random, run(host::ThreadOrder::kRandom, 2, false));
  EXPECT_NE(random, ascending);

  // None passes the barrier before all have come to it; after it the order is a new one.
  for (const host::ThreadOrder order :
       {host::ThreadOrder::kForward, host::ThreadOrder::kReverse, host::ThreadOrder::kRandom}) {
    const std::vector<int> both = run(order, 3, true);
    ASSERT_EQ(both.size(), 128u);
    EXPECT_TRUE(std::is_permutation(both.begin(), both.begin() + 64, ascending.begin()));
    EXPECT_TRUE(std::is_permutation(both.begin() + 64, both.end(), ascending.begin()));
  }
}

__global__ void shuffle_all(int* out) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int thread = static_cast<int>(threadIdx.x);
  int* mine = out + 8 * thread;
  for (int i = 0; i < 5; ++i) mine[i] = shuffle_xor(thread, 1 << i);
  mine[5] = shuffle(thread, 7);
  mine[6] = shuffle(thread, (lane * 5 + 3) % 32);
  mine[7] = static_cast<int>(2.0f * shuffle(0.5f * static_cast<float>(thread), 31 - lane));
}

TEST_F(HostSchedule, ShufflesStayInTheirWarp) {
  for (const host::Settings& settings : all_orders()) {
    host::configure(settings);
    std::vector<int> out(96 * 8, -1);
    ASSERT_TRUE(launch(&shuffle_all, dim3(1), dim3(96), 0, nullptr, out.data()).ok());
    for (int thread = 0; thread < 96; ++thread) {
      const int warp = thread / 32 * 32;
      const int lane = thread % 32;
      const int* mine = &out[static_cast<std::size_t>(8 * thread)];
      for (int i = 0; i < 5; ++i) ASSERT_EQ(mine[i], warp + (lane ^ (1 << i)));
      ASSERT_EQ(mine[5], warp + 7);
      ASSERT_EQ(mine[6], warp + (lane * 5 + 3) % 32);
      ASSERT_EQ(mine[7], warp + 31 - lane);
    }
  }
}

__global__ void shuffle_beyond_the_warp(int* out) { *out = shuffle(1, 32); }

TEST_F(HostSchedule, LaneBeyondTheWarpIsFound) {
  int out = 0;
  EXPECT_FALSE(launch(&shuffle_beyond_the_warp, dim3(1), dim3(32), 0, nullptr, &out).ok());
  EXPECT_TRUE(found(host::Violation::kOutOfBounds, "expected a lane of 0 to 31, got 32"));
}

// Each block gives its first output to the block before it.
__global__ void pass_on(int* out, bool barrier_by_all) {
  DCN_DEPLOY_DYNAMIC_SHARED(shared);
  const auto thread = static_cast<int>(threadIdx.x);
  auto* mine = reinterpret_cast<int32_t*>(shared) + thread;
  const auto block = static_cast<int>(blockIdx.x);
  shared_store(mine, static_cast<int32_t>(1000 * block + thread));
  if (barrier_by_all || thread != 5 || block % 4 != 3) cluster_barrier();
  out[block * static_cast<int>(blockDim.x) + thread] = cluster_load(mine, (block + 1) % 4);
  cluster_barrier();
}

TEST_F(HostSchedule, BlocksOfAClusterMeetAndReadEachOther) {
  for (const host::Settings& settings : all_orders()) {
    host::configure(settings);
    std::vector<int> out(12 * 64, -1);
    const host::Counters before = host::counters();
    ASSERT_TRUE(launch_clusters(&pass_on, dim3(12), dim3(64), 4, std::size_t{256}, nullptr,
                                out.data(), true)
                    .ok());
    EXPECT_EQ(host::counters().blocks - before.blocks, 12);
    EXPECT_EQ(host::counters().cluster_barriers - before.cluster_barriers, 6);
    for (int block = 0; block < 12; ++block) {
      const int next = block / 4 * 4 + (block + 1) % 4;
      for (int thread = 0; thread < 64; ++thread) {
        ASSERT_EQ(out[static_cast<std::size_t>(64 * block + thread)], 1000 * next + thread);
      }
    }
    EXPECT_FALSE(launch_clusters(&pass_on, dim3(4), dim3(64), 4, std::size_t{256}, nullptr,
                                 out.data(), false)
                     .ok());
    // The thread goes on to read what it should have waited for, or is missed at the barrier.
    EXPECT_EQ(host::take_findings().size(), 1u);
  }
}

__global__ void leave_before_the_cluster() {
  if (blockIdx.x == 2 && threadIdx.x == 1) return;
  cluster_barrier();
}

TEST_F(HostSchedule, ThreadMissedByItsClusterIsFound) {
  for (const host::Settings& settings : all_orders()) {
    host::configure(settings);
    EXPECT_FALSE(launch_clusters(&leave_before_the_cluster, dim3(4), dim3(32), 4, 0, nullptr).ok());
    EXPECT_TRUE(found(host::Violation::kDivergence,
                      "expected all 128 threads of the cluster, got 127; thread (1, 0, 0) has "
                      "returned"));
  }
}

TEST_F(HostSchedule, LastBlocksAreWholeClusters) {
  host::Settings settings;
  settings.last_blocks = 3;
  host::configure(settings);
  std::vector<int> out(12 * 32, -1);
  ASSERT_TRUE(
      launch_clusters(&pass_on, dim3(12), dim3(32), 4, std::size_t{128}, nullptr, out.data(), true)
          .ok());
  for (std::size_t i = 0; i < out.size(); ++i) EXPECT_EQ(out[i] == -1, i < 8 * 32) << i;
}

enum class Divergence {
  kNone,
  kReturnsEarly,
  kSkipsBlockBarrier,
  kSkipsWarpBarrier,
  kTwoBarriersInTwoBranches,
  kWarpBarrierAgainstShuffle,
  kOneMoreRound,
};

__global__ void diverge(Divergence how) {
  const bool odd = threadIdx.x == 37;
  if (how == Divergence::kReturnsEarly && odd) return;
  if (!(how == Divergence::kSkipsBlockBarrier && odd)) block_barrier();
  if (!(how == Divergence::kSkipsWarpBarrier && odd)) warp_barrier();
  if (how == Divergence::kTwoBarriersInTwoBranches && odd) {
    block_barrier();
  } else {
    block_barrier();
  }
  if (how == Divergence::kWarpBarrierAgainstShuffle && odd) {
    warp_barrier();
  } else {
    shuffle(1, 0);
  }
  const int rounds = how == Divergence::kOneMoreRound && odd ? 3 : 2;
  for (int i = 0; i < rounds; ++i) block_barrier();
}

TEST_F(HostSchedule, DivergenceIsFoundAndNeverHangs) {
  const auto run = [](Divergence how) {
    return launch(&diverge, dim3(2), dim3(96), 0, nullptr, how);
  };
  for (const host::Settings& settings : all_orders()) {
    host::configure(settings);
    EXPECT_TRUE(run(Divergence::kNone).ok());

    const Status status = run(Divergence::kReturnsEarly);
    EXPECT_EQ(status.code, StatusCode::kDevice);
    EXPECT_TRUE(found(host::Violation::kDivergence,
                      "expected all 96 threads of the block, got 95; thread (37, 0, 0) has "
                      "returned"));
    EXPECT_NE(std::string(status.message).find("block_barrier (schedule_test.cc:"),
              std::string::npos);

    EXPECT_FALSE(run(Divergence::kSkipsBlockBarrier).ok());
    EXPECT_TRUE(found(host::Violation::kDivergence,
                      "expected all 32 threads of the warp, got 1; thread (32, 0, 0) waits at "
                      "block_barrier"));
    EXPECT_FALSE(run(Divergence::kSkipsWarpBarrier).ok());
    EXPECT_TRUE(found(host::Violation::kDivergence, "expected all 32 threads of the warp"));
    EXPECT_FALSE(run(Divergence::kTwoBarriersInTwoBranches).ok());
    EXPECT_TRUE(found(host::Violation::kDivergence, "expected all 96 threads of the block"));
    EXPECT_FALSE(run(Divergence::kWarpBarrierAgainstShuffle).ok());
    EXPECT_TRUE(found(host::Violation::kDivergence, "expected all 32 threads of the warp"));
    EXPECT_FALSE(run(Divergence::kOneMoreRound).ok());
    EXPECT_TRUE(found(host::Violation::kDivergence, "expected all 96 threads of the block, got 1"));
    // The device is as good as new.
    EXPECT_TRUE(run(Divergence::kNone).ok());
  }
}

__global__ void nothing() {}

TEST_F(HostSchedule, LaunchesThatNoGpuTakesAreRefused) {
  const auto refused = [](dim3 grid, dim3 block, std::size_t shared_bytes, const char* text) {
    EXPECT_FALSE(launch(&nothing, grid, block, shared_bytes, nullptr).ok());
    EXPECT_TRUE(found(host::Violation::kLaunch, text));
  };
  refused(dim3(1), dim3(1056), 0, "got 1056 x 1 x 1");
  refused(dim3(1), dim3(33), 0, "expected whole warps");
  refused(dim3(1), dim3(0), 0, "expected whole warps");
  refused(dim3(0), dim3(32), 0, "got 0 x 1 x 1");
  refused(dim3(1, 65536), dim3(32), 0, "got 1 x 65536 x 1");
  refused(dim3(1, 1, 65536), dim3(32), 0, "got 1 x 1 x 65536");
  refused(dim3(1u << 31), dim3(32), 0, "expected a grid of 1 to 2147483647");
  refused(dim3(1), dim3(32), 227 * 1024 + 1, "at most 232448 bytes of shared memory, got 232449");
  EXPECT_TRUE(launch(&nothing, dim3(1), dim3(1024), 227 * 1024, nullptr).ok());

  EXPECT_FALSE(launch_clusters(&nothing, dim3(9), dim3(32), 9, 0, nullptr).ok());
  EXPECT_TRUE(found(host::Violation::kLaunch, "expected a cluster of 1 to 8 blocks"));
  EXPECT_FALSE(launch_clusters(&nothing, dim3(6), dim3(32), 4, 0, nullptr).ok());
  EXPECT_TRUE(found(host::Violation::kLaunch, "a grid of whole clusters, got 4, of 6"));
  EXPECT_FALSE(launch_clusters(&nothing, dim3(8), dim3(512), 8, 0, nullptr).ok());
  EXPECT_TRUE(found(host::Violation::kLaunch, "at most 64 warps of a cluster"));
  EXPECT_TRUE(launch_clusters(&nothing, dim3(8), dim3(256), 8, 227 * 1024, nullptr).ok());
}

__global__ void come_by_a_fault(int* out) {
  *out = DCN_DEPLOY_FAULT(3) ? 3 : 0;
  if (DCN_DEPLOY_FAULT(0)) *out = -1;
}

TEST_F(HostSchedule, OneFaultIsPlantedAtATime) {
  int out = -2;
  ASSERT_TRUE(launch(&come_by_a_fault, dim3(1), dim3(32), 0, nullptr, &out).ok());
  EXPECT_EQ(out, 0);
  host::plant_fault(2);
  ASSERT_TRUE(launch(&come_by_a_fault, dim3(1), dim3(32), 0, nullptr, &out).ok());
  EXPECT_EQ(out, 0);
  EXPECT_EQ(host::times_at_fault(), 0);
  host::plant_fault(3);
  ASSERT_TRUE(launch(&come_by_a_fault, dim3(1), dim3(32), 0, nullptr, &out).ok());
  EXPECT_EQ(out, 3);
  EXPECT_EQ(host::times_at_fault(), 32);
}

}  // namespace
}  // namespace cuda
}  // namespace dcn_deploy
