#include "core/cpu/deform_conv2d.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <new>

namespace dcn_deploy {
namespace cpu {
namespace {

// Terms of the sum that are accumulated in registers before they are added to the tile's sums.
// Short enough to bound the rounding error (the error of a sum of n terms grows with the longest
// chain of additions), long enough that reading and writing the sums does not count.
constexpr std::int64_t kBlockDepth = 256;
static_assert(kMaxTaps <= kBlockDepth, "a block holds at least one channel");

// Output channels whose sums a tile holds at a time; with more, the tile is sampled once for each
// block of them.
constexpr std::int64_t kMaxOutputBlock = 768;

// Pixels are dealt out to tiles in runs of this many, whatever the instruction set.
constexpr std::int64_t kPixelRun = 16;
static_assert(kTilePixels % kPixelRun == 0, "a tile holds whole runs");

// Small maps are cut into smaller tiles until there are this many tasks, so that several threads
// have work; not into tiles of a single run, which would spend their time on reading the weights.
constexpr std::int64_t kMinTasks = 4;
constexpr std::int64_t kMinTileRuns = 2;

constexpr std::int64_t kNotLocated = -1;

struct Scratch {
  TapPositions positions[kMaxTaps];
  alignas(64) float panel[kBlockDepth * kTilePixels];
  alignas(64) float sums[kMaxOutputBlock * kTilePixels];
  // Where the first tap and the current one lie, and what the inputs say.
  alignas(64) std::int32_t first_tap_y[kTilePixels];
  alignas(64) std::int32_t first_tap_x[kTilePixels];
  alignas(64) std::int32_t tap_y[kTilePixels];
  alignas(64) std::int32_t tap_x[kTilePixels];
  alignas(64) float y_offset[kTilePixels];
  alignas(64) float x_offset[kTilePixels];
  alignas(64) float mask[kTilePixels];
  // What `positions` holds for the current tile.
  std::int64_t located_offset_group;
  std::int64_t located_tap;
};
static_assert(sizeof(Scratch) <= std::size_t{1} << 20, "scratch is at most 1 MiB a thread");

// The calling thread's scratch; null if there is no memory.
Scratch* thread_scratch() {
  thread_local std::unique_ptr<Scratch> scratch;
  if (scratch == nullptr) scratch.reset(new (std::nothrow) Scratch);
  return scratch.get();
}

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
constexpr std::int64_t round_up(std::int64_t a, std::int64_t b) { return ceil_div(a, b) * b; }

// Terms of the sum of one group that share sampling positions: channels × taps.
struct SumBlock {
  std::int64_t first_term;  // of the group
  std::int64_t channel;     // first one, counted over all of X
  std::int64_t channels;
  std::int64_t offset_group;
  std::int64_t tap;  // first one
  std::int64_t taps;
};

// Calls visit(block) for the blocks of a group's sum in the order of summation: the one order that
// packing and computing share. A block never crosses from one offset group to the next and has at
// most kBlockDepth terms.
template <typename Visit>
void for_each_sum_block(const DeformConv2dParams& params, std::int64_t group, Visit&& visit) {
  const std::int64_t taps = params.kernel_h * params.kernel_w;
  const std::int64_t group_channels = params.in_channels / params.group;
  const std::int64_t offset_group_channels = params.in_channels / params.offset_group;
  const std::int64_t end = (group + 1) * group_channels;
  SumBlock block{};
  for (std::int64_t channel = group * group_channels; channel < end;) {
    block.offset_group = channel / offset_group_channels;
    const std::int64_t segment_end =
        std::min(end, (block.offset_group + 1) * offset_group_channels);
    for (block.tap = 0; block.tap < taps; block.tap += kMaxTaps) {
      block.taps = std::min(kMaxTaps, taps - block.tap);
      const std::int64_t step = kBlockDepth / block.taps;
      for (block.channel = channel; block.channel < segment_end; block.channel += step) {
        block.channels = std::min(step, segment_end - block.channel);
        visit(static_cast<const SumBlock&>(block));
        block.first_term += block.channels * block.taps;
      }
    }
    channel = segment_end;
  }
}

// Tiles of an image with so many runs of pixels. Depends on the shape alone.
std::int64_t tile_count(std::int64_t runs, std::int64_t batch) {
  const std::int64_t fewest = ceil_div(runs, kTilePixels / kPixelRun);
  const std::int64_t wanted = ceil_div(kMinTasks, std::max(batch, std::int64_t{1}));
  return std::max(fewest, std::min(wanted, ceil_div(runs, kMinTileRuns)));
}

const char* element(const void* base, DType dtype, std::int64_t index) {
  return static_cast<const char*>(base) + index * static_cast<std::int64_t>(size_of(dtype));
}

class DeformConv2dTask {
 public:
  DeformConv2dTask(const DeformConv2dParams& params, const DeformConv2dTensors& tensors,
                   const PackedDeformConv2dWeights& packed)
      : params_(params),
        tensors_(tensors),
        packed_(packed),
        kernels_(packed.kernels()),
        taps_(params.kernel_h * params.kernel_w),
        pixels_(params.out_h * params.out_w),
        group_rows_(params.out_channels / params.group),
        runs_(ceil_div(pixels_, kPixelRun)),
        tiles_(tile_count(runs_, params.batch)),
        output_blocks_(ceil_div(round_up(group_rows_, kernels_.rows), kMaxOutputBlock)),
        output_block_rows_(round_up(ceil_div(group_rows_, output_blocks_), kernels_.rows)) {}

