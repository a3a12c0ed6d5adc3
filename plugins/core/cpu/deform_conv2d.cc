#include "core/cpu/deform_conv2d.h"

#include <algorithm>
#include <atomic>
#include <limits>
#include <thread>

#include "core/cpu/deform_conv2d_kernels.h"
#include "core/cpu/deform_conv2d_plan.h"
#include "core/cpu/deform_conv2d_scratch.h"
#include "core/cpu/lookahead.h"
#include "core/dtype_check.h"

namespace dcn_deploy {
namespace cpu {
namespace {

using Scratch = DeformConv2dScratch;

const char* element(const void* base, DType dtype, std::int64_t index) {
  return static_cast<const char*>(base) + index * static_cast<std::int64_t>(size_of(dtype));
}

// Threads that the caller may have; there is no asking it.
std::int64_t expected_threads() {
  static const std::int64_t threads =
      std::clamp(static_cast<std::int64_t>(std::thread::hardware_concurrency()), std::int64_t{2},
                 std::int64_t{64});
  return threads;
}

// What a thread's scratch memory holds for the task it is at.
struct TaskState {
  const Task& task;
  std::int64_t index;  // of the task
  Scratch* scratch;
  std::int64_t padded;  // pixels, rounded up to whole vectors
  // What `positions` holds.
  std::int64_t located_segment = -1;  // first offset group; -1 for nothing
  std::int64_t located_segments = 0;
  std::int64_t located_tap = 0;
  // The part of the map that is staged, and whether any sample lies outside it.
  MapRegion region{};
  bool far = false;
  std::int64_t origin = 0;       // where its first pixel is
  std::int64_t staged_size = 0;  // floats of each segment's
  // What is read next, and written.
  Lookahead map{};
  Lookahead offsets{};
  Lookahead masks{};
  Lookahead output{};

  void ask_ahead(std::int64_t parts) {
    for (Lookahead* ahead : {&map, &offsets, &masks, &output}) ahead->ask(parts);
  }
};

class DeformConv2dCall {
 public:
  DeformConv2dCall(const DeformConv2dParams& params, const DeformConv2dTensors& tensors,
                   const PackedDeformConv2dWeights& packed)
      : params_(params),
        tensors_(tensors),
        packed_(packed),
        kernels_(packed.kernels()),
        loops_(*kernels_.deform_conv2d),
        groups_(params),
        plan_(params, groups_, loops_.lanes, expected_threads()),
        pixels_(params.out_h * params.out_w),
        plane_(params.in_h * params.in_w),
        step_(round_up(std::min({groups_.channels, groups_.offset_group_channels,
                                 block_channels(std::min(groups_.taps, kMaxTaps))}),
                       4)) {}

  std::int64_t count() const { return plan_.count(); }

  bool out_of_memory() const { return out_of_memory_.load(std::memory_order_relaxed); }

  static void run(void* self, std::int64_t index) {
    static_cast<DeformConv2dCall*>(self)->run(index);
  }

 private:
  void run(std::int64_t index) {
    Scratch* scratch = deform_conv2d_scratch();
    if (scratch == nullptr) {
      out_of_memory_.store(true, std::memory_order_relaxed);
      return;
    }
    const Task task = plan_.task(index);
    if (task.tile.count == 0 || task.first_row == task.end_row) return;
    TaskState state{task, index, scratch, round_up(task.tile.count, loops_.lanes)};
    set_bases(&state);
    if (groups_.depthwise) {
      run_depthwise(&state);
      return;
    }
    for (std::int64_t group = task.first_group; group < task.end_group; ++group) {
      sum_group(group, &state);
      const std::int64_t first = group * groups_.rows + task.first_row;
      store(task, first, 1, task.end_row - task.first_row, scratch->sums, row_stride(task),
            scratch);
    }
  }

  std::int64_t row_stride(const Task& task) const {
    return round_up(task.end_row - task.first_row, loops_.lanes);
  }

