#include "core/cpu/deform_conv2d_plan.h"

namespace dcn_deploy {
namespace cpu {
namespace {

// Bands of columns this wide keep the part of the map that a tile samples compact.
constexpr std::int64_t kBandWidth = 32;
constexpr std::int64_t kWidestBand = 40;

// Tiles are made smaller than they could be, down to these sizes, so that there are several tasks
// for every thread, or at least one. What it costs is that the weights are read more often.
constexpr std::int64_t kSmallTile = 96;
constexpr std::int64_t kSmallestTile = 64;
constexpr std::int64_t kTasksForEachThread = 4;

// So many sums stay in the second-level cache beside the weights and the staged map; but the more
// pixels a tile has, the less of the map is staged for two tiles.
constexpr std::int64_t kFastSums = 32 << 10;
constexpr std::int64_t kSmallestFullTile = 128;
static_assert(kSmallestFullTile * kMaxRows <= kMaxSums, "the sums of a tile fit");

// Output channels that are worth sampling for again.
constexpr std::int64_t kFewestRows = 64;

// Channels of a depthwise convolution that are not split any further.
constexpr std::int64_t kDepthwiseUnit = 32;

// Most multiplications of a filter's taps with a channel.
constexpr std::int64_t kMaxDepthwiseRows = 4;

}  // namespace

Groups::Groups(const DeformConv2dParams& params)
    : depthwise(params.group > 1 && params.in_channels == params.group &&
                params.out_channels <= kMaxDepthwiseRows * params.group &&
                params.kernel_h * params.kernel_w <= kMaxTaps),
      count(depthwise ? 1 : params.group),
      channels(params.in_channels / count),
      rows(params.out_channels / params.group),
      taps(params.kernel_h * params.kernel_w),
      offset_group_channels(params.in_channels / params.offset_group) {}

Plan::Plan(const DeformConv2dParams& params, const Groups& groups, std::int64_t lanes,
           std::int64_t threads)
    : batch_(params.batch), out_h_(params.out_h), out_w_(params.out_w), rows_(groups.rows) {
  // What may be dealt out to different tasks, apart from pixels.
  group_unit_ = groups.depthwise ? kDepthwiseUnit : 1;
  group_count_ = groups.depthwise ? groups.channels : groups.count;
  row_unit_ = groups.depthwise ? rows_ : kBlockVectors * lanes;
  group_parts_ = 1;
  row_parts_ = groups.depthwise ? 1 : ceil_div(rows_, kMaxRows);

  // The sampling positions and the sums of a tile must fit.
  std::int64_t slots = 1;
  std::int64_t depthwise_width = 1;
  for (std::int64_t group = 0; group < groups.count; ++group) {
    for_each_sum_block(groups, group, [&](const SumBlock& block) {
      slots = std::max(slots, block.segment_count * block.taps);
      depthwise_width = std::max(depthwise_width, depthwise_row_width(block, lanes));
    });
  }
  const std::int64_t sums = groups.depthwise
                                ? rows_ * depthwise_width
                                : ceil_div(ceil_div(rows_, row_unit_), row_parts_) * row_unit_;
  const std::int64_t most_pixels =
      std::min({kMaxTilePixels, round_down(kMaxSamples / slots, kMaxLanes),
                std::max(kSmallestFullTile, round_down(kFastSums / sums, kMaxLanes))});

  const std::int64_t width = std::max(kBandWidth, ceil_div(most_pixels, out_h_));
  bands_ = out_w_ <= std::max(kWidestBand, width) ? 1 : ceil_div(out_w_, width);
  const std::int64_t pixels = ceil_div(out_w_, bands_) * out_h_;
  tiles_ = ceil_div(pixels, most_pixels);

  // More tiles, so that there are several tasks for every thread.
  const std::int64_t images = batch_ * bands_ * row_parts_;
  tiles_ = std::max(tiles_,
                    std::min(ceil_div(kTasksForEachThread * threads, images), pixels / kSmallTile));
  if (images * tiles_ >= 2 * kTasksForEachThread * threads) return;

  // A few tasks must be as many for each thread: yet more tiles, or, with a small map, parts of the
  // channels.
  const bool by_group = group_count_ > group_unit_;
  const std::int64_t most_parts = by_group
                                      ? ceil_div(group_count_, group_unit_)
                                      : std::max(rows_ / row_parts_ / kFewestRows, std::int64_t{1});
  const std::int64_t least_tiles = tiles_;
  const std::int64_t most_tiles = std::max(tiles_, pixels / kSmallestTile);
  std::int64_t parts = std::min(ceil_div(threads, images * tiles_), most_parts);
  for (std::int64_t tiles = least_tiles; tiles <= most_tiles; ++tiles) {
    const std::int64_t wanted = std::min(ceil_div(threads, images * tiles), most_parts);
    if (images * tiles * wanted % threads == 0) {
      tiles_ = tiles;
      parts = wanted;
      break;
    }
  }
  (by_group ? group_parts_ : row_parts_) *= parts;
}

Task Plan::task(std::int64_t index) const {
  Task task;
  const auto part = [](std::int64_t which, std::int64_t parts, std::int64_t size, std::int64_t unit,
                       std::int64_t* begin, std::int64_t* end) {
    const std::int64_t units = ceil_div(size, unit);
    *begin = std::min(which * units / parts * unit, size);
    *end = std::min((which + 1) * units / parts * unit, size);
  };
  part(index % row_parts_, row_parts_, rows_, row_unit_, &task.first_row, &task.end_row);
  index /= row_parts_;
  part(index % group_parts_, group_parts_, group_count_, group_unit_, &task.first_group,
       &task.end_group);
  index /= group_parts_;
  const std::int64_t tile = index % tiles_;
  index /= tiles_;
  const std::int64_t band = index % bands_;
  task.tile.image = index / bands_;
  task.tile.left = band_left(band);
  task.tile.width = band_left(band + 1) - task.tile.left;
  const std::int64_t pixels = task.tile.width * out_h_;
  task.tile.first = tile * pixels / tiles_;
  task.tile.count = (tile + 1) * pixels / tiles_ - task.tile.first;
  return task;
}

}  // namespace cpu
}  // namespace dcn_deploy