  std::int64_t count() const { return params_.batch * tiles_ * output_blocks_; }

  bool out_of_memory() const { return out_of_memory_.load(std::memory_order_relaxed); }

  static void run(void* self, std::int64_t index) {
    static_cast<DeformConv2dTask*>(self)->run(index);
  }

 private:
  // Pixels [first, first + count) of one image; `padded` is `count` rounded up to whole register
  // blocks.
  struct Tile {
    std::int64_t image;
    std::int64_t first;
    std::int64_t count;
    std::int64_t padded;
  };

  void run(std::int64_t index) {
    Scratch* scratch = thread_scratch();
    if (scratch == nullptr) {
      out_of_memory_.store(true, std::memory_order_relaxed);
      return;
    }
    const std::int64_t output_block = index % output_blocks_;
    const Tile tile = tile_at(index / output_blocks_);
    const std::int64_t first_row = output_block * output_block_rows_;
    const std::int64_t rows = std::min(output_block_rows_, group_rows_ - first_row);
    set_first_taps(tile, scratch);
    // Neighbouring groups often share their positions, which are therefore kept from group to
    // group.
    scratch->located_offset_group = kNotLocated;
    for (std::int64_t group = 0; group < params_.group; ++group) {
      sum_group(tile, group, first_row, rows, scratch);
      store_group(tile, group, first_row, rows, *scratch);
    }
  }

  // Tiles of an image differ by one run of pixels at most.
  Tile tile_at(std::int64_t index) const {
    const std::int64_t in_image = index % tiles_;
    const std::int64_t short_runs = runs_ / tiles_;
    const std::int64_t long_tiles = runs_ % tiles_;
    const std::int64_t first_run = in_image * short_runs + std::min(in_image, long_tiles);
    const std::int64_t tile_runs = short_runs + (in_image < long_tiles ? 1 : 0);
    Tile tile;
    tile.image = index / tiles_;
    tile.first = first_run * kPixelRun;
    tile.count = std::min(tile_runs * kPixelRun, pixels_ - tile.first);
    tile.padded = round_up(tile.count, std::max(kernels_.columns, kLanes));
    return tile;
  }

  // Where the filter's first tap lies for each pixel, before offsets.
  void set_first_taps(const Tile& tile, Scratch* scratch) const {
    // Pixels beyond the tile's end sample somewhere, on the map or off it; what they give is never
    // stored.
    for (std::int32_t* buffer : {scratch->first_tap_y, scratch->first_tap_x}) {
      std::fill(buffer + tile.count, buffer + tile.padded, 0);
    }
    for (float* buffer : {scratch->y_offset, scratch->x_offset, scratch->mask}) {
      std::fill(buffer + tile.count, buffer + tile.padded, 0.0f);
    }
    std::int64_t row = tile.first / params_.out_w;
    std::int64_t column = tile.first % params_.out_w;
    for (std::int64_t p = 0; p < tile.count; ++p) {
      scratch->first_tap_y[p] = static_cast<std::int32_t>(row * params_.stride_h - params_.pad_top);
      scratch->first_tap_x[p] =
          static_cast<std::int32_t>(column * params_.stride_w - params_.pad_left);
      if (++column == params_.out_w) {
        column = 0;
        ++row;
      }
    }
  }