  // Where the filter's first tap lies for each pixel, before offsets.
  void set_bases(TaskState* state) const {
    const Tile& tile = state->task.tile;
    Scratch* scratch = state->scratch;
    // Beyond the tile's end nothing is sampled.
    const float nan = std::numeric_limits<float>::quiet_NaN();
    for (std::int32_t* buffer : {scratch->y_base, scratch->x_base}) {
      std::fill(buffer + tile.count, buffer + state->padded, 0);
    }
    for (float* buffer : {scratch->y_offset, scratch->x_offset, scratch->mask}) {
      std::fill(buffer + tile.count, buffer + state->padded, nan);
    }
    std::int64_t row = tile.first / tile.width;
    std::int64_t column = tile.first % tile.width;
    for (std::int64_t p = 0; p < tile.count; ++p) {
      scratch->y_base[p] = static_cast<std::int32_t>(row * params_.stride_h - params_.pad_top);
      scratch->x_base[p] =
          static_cast<std::int32_t>((tile.left + column) * params_.stride_w - params_.pad_left);
      if (++column == tile.width) {
        column = 0;
        ++row;
      }
    }
  }

  // Calls visit(first pixel of the tile, place in a plane of the output, pixels) for the tile's
  // runs of neighbouring pixels.
  template <typename Visit>
  void for_each_run(const Tile& tile, Visit&& visit) const {
    const bool one_run = tile.width == params_.out_w;
    for (std::int64_t p = 0; p < tile.count;) {
      const std::int64_t row = (tile.first + p) / tile.width;
      const std::int64_t column = (tile.first + p) % tile.width;
      const std::int64_t count =
          one_run ? tile.count : std::min(tile.width - column, tile.count - p);
      visit(p, row * params_.out_w + tile.left + column, count);
      p += count;
    }
  }

  void sum_group(std::int64_t group, TaskState* state) const {
    const Task& task = state->task;
    Scratch* scratch = state->scratch;
    const std::int64_t padded_rows = round_up(groups_.rows, loops_.lanes);
    const std::int64_t stride = row_stride(task);
    const float* weights = packed_.group(group);
    load_bias(group * groups_.rows + task.first_row, task.end_row - task.first_row, scratch->bias);
    for_each_sum_block(groups_, group, [&](const SumBlock& block) {
      prepare(block, state);
      const float* block_weights =
          weights + block.first_term * padded_rows + task.first_row * block.depth;
      look_ahead(block, group, state);
      const std::int64_t strips = ceil_div(task.tile.count, loops_.strip);
      for_each_strip(task.tile.count, [&](std::int64_t first, std::int64_t count) {
        state->ask_ahead(strips);
        sample(block, first, count, *state);
        loops_.multiply(count, block.depth, scratch->panel, block_weights, stride,
                        block.first_term == 0 ? scratch->bias : nullptr,
                        scratch->sums + first * stride, stride);
      });
    });
  }

