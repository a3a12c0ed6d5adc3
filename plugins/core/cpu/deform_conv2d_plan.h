// How the CPU kernel cuts a deformable convolution: the sum into blocks, the output into tasks.

#ifndef DCN_DEPLOY_CORE_CPU_DEFORM_CONV2D_PLAN_H_
#define DCN_DEPLOY_CORE_CPU_DEFORM_CONV2D_PLAN_H_

#include <algorithm>
#include <cstdint>

#include "core/cpu/deform_conv2d_kernels.h"
#include "core/deform_conv2d_params.h"

namespace dcn_deploy {
namespace cpu {

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
constexpr std::int64_t round_up(std::int64_t a, std::int64_t b) { return ceil_div(a, b) * b; }
constexpr std::int64_t round_down(std::int64_t a, std::int64_t b) { return a / b * b; }

// Taps of a block of the sum: so many that 8 channels of them fill a panel.
constexpr std::int64_t kMaxTaps = kMaxDepth / 8;
constexpr std::int64_t kMaxChannels = 64;
// Offset groups whose channels may share a block, and sampling positions for each pixel then.
constexpr std::int64_t kMaxSegments = 8;
constexpr std::int64_t kMaxSlots = 72;
// A block is not made larger than this with more positions than that: tiles would have fewer
// pixels.
constexpr std::int64_t kFewChannels = 16;
constexpr std::int64_t kFewSlots = 18;

// Channels of a block that share sampling positions.
struct Segment {
  std::int64_t offset_group;
  std::int64_t channel;  // first one, counted from the block's first
  std::int64_t channels;
  std::int64_t column;  // of the panel: its terms are ordered [tap][channel]
};

// Neighbouring terms of the sum of a group: channels × taps. They pass through the registers as one
// chain, so this and the order of the blocks fix the result's rounding. Neither depends on anything
// but the channels, the kernel, group and offset_group.
struct SumBlock {
  std::int64_t first_term;  // of the group
  std::int64_t depth;       // terms
  std::int64_t channel;     // first one, counted over all of X
  std::int64_t channels;
  std::int64_t tap;  // first one
  std::int64_t taps;
  std::int64_t segment_count;
  Segment segments[kMaxSegments];
};

// The groups of a convolution as the kernel treats them. Depthwise convolutions are one "group": a
// vector of channels is a vector of groups.
struct Groups {
  explicit Groups(const DeformConv2dParams& params);