  void sum_group(const Tile& tile, std::int64_t group, std::int64_t first_row, std::int64_t rows,
                 Scratch* scratch) const {
    const std::int64_t padded_group_rows = round_up(group_rows_, kernels_.rows);
    const float* weights = packed_.group(group);
    const std::int64_t plane = params_.in_h * params_.in_w;
    const std::int32_t step = params_.in_w > 1 ? 1 : 0;
    const auto sample = kernels_.sample[static_cast<int>(tensors_.dtype)];

    for_each_sum_block(params_, group, [&](const SumBlock& block) {
      locate(tile, block, scratch);
      const std::int64_t depth = block.channels * block.taps;
      const std::int64_t panel_stride = depth * kernels_.columns;
      for (std::int64_t c = 0; c < block.channels; ++c) {
        const std::int64_t channel = tile.image * params_.in_channels + block.channel + c;
        sample(element(tensors_.x, tensors_.dtype, channel * plane), step, scratch->positions,
               block.taps, tile.padded, scratch->panel + c * block.taps * kernels_.columns,
               panel_stride);
      }
      const float* block_weights =
          weights + block.first_term * padded_group_rows + first_row * depth;
      // The panel's strip of pixels stays in the first-level cache while the weights stream past
      // it.
      const std::int64_t strips = tile.padded / kernels_.columns;
      float* sums = scratch->sums;
      for (std::int64_t strip = 0; strip < strips; ++strip) {
        for (std::int64_t row = 0; row < rows; row += kernels_.rows) {
          kernels_.multiply(depth, block_weights + row * depth,
                            scratch->panel + strip * panel_stride, block.first_term > 0, sums);
          sums += kernels_.rows * kernels_.columns;
        }
      }
    });
  }

  void locate(const Tile& tile, const SumBlock& block, Scratch* scratch) const {
    if (scratch->located_offset_group == block.offset_group && scratch->located_tap == block.tap) {
      return;
    }
    scratch->located_offset_group = block.offset_group;
    scratch->located_tap = block.tap;
    const auto load_offset = kernels_.load[static_cast<int>(tensors_.offset_dtype)];
    const auto load_mask = kernels_.load[static_cast<int>(tensors_.mask_dtype)];
    for (std::int64_t t = 0; t < block.taps; ++t) {
      const std::int64_t tap = block.tap + t;
      // Of all taps of all offset groups of all images, this one's place.
      const std::int64_t place =
          (tile.image * params_.offset_group + block.offset_group) * taps_ + tap;
      const std::int64_t first = 2 * place * pixels_ + tile.first;
      load_offset(element(tensors_.offset, tensors_.offset_dtype, first), tile.count,
                  scratch->y_offset);
      load_offset(element(tensors_.offset, tensors_.offset_dtype, first + pixels_), tile.count,
                  scratch->x_offset);
      const float* mask = nullptr;
      if (tensors_.mask != nullptr) {
        load_mask(element(tensors_.mask, tensors_.mask_dtype, place * pixels_ + tile.first),
                  tile.count, scratch->mask);
        mask = scratch->mask;
      }
      const auto tap_y = static_cast<std::int32_t>(tap / params_.kernel_w * params_.dilation_h);
      const auto tap_x = static_cast<std::int32_t>(tap % params_.kernel_w * params_.dilation_w);
      for (std::int64_t p = 0; p < tile.padded; ++p) {
        scratch->tap_y[p] = scratch->first_tap_y[p] + tap_y;
        scratch->tap_x[p] = scratch->first_tap_x[p] + tap_x;
      }
      kernels_.locate(
          {static_cast<std::int32_t>(params_.in_h), static_cast<std::int32_t>(params_.in_w)},
          scratch->tap_y, scratch->tap_x, scratch->y_offset, scratch->x_offset, mask, tile.padded,
          &scratch->positions[t]);
    }
  }