  void run_depthwise(TaskState* state) const {
    const Task& task = state->task;
    Scratch* scratch = state->scratch;
    const std::int64_t weight_stride = depthwise_weight_stride(groups_, loops_.lanes);
    for_each_sum_block(groups_, 0, [&](const SumBlock& block) {
      // Blocks are dealt out whole.
      if (block.channel < task.first_group || block.channel >= task.end_group) return;
      prepare(block, state);
      const std::int64_t width = depthwise_row_width(block, loops_.lanes);
      const std::int64_t stride = groups_.rows * width;
      for (std::int64_t row = 0; row < groups_.rows; ++row) {
        for (std::int64_t c = 0; c < block.channels; ++c) {
          load_bias((block.channel + c) * groups_.rows + row, 1, scratch->bias + row * width + c);
        }
      }
      const auto for_each_product = [&](std::int64_t first, auto&& multiply) {
        for (std::int64_t row = 0; row < groups_.rows; ++row) {
          for (std::int64_t s = 0; s < block.segment_count; ++s) {
            const std::int64_t channel = block.segments[s].channel;
            multiply(
                s, packed_.group(0) + row * groups_.taps * weight_stride + block.channel + channel,
                scratch->bias + row * width + channel,
                scratch->sums + first * stride + row * width + channel);
          }
        }
      };
      if (!state->far && groups_.rows == 1) {
        for_each_product(
            0, [&](std::int64_t s, const float* weight, const float* bias, float* sums) {
              loops_.sample_depthwise(staged_map(s, *state), block.segments[s].channels,
                                      positions_of(block, s, *state), block.taps, state->padded, 0,
                                      task.tile.count, weight, weight_stride, bias, sums, stride);
            });
      } else {
        for_each_strip(task.tile.count, [&](std::int64_t first, std::int64_t count) {
          sample(block, first, count, *state);
          for_each_product(
              first, [&](std::int64_t s, const float* weight, const float* bias, float* sums) {
                loops_.multiply_depthwise(count, block.taps, block.segments[s].channels,
                                          scratch->panel + block.segments[s].column, weight,
                                          weight_stride, bias, sums, stride);
              });
        });
      }
      for (std::int64_t row = 0; row < groups_.rows; ++row) {
        store(task, block.channel * groups_.rows + row, groups_.rows, block.channels,
              scratch->sums + row * width, stride, scratch);
      }
    });
  }

  template <typename Visit>
  void for_each_strip(std::int64_t count, Visit&& visit) const {
    // Of nearly the same size: short ones use the registers badly.
    const std::int64_t strips = ceil_div(count, loops_.strip);
    for (std::int64_t strip = 0; strip < strips; ++strip) {
      const std::int64_t first = strip * count / strips;
      visit(first, (strip + 1) * count / strips - first);
    }
  }

  void load_bias(std::int64_t first, std::int64_t count, float* bias) const {
    if (tensors_.bias == nullptr) {
      std::fill(bias, bias + count, 0.0f);
    } else {
      kernels_.load[static_cast<int>(tensors_.dtype)](element(tensors_.bias, tensors_.dtype, first),
                                                      count, bias);
    }
  }

  // Positions, and the part of the map that they read.
  void prepare(const SumBlock& block, TaskState* state) const {
    const bool located = state->located_segment == block.segments[0].offset_group &&
                         state->located_segments == block.segment_count &&
                         state->located_tap == block.tap;
    if (!located) {
      locate(block, state);
      state->located_segment = block.segments[0].offset_group;
      state->located_segments = block.segment_count;
      state->located_tap = block.tap;
    }
    stage(block, *state);
  }