  bool depthwise;
  std::int64_t count;
  std::int64_t channels;  // of X, in each
  std::int64_t rows;      // output channels of each; if depthwise, of each channel
  std::int64_t taps;
  std::int64_t offset_group_channels;
};

// From one tap to the next in the packed weights of a depthwise convolution: room for what is read
// beyond the last channel.
inline std::int64_t depthwise_weight_stride(const Groups& groups, std::int64_t lanes) {
  return round_up(groups.channels, lanes) + lanes;
}

// Sums that a block of a depthwise convolution writes for each pixel and row, or writes beyond.
inline std::int64_t depthwise_row_width(const SumBlock& block, std::int64_t lanes) {
  return round_up(block.channels, lanes) + (block.segment_count > 1 ? lanes : 0);
}

// Most channels of a block of so many taps.
constexpr std::int64_t block_channels(std::int64_t taps) {
  if (taps <= 4) return kMaxChannels;
  const std::int64_t fit = kMaxDepth / taps;
  return fit >= 32 ? 32 : fit >= 16 ? 16 : 8;
}

// Calls visit(block) for the blocks of a group's sum in the order of summation.
template <typename Visit>
void for_each_sum_block(const Groups& groups, std::int64_t group, Visit&& visit) {
  const std::int64_t most_taps = std::min(groups.taps, kMaxTaps);
  const std::int64_t most_channels = block_channels(most_taps);
  const std::int64_t most_segments =
      std::min(kMaxSegments, std::max(kMaxSlots / most_taps, std::int64_t{1}));
  const std::int64_t end = (group + 1) * groups.channels;
  const auto segment_end = [&](std::int64_t channel) {
    const std::int64_t next = channel / groups.offset_group_channels + 1;
    return std::min(end, next * groups.offset_group_channels);
  };
  SumBlock block{};
  for (std::int64_t channel = group * groups.channels; channel < end;) {
    const std::int64_t length = segment_end(channel) - channel;
    if (length > most_channels / 2 || groups.taps > most_taps) {
      // Blocks of nearly the same size.
      const std::int64_t step =
          std::min(most_channels, round_up(ceil_div(length, ceil_div(length, most_channels)), 8));
      for (block.tap = 0; block.tap < groups.taps; block.tap += most_taps) {
        block.taps = std::min(most_taps, groups.taps - block.tap);
        for (std::int64_t first = 0; first < length; first += step) {
          block.channel = channel + first;
          block.channels = std::min(step, length - first);
          block.depth = block.channels * block.taps;
          block.segment_count = 1;
          block.segments[0] = {channel / groups.offset_group_channels, 0, block.channels, 0};
          visit(static_cast<const SumBlock&>(block));
          block.first_term += block.depth;
        }
      }
      channel += length;
      continue;
    }
    block.tap = 0;
    block.taps = groups.taps;
    block.channel = channel;
    block.channels = block.segment_count = 0;
    while (channel < end && block.segment_count < most_segments) {
      const std::int64_t channels = segment_end(channel) - channel;
      if (block.channels + channels > most_channels) break;
      if (block.channels + channels > kFewChannels &&
          (block.segment_count + 1) * groups.taps > kFewSlots) {
        break;
      }
      block.segments[block.segment_count++] = {channel / groups.offset_group_channels,
                                               block.channels, channels,
                                               block.channels * block.taps};
      block.channels += channels;
      channel += channels;
    }
    block.depth = block.channels * block.taps;
    visit(static_cast<const SumBlock&>(block));
    block.first_term += block.depth;
  }
}

// Limits of a thread's scratch memory.
constexpr std::int64_t kMaxTilePixels = 512;
constexpr std::int64_t kMaxSamples = 9 << 10;
constexpr std::int64_t kMaxSums = 64 << 10;
constexpr std::int64_t kMaxRows = 512;

// Pixels of one image, in a band of columns: the `first`-th to the one before `first` + `count`,
// counted row by row within the band.
struct Tile {
  std::int64_t image;
  std::int64_t left;   // first column of the band
  std::int64_t width;  // of the band
  std::int64_t first;
  std::int64_t count;
};

// A part of the output: a tile's pixels, for some groups (if depthwise, some channels) and some of
// the output channels of each.
struct Task {
  Tile tile;
  std::int64_t first_group;
  std::int64_t end_group;
  std::int64_t first_row;
  std::int64_t end_row;
};

// Tasks of about the same size, so many that `threads` threads have work. The result does not
// depend on how the output is cut.
class Plan {
 public:
  Plan(const DeformConv2dParams& params, const Groups& groups, std::int64_t lanes,
       std::int64_t threads);

  std::int64_t count() const { return batch_ * bands_ * tiles_ * group_parts_ * row_parts_; }
  Task task(std::int64_t index) const;

 private:
  std::int64_t band_left(std::int64_t band) const { return band * out_w_ / bands_; }

  std::int64_t batch_;
  std::int64_t out_h_;
  std::int64_t out_w_;
  std::int64_t bands_;
  std::int64_t tiles_;  // of a band
  std::int64_t group_count_;
  std::int64_t group_parts_;
  std::int64_t group_unit_;
  std::int64_t rows_;
  std::int64_t row_parts_;
  std::int64_t row_unit_;
};

}  // namespace cpu
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_CORE_CPU_DEFORM_CONV2D_PLAN_H_