  void store_group(const Tile& tile, std::int64_t group, std::int64_t first_row, std::int64_t rows,
                   Scratch& scratch) const {
    const auto load = kernels_.load[static_cast<int>(tensors_.dtype)];
    const auto store = kernels_.store[static_cast<int>(tensors_.dtype)];
    const std::int64_t padded_rows = round_up(rows, kernels_.rows);
    for (std::int64_t row = 0; row < rows; ++row) {
      const std::int64_t channel = group * group_rows_ + first_row + row;
      float bias = 0.0f;
      if (tensors_.bias != nullptr) {
        load(element(tensors_.bias, tensors_.dtype, channel), 1, &bias);
      }
      const std::int64_t first =
          (tile.image * params_.out_channels + channel) * pixels_ + tile.first;
      for (std::int64_t p = 0; p < tile.count; p += kernels_.columns) {
        const float* sums = scratch.sums + p * padded_rows + row * kernels_.columns;
        store(sums, bias, std::min(kernels_.columns, tile.count - p),
              const_cast<char*>(element(tensors_.y, tensors_.dtype, first + p)));
      }
    }
  }

  const DeformConv2dParams& params_;
  const DeformConv2dTensors& tensors_;
  const PackedDeformConv2dWeights& packed_;
  const Kernels& kernels_;
  const std::int64_t taps_;
  const std::int64_t pixels_;      // of an output channel
  const std::int64_t group_rows_;  // output channels of a group
  const std::int64_t runs_;
  const std::int64_t tiles_;
  const std::int64_t output_blocks_;
  const std::int64_t output_block_rows_;
  std::atomic<bool> out_of_memory_{false};
};

}  // namespace

Status PackedDeformConv2dWeights::pack(const DeformConv2dParams& params, const void* weight,
                                       DType dtype, const Kernels& kernels,
                                       PackedDeformConv2dWeights* packed) {
  const std::int64_t taps = params.kernel_h * params.kernel_w;
  const std::int64_t group_channels = params.in_channels / params.group;
  const std::int64_t group_rows = params.out_channels / params.group;
  const std::int64_t terms = group_channels * taps;
  const std::int64_t padded_rows = round_up(group_rows, kernels.rows);
  std::int64_t count;
  std::int64_t bytes;
  if (__builtin_mul_overflow(terms, padded_rows, &packed->group_size_) ||
      __builtin_mul_overflow(packed->group_size_, params.group, &count) ||
      __builtin_mul_overflow(count, static_cast<std::int64_t>(sizeof(float)), &bytes)) {
    return make_status(StatusCode::kTooLarge,
                       "packed weights: expected a size that fits in 64 bits, got more");
  }
  if (!packed->buffer_.allocate(count)) {
    return make_status(StatusCode::kOutOfMemory,
                       "packed weights: expected %lld bytes of memory, got none",
                       static_cast<long long>(bytes));
  }
  packed->kernels_ = &kernels;

  const auto load = kernels.load[static_cast<int>(dtype)];
  float* target = packed->buffer_.data();
  for (std::int64_t group = 0; group < params.group; ++group) {
    for_each_sum_block(params, group, [&](const SumBlock& block) {
      const std::int64_t first_channel = block.channel - group * group_channels;
      for (std::int64_t first_row = 0; first_row < padded_rows; first_row += kernels.rows) {
        for (std::int64_t r = 0; r < kernels.rows; ++r) {
          const std::int64_t row = group * group_rows + first_row + r;
          for (std::int64_t c = 0; c < block.channels; ++c) {
            float values[kMaxTaps] = {};
            if (first_row + r < group_rows) {
              const std::int64_t first =
                  (row * group_channels + first_channel + c) * taps + block.tap;
              load(element(weight, dtype, first), block.taps, values);
            }
            for (std::int64_t t = 0; t < block.taps; ++t) {
              target[(c * block.taps + t) * kernels.rows + r] = values[t];
            }
          }
        }
        target += block.channels * block.taps * kernels.rows;
      }
    });
  }
  return {};
}

std::size_t scratch_bytes_per_thread() { return sizeof(Scratch); }

Status deform_conv2d(const DeformConv2dParams& params, const DeformConv2dTensors& tensors,
                     const PackedDeformConv2dWeights& packed, const ParallelFor& parallel_for) {
  DeformConv2dTask task(params, tensors, packed);
  parallel_for(task.count(), &DeformConv2dTask::run, &task);
  if (task.out_of_memory()) {
    return make_status(StatusCode::kOutOfMemory,
                       "scratch memory: expected %zu bytes for each thread, got none",
                       sizeof(Scratch));
  }
  return {};
}

}  // namespace cpu
}  // namespace dcn_deploy