  void locate(const SumBlock& block, TaskState* state) const {
    const Tile& tile = state->task.tile;
    Scratch* scratch = state->scratch;
    const SamplePositions positions{scratch->at, scratch->weight};
    constexpr std::int32_t kNone = std::numeric_limits<std::int32_t>::max();
    MapRegion region{kNone, kNone, -kNone, -kNone};
    for (std::int64_t s = 0; s < block.segment_count; ++s) {
      for (std::int64_t t = 0; t < block.taps; ++t) {
        const std::int64_t tap = block.tap + t;
        // Of all taps of all offset groups of all images, this one's place.
        const std::int64_t place =
            (tile.image * params_.offset_group + block.segments[s].offset_group) * groups_.taps +
            tap;
        for_each_run(tile, [&](std::int64_t p, std::int64_t pixel, std::int64_t count) {
          load_positions(tensors_.offset, tensors_.offset_dtype, 2 * place * pixels_ + pixel, count,
                         scratch->y_offset + p);
          load_positions(tensors_.offset, tensors_.offset_dtype, (2 * place + 1) * pixels_ + pixel,
                         count, scratch->x_offset + p);
          if (tensors_.mask != nullptr) {
            load_positions(tensors_.mask, tensors_.mask_dtype, place * pixels_ + pixel, count,
                           scratch->mask + p);
          }
        });
        loops_.locate(static_cast<std::int32_t>(params_.in_h),
                      static_cast<std::int32_t>(params_.in_w),
                      static_cast<std::int32_t>(tap / params_.kernel_w * params_.dilation_h),
                      static_cast<std::int32_t>(tap % params_.kernel_w * params_.dilation_w),
                      scratch->y_base, scratch->x_base, scratch->y_offset, scratch->x_offset,
                      tensors_.mask != nullptr ? scratch->mask : nullptr, state->padded,
                      (s * block.taps + t) * state->padded, positions, &region);
      }
    }
    if (region.bottom <= region.top) region = {0, 0, 0, 0};
    state->region = region;
    state->far = !fits(region, block.segment_count);
    if (state->far) state->region = near_part(region, block, *state);
    // In front lie zeros, as far as the four corners of a sample outside the map reach.
    state->origin = zeros_in_front(state->region);
    state->staged_size = staged_floats(state->region);
    loops_.place(state->region, static_cast<std::int32_t>(step_),
                 static_cast<std::int32_t>(state->origin),
                 block.segment_count * block.taps * state->padded, scratch->at);
    for (std::int64_t s = 0; s < block.segment_count; ++s) {
      set_zeros(*state, scratch->staged + s * state->staged_size);
    }
  }

  std::int64_t zeros_in_front(const MapRegion& region) const {
    return (std::int64_t{region.right} - region.left + 2) * step_;
  }

  std::int64_t staged_floats(const MapRegion& region) const {
    const std::int64_t width = std::int64_t{region.right} - region.left;
    return zeros_in_front(region) + (std::int64_t{region.bottom} - region.top) * width * step_;
  }

  bool fits(const MapRegion& region, std::int64_t segments) const {
    return segments * staged_floats(region) + kMaxChannels <= kStagedFloats;
  }

  // As much of a region as fits around the places where the tile would sample without offsets.
  MapRegion near_part(const MapRegion& region, const SumBlock& block,
                      const TaskState& state) const {
    const std::int64_t count = state.task.tile.count;
    const auto y = std::minmax_element(state.scratch->y_base, state.scratch->y_base + count);
    const auto x = std::minmax_element(state.scratch->x_base, state.scratch->x_base + count);
    const std::int64_t reach_h = (params_.kernel_h - 1) * params_.dilation_h + 2;
    const std::int64_t reach_w = (params_.kernel_w - 1) * params_.dilation_w + 2;
    const auto part = [&](std::int64_t margin_h, std::int64_t margin_w) {
      const auto clip = [](std::int64_t value, std::int32_t low, std::int32_t high) {
        return static_cast<std::int32_t>(std::clamp<std::int64_t>(value, low, high));
      };
      const MapRegion clipped = {clip(*y.first - margin_h, region.top, region.bottom),
                                 clip(*x.first - margin_w, region.left, region.right),
                                 clip(*y.second + reach_h + margin_h, region.top, region.bottom),
                                 clip(*x.second + reach_w + margin_w, region.left, region.right)};
      const bool empty = clipped.bottom <= clipped.top || clipped.right <= clipped.left;
      return empty ? MapRegion{0, 0, 0, 0} : clipped;
    };
    constexpr std::int64_t kWidestMargin = 64;
    for (std::int64_t margin = kWidestMargin; margin >= 0; --margin) {
      const MapRegion found = part(margin, margin);
      if (fits(found, block.segment_count)) return found;
    }
    // The taps alone lie far apart. What is left of the middle is better than nothing.
    for (std::int64_t less = 1; less < std::max(reach_h, reach_w); ++less) {
      const MapRegion found = part(-std::min(less, reach_h / 2), -std::min(less, reach_w / 2));
      if (fits(found, block.segment_count)) return found;
    }
    return {0, 0, 0, 0};
  }

