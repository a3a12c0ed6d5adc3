#include "core/cpu/deform_conv2d_plan.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "comparison.h"
#include "random_tensors.h"

namespace dcn_deploy {
namespace cpu {
namespace {

DeformConv2dParams random_params(std::mt19937_64* random) {
  const auto pick = [&](std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(*random);
  };
  DeformConv2dParams p{};
  p.batch = pick(1, 3);
  p.kernel_h = pick(1, 9);
  p.kernel_w = pick(1, 9);
  const std::int64_t groups[] = {1, 1, 2, 3, 8, 40};
  p.group = groups[pick(0, 5)];
  p.offset_group = groups[pick(0, 5)];
  p.in_channels = std::lcm(p.group, p.offset_group) * pick(1, 70);
  if (pick(0, 3) == 0) p.group = p.in_channels;
  p.out_channels = p.group * (p.group > 8 ? pick(1, 5) : pick(1, 1200));
  p.out_h = pick(1, 90);
  p.out_w = pick(1, 200);
  p.stride_h = p.stride_w = p.dilation_h = p.dilation_w = 1;
  return p;
}

// Each term of a group's sum comes once, in the panel as well, and nothing is larger than what the
// scratch memory and the registers' chains of additions are made for.
TEST(DeformConv2dPlan, BlocksCoverTheSumOnce) {
  for (std::uint64_t round = 0; round < 400; ++round) {
    std::mt19937_64 random(testing::seed() + round);
    SCOPED_TRACE("DCN_DEPLOY_TEST_SEED=" + std::to_string(testing::seed() + round));
    const DeformConv2dParams params = random_params(&random);
    const Groups groups(params);
    for (std::int64_t group = 0; group < groups.count;
         group += std::max<std::int64_t>(1, groups.count - 1)) {
      std::vector<int> seen(static_cast<std::size_t>(groups.channels * groups.taps), 0);
      std::int64_t terms = 0;
      for_each_sum_block(groups, group, [&](const SumBlock& block) {
        ASSERT_EQ(block.first_term, terms);
        ASSERT_EQ(block.depth, block.channels * block.taps);
        terms += block.depth;
        ASSERT_LE(block.depth, kMaxDepth);
        ASSERT_LE(block.taps, kMaxTaps);
        ASSERT_LE(block.channels, kMaxChannels);
        ASSERT_LE(block.segment_count, kMaxSegments);
        ASSERT_LE(block.segment_count * block.taps, kMaxSlots);
        std::int64_t channels = 0;
        for (std::int64_t s = 0; s < block.segment_count; ++s) {
          const Segment& segment = block.segments[s];
          ASSERT_EQ(segment.channel, channels);
          ASSERT_EQ(segment.column, channels * block.taps);
          channels += segment.channels;
          for (std::int64_t c = 0; c < segment.channels; ++c) {
            const std::int64_t channel = block.channel + segment.channel + c;
            ASSERT_EQ(channel / groups.offset_group_channels, segment.offset_group);
            for (std::int64_t t = 0; t < block.taps; ++t) {
              ++seen[static_cast<std::size_t>((channel - group * groups.channels) * groups.taps +
                                              block.tap + t)];
            }
          }
        }
        ASSERT_EQ(channels, block.channels);
      });
      for (const int count : seen) ASSERT_EQ(count, 1);
    }
  }
}

TEST(DeformConv2dPlan, TasksCoverTheOutputOnce) {
  for (std::uint64_t round = 0; round < 300; ++round) {
    std::mt19937_64 random(testing::seed() + round);
    const DeformConv2dParams params = random_params(&random);
    const Groups groups(params);
    for (const std::int64_t lanes : {4, 8, 16}) {
      for (const std::int64_t threads : {1, 2, 3, 16}) {
        SCOPED_TRACE("DCN_DEPLOY_TEST_SEED=" + std::to_string(testing::seed() + round) +
                     " (first round), lanes " + std::to_string(lanes) + ", threads " +
                     std::to_string(threads));
        const Plan plan(params, groups, lanes, threads);
        const std::int64_t units = groups.depthwise ? groups.channels : groups.count;
        const std::int64_t pixels = params.out_h * params.out_w;
        // Of each image and pixel, pairs of a group (or depthwise channel) and an output channel.
        std::vector<std::int64_t> seen(static_cast<std::size_t>(params.batch * pixels), 0);
        std::vector<int> covered(static_cast<std::size_t>(units * groups.rows), 0);
        for (std::int64_t index = 0; index < plan.count(); ++index) {
          const Task task = plan.task(index);
          ASSERT_LE(task.tile.count, kMaxTilePixels);
          ASSERT_LE(task.end_row - task.first_row, kMaxRows);
          ASSERT_EQ(groups.depthwise ? 0 : task.first_row % (kBlockVectors * lanes), 0);
          const std::int64_t width = round_up(task.end_row - task.first_row, lanes);
          if (!groups.depthwise) {
            ASSERT_LE(width * task.tile.count, kMaxSums);
          }
          const std::int64_t share =
              (task.end_group - task.first_group) * (task.end_row - task.first_row);
          for (std::int64_t p = 0; p < task.tile.count; ++p) {
            const std::int64_t row = (task.tile.first + p) / task.tile.width;
            const std::int64_t column = (task.tile.first + p) % task.tile.width + task.tile.left;
            ASSERT_LT(row, params.out_h);
            ASSERT_LT(column, params.out_w);
            seen[static_cast<std::size_t>(task.tile.image * pixels + row * params.out_w +
                                          column)] += share;
          }
          if (task.tile.image == 0 && task.tile.first == 0 && task.tile.left == 0) {
            for (std::int64_t g = task.first_group; g < task.end_group; ++g) {
              for (std::int64_t r = task.first_row; r < task.end_row; ++r) {
                ++covered[static_cast<std::size_t>(g * groups.rows + r)];
              }
            }
          }
        }
        for (const std::int64_t count : seen) ASSERT_EQ(count, units * groups.rows);
        for (const int count : covered) ASSERT_EQ(count, 1);
      }
    }
  }
}

// What a machine with so many cores needs for all to work alike.
TEST(DeformConv2dPlan, SmallMapsKeepEveryThreadBusy) {
  struct Small {
    std::int64_t channels, size, group;
  };
  for (const Small& small : {Small{512, 7, 1}, Small{256, 14, 1}, Small{128, 28, 1},
                             Small{256, 28, 256}, Small{512, 7, 32}}) {
    DeformConv2dParams p{};
    p.batch = 1;
    p.in_channels = p.out_channels = small.channels;
    p.out_h = p.out_w = small.size;
    p.kernel_h = p.kernel_w = 3;
    p.group = small.group;
    p.offset_group = 1;
    for (const std::int64_t threads : {2, 4}) {
      const Plan plan(p, Groups(p), 16, threads);
      EXPECT_EQ(plan.count() % threads, 0) << small.channels << ", " << threads << " threads";
    }
  }
}

}  // namespace
}  // namespace cpu
}  // namespace dcn_deploy