  // The pixels of a staged map that lie beside the map, which no staging overwrites.
  void set_zeros(const TaskState& state, float* staged) const {
    const MapRegion& region = state.region;
    std::fill_n(staged, state.origin, 0.0f);
    const std::int64_t width = region.right - region.left;
    float* row = staged + state.origin;
    for (std::int32_t r = region.top; r < region.bottom; ++r, row += width * step_) {
      if (r < 0 || r >= params_.in_h) {
        std::fill_n(row, width * step_, 0.0f);
        continue;
      }
      if (region.left < 0) std::fill_n(row, step_, 0.0f);
      if (region.right > params_.in_w) std::fill_n(row + (width - 1) * step_, step_, 0.0f);
    }
  }

  // Finds out what is read after this block, and what is written. Guesses do: the next block reads
  // the same part of the map, the next tile one as far from it as the tiles are from each other.
  void look_ahead(const SumBlock& block, std::int64_t group, TaskState* state) const {
    state->map.clear();
    state->offsets.clear();
    state->masks.clear();
    state->output.clear();
    if (block.taps < groups_.taps) return;
    const Task& task = state->task;
    const std::int64_t channel = block.channel + block.channels;
    const std::int64_t end = (group + 1) * groups_.channels;
    if (channel < end) {
      look_ahead_in_map(task.tile.image, channel, std::min(block.channels, end - channel),
                        on_the_map(state->region), state);
      if (channel / groups_.offset_group_channels != block.segments[0].offset_group) {
        look_ahead_in_positions(task.tile, channel, block.segment_count, state);
      }
      return;
    }
    const std::int64_t first_row = group * groups_.rows + task.first_row;
    look_ahead_in_tile(tensors_.y, tensors_.dtype, task.tile,
                       task.tile.image * params_.out_channels + first_row,
                       task.end_row - task.first_row, &state->output);
    if (group + 1 < task.end_group) {
      look_ahead_in_map(task.tile.image, channel, block.channels, on_the_map(state->region), state);
      return;
    }
    if (state->index + 1 == plan_.count()) return;
    const Task next = plan_.task(state->index + 1);
    const std::int64_t first_channel = next.first_group * groups_.channels;
    MapRegion region = on_the_map(state->region);
    const auto top_of = [](const Tile& tile) { return tile.first / tile.width; };
    const auto down = (top_of(next.tile) - top_of(task.tile)) * params_.stride_h;
    const auto right = (next.tile.left - task.tile.left) * params_.stride_w;
    const auto move = [](std::int32_t* low, std::int32_t* high, std::int64_t by,
                         std::int64_t size) {
      *low = static_cast<std::int32_t>(std::clamp(*low + by, std::int64_t{0}, size));
      *high = static_cast<std::int32_t>(std::clamp(*high + by, std::int64_t{0}, size));
    };
    move(&region.top, &region.bottom, down, params_.in_h);
    move(&region.left, &region.right, right, params_.in_w);
    look_ahead_in_map(next.tile.image, first_channel, std::min(block.channels, groups_.channels),
                      region, state);
    look_ahead_in_positions(next.tile, first_channel, block.segment_count, state);
  }

  void look_ahead_in_map(std::int64_t image, std::int64_t channel, std::int64_t channels,
                         const MapRegion& region, TaskState* state) const {
    if (region.bottom <= region.top) return;
    const std::int64_t first =
        (image * params_.in_channels + channel) * plane_ + region.top * params_.in_w + region.left;
    const auto size = static_cast<std::int64_t>(size_of(tensors_.dtype));
    state->map.set(element(tensors_.x, tensors_.dtype, first), plane_ * size,
                   std::min(channels, params_.in_channels - channel), params_.in_w * size,
                   region.bottom - region.top, (region.right - region.left) * size);
  }

  void look_ahead_in_positions(const Tile& tile, std::int64_t channel, std::int64_t segments,
                               TaskState* state) const {
    const std::int64_t offset_group = channel / groups_.offset_group_channels;
    const std::int64_t places =
        std::min(segments, params_.offset_group - offset_group) * groups_.taps;
    const std::int64_t place = (tile.image * params_.offset_group + offset_group) * groups_.taps;
    look_ahead_in_tile(tensors_.offset, tensors_.offset_dtype, tile, 2 * place, 2 * places,
                       &state->offsets);
    if (tensors_.mask != nullptr) {
      look_ahead_in_tile(tensors_.mask, tensors_.mask_dtype, tile, place, places, &state->masks);
    }
  }

  // A tile's pixels in `planes` planes of the output's size.
  void look_ahead_in_tile(const void* base, DType dtype, const Tile& tile, std::int64_t plane,
                          std::int64_t planes, Lookahead* ahead) const {
    if (tile.count == 0) return;
    const auto size = static_cast<std::int64_t>(size_of(dtype));
    const std::int64_t top = tile.first / tile.width;
    const std::int64_t bottom = (tile.first + tile.count - 1) / tile.width + 1;
    ahead->set(element(base, dtype, plane * pixels_ + top * params_.out_w + tile.left),
               pixels_ * size, planes, params_.out_w * size, bottom - top, tile.width * size);
  }

  void load_positions(const void* base, DType dtype, std::int64_t index, std::int64_t count,
                      float* values) const {
    kernels_.load[static_cast<int>(dtype)](element(base, dtype, index), count, values);
  }

  void stage(const SumBlock& block, const TaskState& state) const {
    const MapRegion& region = state.region;
    const MapRegion on_map = on_the_map(region);
    const std::int64_t width = on_map.right - on_map.left;
    const std::int64_t pitch = region.right - region.left;
    const std::int64_t image_channel = state.task.tile.image * params_.in_channels + block.channel;
    for (std::int64_t s = 0; s < block.segment_count; ++s) {
      const Segment& segment = block.segments[s];
      const std::int64_t first = (image_channel + segment.channel) * plane_;
      float* staged = state.scratch->staged + s * state.staged_size + state.origin;
      for (std::int64_t row = on_map.top; row < on_map.bottom; ++row) {
        const std::int64_t pixel = (row - region.top) * pitch + on_map.left - region.left;
        stage_pixels(first + row * params_.in_w + on_map.left, segment.channels, width,
                     staged + pixel * step_, state.scratch->transposed);
      }
    }
  }

  MapRegion on_the_map(const MapRegion& region) const {
    return {std::max(region.top, 0), std::max(region.left, 0),
            std::min(region.bottom, static_cast<std::int32_t>(params_.in_h)),
            std::min(region.right, static_cast<std::int32_t>(params_.in_w))};
  }

  void stage_pixels(std::int64_t first, std::int64_t channels, std::int64_t count, float* staged,
                    float* converted) const {
    if (tensors_.dtype == DType::kFloat32) {
      loops_.gather(static_cast<const float*>(tensors_.x) + first, plane_, channels, count, staged,
                    step_);
      return;
    }
    constexpr std::int64_t kRun = kTransposedFloats / kMaxChannels;
    for (std::int64_t p = 0; p < count; p += kRun) {
      const std::int64_t run = std::min(kRun, count - p);
      for (std::int64_t c = 0; c < channels; ++c) {
        kernels_.load[static_cast<int>(tensors_.dtype)](
            element(tensors_.x, tensors_.dtype, first + c * plane_ + p), run, converted + c * kRun);
      }
      loops_.gather(converted, kRun, channels, run, staged + p * step_, step_);
    }
  }

  SamplePositions positions_of(const SumBlock& block, std::int64_t segment,
                               const TaskState& state) const {
    const std::int64_t sample = segment * block.taps * state.padded;
    return {state.scratch->at + 2 * sample, state.scratch->weight + 4 * sample};
  }

  StagedMap staged_map(std::int64_t segment, const TaskState& state) const {
    return {state.scratch->staged + segment * state.staged_size, step_,
            (state.region.right - state.region.left) * step_};
  }

  // The samples of a strip, as the panel's first `count` pixels.
  void sample(const SumBlock& block, std::int64_t first, std::int64_t count,
              const TaskState& state) const {
    for (std::int64_t s = 0; s < block.segment_count; ++s) {
      const Segment& segment = block.segments[s];
      const SamplePositions positions = positions_of(block, s, state);
      float* panel = state.scratch->panel + segment.column;
      loops_.sample(staged_map(s, state), segment.channels, positions, block.taps, state.padded,
                    first, count, panel);
      if (!state.far) continue;
      const std::int64_t channel =
          state.task.tile.image * params_.in_channels + block.channel + segment.channel;
      const Planes planes{element(tensors_.x, tensors_.dtype, channel * plane_), plane_,
                          static_cast<std::int32_t>(params_.in_h),
                          static_cast<std::int32_t>(params_.in_w)};
      loops_.sample_far[static_cast<int>(tensors_.dtype)](
          planes, segment.channels, positions, block.taps, state.padded, first, count, panel);
    }
  }

  // Writes columns of sums[pixel][sums_stride] to the output channels first, first + step, ...
  void store(const Task& task, std::int64_t first, std::int64_t step, std::int64_t channels,
             const float* sums, std::int64_t sums_stride, Scratch* scratch) const {
    const std::int64_t y = (task.tile.image * params_.out_channels + first) * pixels_;
    for_each_run(task.tile, [&](std::int64_t p, std::int64_t pixel, std::int64_t count) {
      const float* source = sums + p * sums_stride;
      if (tensors_.dtype == DType::kFloat32) {
        loops_.scatter(source, sums_stride, count, channels,
                       static_cast<float*>(tensors_.y) + y + pixel, step * pixels_);
        return;
      }
      constexpr std::int64_t kRows = kTransposedFloats / kMaxTilePixels;
      for (std::int64_t c = 0; c < channels; c += kRows) {
        const std::int64_t rows = std::min(kRows, channels - c);
        loops_.scatter(source + c, sums_stride, count, rows, scratch->transposed, kMaxTilePixels);
        for (std::int64_t row = 0; row < rows; ++row) {
          kernels_.store[static_cast<int>(tensors_.dtype)](
              scratch->transposed + row * kMaxTilePixels, 0.0f, count,
              const_cast<char*>(
                  element(tensors_.y, tensors_.dtype, y + (c + row) * step * pixels_ + pixel)));
        }
      }
    });
  }

  const DeformConv2dParams& params_;
  const DeformConv2dTensors& tensors_;
  const PackedDeformConv2dWeights& packed_;
  const Kernels& kernels_;
  const DeformConv2dKernels& loops_;
  const Groups groups_;
  const Plan plan_;
  const std::int64_t pixels_;  // of an output channel
  const std::int64_t plane_;   // pixels of a channel of X
  const std::int64_t step_;    // floats of a pixel of a segment's staged map
  std::atomic<bool> out_of_memory_{false};
};

}  // namespace

std::size_t scratch_bytes_per_thread() { return sizeof(Scratch); }

Status deform_conv2d(const DeformConv2dParams& params, const DeformConv2dTensors& tensors,
                     const PackedDeformConv2dWeights& packed, const ParallelFor& parallel_for) {
  DCN_DEPLOY_RETURN_IF_ERROR(check_floating_point(
      {{"X", tensors.dtype}, {"offset", tensors.offset_dtype}, {"mask", tensors.mask_dtype}}));
  if (params.batch == 0) return {};
  DeformConv2dCall call(params, tensors, packed);
  parallel_for(call.count(), &DeformConv2dCall::run, &call);
  return call.out_of_memory() ? out_of_scratch() : Status{};
}

}  // namespace cpu
}  // namespace dcn_deploy
