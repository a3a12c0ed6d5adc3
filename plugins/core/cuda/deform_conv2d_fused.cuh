// The fused kernel: deformable convolution as one product whose right-hand side is sampled as it is
// needed.
//
// A block computes kRows output channels of one group × kPixels output pixels (of all images, one
// after the other). The sum runs over steps of one tap × chunk_channels channels, taps outermost,
// so that where a tap samples is computed once for all channels of an offset group. A step's
// right-hand side [pixel][channel] is made by the block's threads, four reads and four
// multiply-adds an element, and goes straight to shared memory as the tensor cores read it; nothing
// of the size of the map is ever written. The weights of a step come by asynchronous copies,
// kStages steps ahead.
//
//   iteration s:  interpolate the samples of step s (read in iteration s - 1)   → shared memory,
//   buffer s % 2
//                 ── barrier ──
//                 begin to copy the weights of step s + kStages - 1
//                 begin to read the samples of step s + 1                       → registers
//                 begin to read where step s + 2 samples, if its tap or offset group is another
//                 multiply step s
//                 locate the samples of step s + 2
//
// Where tiles are fewer than multiprocessors, several blocks share a tile: they are a cluster, each
// has a part of the steps, and in the end each adds up the sums of all for a part of the tile,
// which it reads from the others' shared memory. In the same order always, so that every run gives
// the same bits.
//
// One barrier a step is enough: what is written behind it is read behind the next one, and what is
// overwritten was last read before it.
//
// Rows of both operands in shared memory are 64 bytes long, four units of 16 bytes, swizzled so
// that the eight rows that ldmatrix reads at a time lie in different banks.

#ifndef DCN_DEPLOY_CORE_CUDA_DEFORM_CONV2D_FUSED_CUH_
#define DCN_DEPLOY_CORE_CUDA_DEFORM_CONV2D_FUSED_CUH_

#include "core/cuda/deform_conv2d_kernel.h"
#include "core/cuda/deform_conv2d_output.cuh"
#include "core/cuda/deform_conv2d_places.cuh"
#include "core/cuda/device.cuh"
#include "core/cuda/number.cuh"
#include "core/cuda/sampling.cuh"

namespace dcn_deploy {
namespace cuda {

constexpr int kUnitBytes = 16;
constexpr int kRowUnits = 4;
constexpr int kRowBytes = kUnitBytes * kRowUnits;
constexpr int kStages = 3;

// Offset groups of a step where these are narrower than a step; one more where they do not begin
// with it.
constexpr int kMaxOffsetSlots = 4;

// Rows of the output that the epilogue holds at a time.
constexpr int kEpilogueRows = 64;

// How samples and weights are held in shared memory and multiplied, for features of `Storage`.
//
//   Sum          what products are added to
//   kElements    of a unit of 16 bytes
//   pack()       kElements float32 values → a unit
struct TensorFloat16 {
  using Storage = Float16;
  using Sum = float;
  static constexpr int kElements = 8;
  static constexpr bool kUsesTensorCores = true;
  static __device__ __forceinline__ void pack(const float (&v)[8], uint32_t (&unit)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) unit[i] = Float16::store_pair(v[2 * i], v[2 * i + 1]);
  }
  static __device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4],
                                                  const uint32_t (&b)[2]) {
    mma_f16_16816(d, a, b);
  }
};

struct TensorBFloat16 {
  using Storage = BFloat16;
  using Sum = float;
  static constexpr int kElements = 8;
  static constexpr bool kUsesTensorCores = true;
  static __device__ __forceinline__ void pack(const float (&v)[8], uint32_t (&unit)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) unit[i] = BFloat16::store_pair(v[2 * i], v[2 * i + 1]);
  }
  static __device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4],
                                                  const uint32_t (&b)[2]) {
    mma_bf16_16816(d, a, b);
  }
};

struct TensorTf32 {
  using Storage = Float32;
  using Sum = float;
  static constexpr int kElements = 4;
  static constexpr bool kUsesTensorCores = true;
  static __device__ __forceinline__ void pack(const float (&v)[4], uint32_t (&unit)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) unit[i] = to_tf32(float_to_bits(v[i]));
  }
  static __device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4],
                                                  const uint32_t (&b)[2]) {
    mma_tf32_1688(d, a, b);
  }
};

template <typename T>
struct Simt {
  using Storage = T;
  using Sum = float;
  static constexpr int kElements = 4;
  static constexpr bool kUsesTensorCores = false;
  static __device__ __forceinline__ void pack(const float (&v)[4], uint32_t (&unit)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) unit[i] = float_to_bits(v[i]);
  }
};

struct TensorInt8 {
  using Storage = Int8;
  using Sum = int32_t;
  static constexpr int kElements = 16;
  static constexpr bool kUsesTensorCores = true;
  static __device__ __forceinline__ void pack(const float (&v)[16], uint32_t (&unit)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      unit[i] = Int8::store_four(v[4 * i], v[4 * i + 1], v[4 * i + 2], v[4 * i + 3]);
    }
  }
  static __device__ __forceinline__ void multiply(int32_t (&d)[4], const uint32_t (&a)[4],
                                                  const uint32_t (&b)[2]) {
    mma_s8_16832(d, a, b);
  }
};

// Whole numbers in float32, whose partial sums are exact: 256 products of at most 2^14 each.
struct SimtInt8 {
  using Storage = Int8;
  using Sum = float;
  static constexpr int kElements = 4;
  static constexpr bool kUsesTensorCores = false;
  static __device__ __forceinline__ void pack(const float (&v)[4], uint32_t (&unit)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) unit[i] = float_to_bits(Int8::round(v[i]));
  }
};

// Byte offset of a unit in an operand's tile.
__device__ __forceinline__ int unit_offset(int row, int unit) {
  return row * kRowBytes + ((unit ^ ((row >> 1) & 3)) * kUnitBytes);
}

// Sizes of the parts of a block's shared memory. The host asks too.
template <int kRows, int kPixels>
struct FusedShared {
  static constexpr int kWeights = kStages * kRows * kRowBytes;
  static constexpr int kSamples = 2 * kPixels * kRowBytes;
  static constexpr int kPixelInfo = kPixels * static_cast<int>(sizeof(Vec16));
  static constexpr int kEpiloguePitch = kPixels + 1;
  static constexpr int kEpilogue = (kRows < kEpilogueRows ? kRows : kEpilogueRows) *
                                   kEpiloguePitch * static_cast<int>(sizeof(float));
  // Corners of one buffer, for so many offset groups.
  static constexpr int corners(int slots) {
    return 2 * slots * kPixels * static_cast<int>(sizeof(Vec16));
  }
  // Corners of one place more.
  static constexpr int kNowhere = (kPixels + 1) * static_cast<int>(sizeof(Vec16));
  static constexpr int bytes(int slots) {
    // The epilogue uses the operands' part again.
    return (kWeights + kSamples > kEpilogue ? kWeights + kSamples : kEpilogue) + kPixelInfo +
           2 * corners(slots) + kNowhere;
  }
};

// How the channels of a unit, neighbours in shared memory, are read from X.
enum class Access {
  kUnit,     // at once: NHWC with whole units
  kElement,  // one by one, in either layout
};

template <typename Math, int kRows, int kPixels, int kWarpRows, int kWarpPixels, Access kAccess>
class FusedDeformConv2d {
 public:
  static constexpr int kWarpsAlongRows = kRows / kWarpRows;
  static constexpr int kThreads = kWarpsAlongRows * (kPixels / kWarpPixels) * kWarpSize;
  // As many blocks on a multiprocessor as hide what one of them waits for, as far as none spills.
  static constexpr int kBlocks = !Math::kUsesTensorCores    ? 1
                                 : kAccess == Access::kUnit ? 512 / kThreads
                                 : kRows == 128 && sizeof(typename Math::Storage::Bits) > 1 ? 2
                                                                                            : 1;

  __device__ __forceinline__ explicit FusedDeformConv2d(const DeformConv2dArguments& arguments,
                                                        unsigned char* shared)
      : a_(arguments),
        weights_(shared),
        samples_(shared + Shared::kWeights),
        pixel_info_(reinterpret_cast<Vec16*>(shared + kOperandBytes)),
        corners_(reinterpret_cast<Vec16*>(shared + kOperandBytes + Shared::kPixelInfo)),
        epilogue_(reinterpret_cast<Total*>(shared)),
        thread_(threadIdx.x) {
    const int matrix = lane() / 8;
    weights_of_warp_ = kept(unit_offset(warp_row() + lane() % 16, lane() / 16));
    samples_of_warp_ = kept(unit_offset(warp_pixel() + matrix / 2 * 8 + lane() % 8, matrix % 2));
    sample_of_thread_ = kept(unit_offset(pixel_of(0), unit_of(0)));
  }

  __device__ __forceinline__ void run() {
    // Blocks that share their pixels come one after the other, so that the features they read are
    // still in the cache.
    const int64_t block = blockIdx.x / a_.splits;
    const int row_blocks = a_.group * a_.row_tiles;
    const int row_block = static_cast<int>(block % row_blocks);
    first_pixel_ = block / row_blocks * kPixels;
    group_ = row_block / a_.row_tiles;
    first_row_ = static_cast<int64_t>(row_block % a_.row_tiles) * kRows;
    // Of the sum's steps, this block's.
    int first_step = 0;
    int steps = a_.taps * a_.chunks;
    if (a_.splits > 1) {
      // Whichever of the cluster's blocks this is for the device: each has a share of its own.
      rank_ = static_cast<int>(blockIdx.x % a_.splits);
      const int share = steps / a_.splits;
      const int longer = steps % a_.splits;  // so many blocks have one more
      first_step = share * rank_ + (rank_ < longer ? rank_ : longer);
      steps = share + (rank_ < longer ? 1 : 0);
    }
    set_pixel_info();
    set_weights(first_step);
    set_nowhere();
    block_barrier();

    // Whose corners are in buffer `buffer`.
    Step located = step_of(first_step / a_.chunks, first_step % a_.chunks);
    int buffer = 0;
    set_maps(located.chunk);
    locate(located, buffer, begin_to_locate(located));
    for (int stage = 0; stage < kStages - 1; ++stage) {
      if (stage < steps) copy_weights(stage);
      copy_async_commit();
    }
    block_barrier();
    read_samples(located, buffer);
    if (steps > 1 && advance(located)) {
      locate(located, buffer ^= 1, begin_to_locate(located));
    }
    int stage = 0;
    int stage_ahead = kStages - 1;
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
      write_samples(step & 1);
      if (!DCN_DEPLOY_FAULT(4)) copy_async_wait<kStages - 2>();
      if (!DCN_DEPLOY_FAULT(1)) block_barrier();
      if (step + kStages - 1 < steps) copy_weights(stage_ahead);
      copy_async_commit();
      bool locating = false;
      Places places;
      if (step + 1 < steps) {
        move_maps(located);
        read_samples(located, buffer);
        locating = step + 2 < steps && advance(located);
        if (locating) places = begin_to_locate(located);
      }
      multiply(stage, step & 1);
      if (locating) locate(located, buffer ^= 1, places);
      stage = stage + 1 == kStages ? 0 : stage + 1;
      stage_ahead = stage_ahead + 1 == kStages ? 0 : stage_ahead + 1;
      if (!Math::kUsesTensorCores && (step + 1) % kStepsOfPartialSum == 0) add_partial_sums();
    }
    if (!Math::kUsesTensorCores) add_partial_sums();
    store();
  }

  // As many as there are registers for.
  static constexpr int kResidentBlocks = kThreads == 256                             ? kBlocks
                                         : !Math::kUsesTensorCores                   ? 2
                                         : kAccess == Access::kUnit || kPixels == 32 ? 4
                                                                                     : 2;

 private:
  using Storage = typename Math::Storage;
  using Bits = typename Storage::Bits;
  using Sum = typename Math::Sum;
  using Total = typename Output<Storage>::Sum;
  using Shared = FusedShared<kRows, kPixels>;

  static constexpr int kElements = Math::kElements;
  static constexpr int kOperandBytes = Shared::kWeights + Shared::kSamples > Shared::kEpilogue
                                           ? Shared::kWeights + Shared::kSamples
                                           : Shared::kEpilogue;
  static constexpr int kSampleUnits = kPixels * kRowUnits / kThreads;  // of a thread
  // Of a thread, where a step is in kMaxOffsetSlots offset groups.
  static constexpr int kPlaces = (kMaxOffsetSlots * kPixels + kThreads - 1) / kThreads;
  static_assert(kPixels * kRowUnits % kThreads == 0, "every thread makes equally many units");
  static_assert(kRows * kRowUnits % kThreads == 0, "every thread copies equally many units");
  // Words of 32 bits that hold a unit's elements as they are stored. An element that is read alone
  // has a word of its own: putting several into one would wait for each before the next is read.
  // Bytes would need more registers than there are.
  static constexpr int kPerWord =
      kAccess == Access::kUnit || sizeof(Bits) == 1 ? 4 / static_cast<int>(sizeof(Bits)) : 1;
  static constexpr int kWords = kElements / kPerWord;
  // Sums of a thread: 16 × 8 blocks of four with tensor cores, single ones without.
  static constexpr int kBlocksAlongRows = Math::kUsesTensorCores ? kWarpRows / 16 : kWarpRows / 8;
  static constexpr int kBlocksAlongPixels =
      Math::kUsesTensorCores ? kWarpPixels / 8 : kWarpPixels / 4;
  static constexpr int kBlockSums = Math::kUsesTensorCores ? 4 : 1;

  // Exact float32: the error of a sum grows with its longest chain of additions, so this many steps
  // are summed apart.
  static constexpr int kStepsOfPartialSum = 16;
  static constexpr int kTotalsAlongRows = Math::kUsesTensorCores ? 1 : kBlocksAlongRows;
  static constexpr int kTotalsAlongPixels = Math::kUsesTensorCores ? 1 : kBlocksAlongPixels;

  struct Step {
    int tap;
    int chunk;
    // Offset groups that its channels are in.
    int first_group;
    int last_group;
  };

  __device__ __forceinline__ Step step_of(int tap, int chunk) const {
    Step step{tap, chunk, 0, 0};
    if (a_.offset_group > 1) {
      step.first_group = offset_group_of(first_channel(step));
      step.last_group = a_.offset_slots > 1
                            ? offset_group_of(first_channel(step) + channels(step) - 1)
                            : step.first_group;
    }
    return step;
  }

  __device__ __forceinline__ void add_partial_sums() {
#pragma unroll
    for (int i = 0; i < kTotalsAlongRows; ++i) {
#pragma unroll
      for (int j = 0; j < kTotalsAlongPixels; ++j) {
        totals_[i][j] += static_cast<Total>(sums_[i][j][0]);
        sums_[i][j][0] = Sum{0};
      }
    }
  }

  // To the step that follows; true if that has other corners.
  __device__ __forceinline__ bool advance(Step& step) const {
    bool differs = false;
    if (++step.chunk == a_.chunks) {
      step.chunk = 0;
      ++step.tap;
      differs = true;
    }
    if (a_.offset_group > 1) {
      const Step next = step_of(step.tap, step.chunk);
      differs =
          differs || next.first_group != step.first_group || next.last_group != step.last_group;
      step = next;
    }
    return differs;
  }

  // First channel of a step, counted over all of X, and how many it has.
  __device__ __forceinline__ int first_channel(Step step) const {
    return group_ * a_.group_channels + step.chunk * a_.chunk_channels;
  }
  __device__ __forceinline__ int channels(Step step) const {
    const int left = a_.group_channels - step.chunk * a_.chunk_channels;
    return left < a_.chunk_channels ? left : a_.chunk_channels;
  }
  __device__ __forceinline__ int offset_group_of(int channel) const {
    return cuda::offset_group_of(a_, channel);
  }
  // Whether a step has the channel at `in_chunk`, and which of the step's offset groups that is in.
  __device__ __forceinline__ bool has_channel(Step step, int in_chunk) const {
    return in_chunk < channels(step);
  }
  __device__ __forceinline__ int slot_of(Step step, int in_chunk) const {
    return offset_group_of(first_channel(step) + in_chunk) - step.first_group;
  }

  __device__ __forceinline__ void set_pixel_info() {
    for (unsigned i = thread_; i < kPixels; i += kThreads) {
      shared_store(&pixel_info_[i], pixel_info(a_, first_pixel_ + i));
    }
  }

  // Where in `corners_` the pixels of a place's corners are; their weights are kPixels further.
  __device__ __forceinline__ int corner_index(int buffer, int slot, int pixel) const {
    return (buffer * a_.offset_slots + slot) * 2 * kPixels + pixel;
  }

  // Corners of a unit without channels: it is read as zeros and has weights of zero.
  __device__ __forceinline__ int nowhere_index() const { return 4 * a_.offset_slots * kPixels; }
  __device__ __forceinline__ void set_nowhere() {
    if (thread_ > 0) return;
    shared_store(corners_ + nowhere_index(), corners_nowhere().pixels);
    shared_store(corners_ + nowhere_index() + kPixels, corners_nowhere().weights);
  }

  // Places of a step: one for every pixel and every offset group that the step touches.
  __device__ __forceinline__ int places(Step step) const {
    return (step.last_group - step.first_group + 1) * kPixels;
  }

  // What the inputs say of this thread's first places, read before it is needed. Most often there
  // are no others.
  struct Places {
    PlaceBits bits[kPlaces];
  };

  __device__ __forceinline__ Places begin_to_locate(Step step) const {
    Places first;
    const int count = places(step);
#pragma unroll
    for (int i = 0; i < kPlaces; ++i) {
      const int place = static_cast<int>(thread_) + i * kThreads;
      first.bits[i] = place < count ? read_place_of(step, place) : PlaceBits{};
    }
    return first;
  }

  __device__ __forceinline__ PlaceBits read_place_of(Step step, int place) const {
    return read_place(a_, shared_load(&pixel_info_[place % kPixels]),
                      step.first_group + place / kPixels, step.tap);
  }

  __device__ __forceinline__ void locate(Step step, int buffer, const Places& first) {
    const int count = places(step);
#pragma unroll
    for (int i = 0; i < kPlaces; ++i) {
      const int place = static_cast<int>(thread_) + i * kThreads;
      if (place < count) store_corners(step, buffer, place, first.bits[i]);
    }
#pragma unroll 1
    for (int place = static_cast<int>(thread_) + kPlaces * kThreads; place < count;
         place += kThreads) {
      store_corners(step, buffer, place, read_place_of(step, place));
    }
  }

  __device__ __forceinline__ void store_corners(Step step, int buffer, int place,
                                                const PlaceBits& bits) {
    const int pixel = place % kPixels;
    const Corners corners = corners_at(a_, shared_load(&pixel_info_[pixel]), step.tap, bits);
    Vec16* at = corners_ + corner_index(buffer, place / kPixels, pixel);
    shared_store(at, corners.pixels);
    shared_store(at + kPixels, corners.weights);
  }

  // A thread's unit number `i`. Neighbouring threads read neighbouring channels where a unit is
  // read at once, else neighbouring pixels.
  __device__ __forceinline__ int unit_of(int i) const {
    const unsigned index = thread_ + i * kThreads;
    return static_cast<int>(kAccess == Access::kUnit ? index % kRowUnits : index / kPixels);
  }
  __device__ __forceinline__ int pixel_of(int i) const {
    const unsigned index = thread_ + i * kThreads;
    return static_cast<int>(kAccess == Access::kUnit ? index / kRowUnits : index % kPixels);
  }

  // Where in X this thread's units of a chunk are, at pixel 0 of their images.
  __device__ __forceinline__ void set_maps(int chunk) {
    const int64_t image_bytes =
        static_cast<int64_t>(a_.in_channels) * a_.in_h * a_.in_w * static_cast<int>(sizeof(Bits));
#pragma unroll
    for (int i = 0; i < kSampleUnits; ++i) {
      const int32_t image = static_cast<int32_t>(shared_load(&pixel_info_[pixel_of(i)]).x);
      const int channel = group_ * a_.group_channels + unit_of(i) * kElements;
      // Of a pixel that does not exist nothing is read.
      maps_[i] = static_cast<const unsigned char*>(a_.x) +
                 (image == kOutside ? 0 : image * image_bytes) + channel * a_.channel_bytes +
                 chunk * a_.chunk_bytes;
    }
  }

  // From the channels of the step before to those of this one.
  __device__ __forceinline__ void move_maps(Step step) {
    const int64_t bytes = step.chunk == 0 ? -a_.last_chunk_bytes : a_.chunk_bytes;
#pragma unroll
    for (int i = 0; i < kSampleUnits; ++i) maps_[i] += bytes;
  }

  static __device__ __forceinline__ int32_t component(const Vec16& v, int corner) {
    return static_cast<int32_t>(corner == 0 ? v.x : corner == 1 ? v.y : corner == 2 ? v.z : v.w);
  }

  // Reads the four corners of this thread's units of a step into registers, as they are stored.
  __device__ __forceinline__ void read_samples(Step step, int buffer) {
    if constexpr (kAccess == Access::kElement) {
      reading_ = step;
      reading_buffer_ = buffer;
    }
#pragma unroll
    for (int i = 0; i < kSampleUnits; ++i) {
#pragma unroll
      for (int corner = 0; corner < 4; ++corner) {
#pragma unroll
        for (int word = 0; word < kWords; ++word) raw_[i][corner][word] = 0;
      }
      const int in_chunk = unit_of(i) * kElements;
      int slot = 0;
      corners_of_unit_[i] = corner_index(buffer, 0, pixel_of(i));
      if (!a_.plain_chunks) {
        slot = slot_of(step, in_chunk);
        corners_of_unit_[i] =
            has_channel(step, in_chunk) ? corner_index(buffer, slot, pixel_of(i)) : nowhere_index();
      }
      Vec16 pixels = shared_load(corners_ + corners_of_unit_[i]);
      if constexpr (kAccess == Access::kUnit) {
#pragma unroll
        for (int corner = 0; corner < 4; ++corner) {
          const int32_t at = component(pixels, corner);
          read_unit(maps_[i] + bytes_to(at), at != kOutside, raw_[i][corner]);
        }
      } else if (a_.whole_units) {
#pragma unroll
        for (int corner = 0; corner < 4; ++corner) {
          const int32_t at = component(pixels, corner);
          const unsigned char* source = maps_[i] + bytes_to(at);
#pragma unroll
          for (int e = 0; e < kElements; ++e) {
            if (at != kOutside) read_element(source, raw_[i][corner], e);
            source += a_.channel_bytes;
          }
        }
      } else {
#pragma unroll
        for (int e = 0; e < kElements; ++e) {
          if (!has_channel(step, in_chunk + e)) break;
          const int own = slot_of(step, in_chunk + e);
          if (own != slot) {
            slot = own;
            pixels = shared_load(corners_ + corner_index(buffer, slot, pixel_of(i)));
          }
#pragma unroll
          for (int corner = 0; corner < 4; ++corner) {
            const int32_t at = component(pixels, corner);
            if (at == kOutside) continue;
            read_element(maps_[i] + e * a_.channel_bytes + bytes_to(at), raw_[i][corner], e);
          }
        }
      }
    }
  }

  static __device__ __forceinline__ void read_element(const unsigned char* source,
                                                      uint32_t (&words)[kWords], int e) {
    const uint32_t bits = *reinterpret_cast<const Bits*>(source);
    if constexpr (kPerWord == 1) {
      words[e] = bits;
    } else {
      words[e / kPerWord] |= bits << (e % kPerWord * (32 / kPerWord));
    }
  }

  // From a map's first pixel to another.
  __device__ __forceinline__ uint64_t bytes_to(int32_t pixel) const {
    return static_cast<uint64_t>(static_cast<uint32_t>(pixel)) * a_.pixel_bytes;
  }

  // Zeros if it does not exist.
  static __device__ __forceinline__ void read_unit(const unsigned char* source, bool exists,
                                                   uint32_t (&words)[kWords]) {
    if constexpr (kWords == 4) {
      const Vec16 v = global_load_16(source, exists);
      words[0] = v.x;
      words[1] = v.y;
      words[2] = v.z;
      words[3] = v.w;
    } else if (exists) {
      if constexpr (kWords == 1) {
        words[0] = *reinterpret_cast<const uint32_t*>(source);
      } else {
        const Vec8 v = *reinterpret_cast<const Vec8*>(source);
        words[0] = v.x;
        words[1] = v.y;
      }
    }
  }

  __device__ __forceinline__ float raw_element(int i, int corner, int e) const {
    if constexpr (sizeof(Bits) == 1) {
      return Storage::load_from(raw_[i][corner][e / kPerWord], e % kPerWord);
    } else {
      return Storage::load(static_cast<Bits>(raw_[i][corner][e / kPerWord] >>
                                             (e % kPerWord * (32 / kPerWord) % 32)));
    }
  }

  __device__ __forceinline__ float interpolate(int i, int e, const Vec16& weights) const {
    return bits_to_float(weights.x) * raw_element(i, 0, e) +
           bits_to_float(weights.y) * raw_element(i, 1, e) +
           bits_to_float(weights.z) * raw_element(i, 2, e) +
           bits_to_float(weights.w) * raw_element(i, 3, e);
  }

  // Byte offset of this thread's unit in a tile of samples.
  __device__ __forceinline__ int offset_of_sample(int i) const {
    return kAccess == Access::kUnit ? sample_of_thread_ + i * (kThreads / kRowUnits) * kRowBytes
                                    : sample_of_thread_ ^ i * (kThreads / kPixels) * kUnitBytes;
  }

  // Interpolates what read_samples has read, and writes it to one of the two tiles of samples.
  __device__ __forceinline__ void write_samples(int tile) {
#pragma unroll
    for (int i = 0; i < kSampleUnits; ++i) {
      Vec16 weights = shared_load(corners_ + corners_of_unit_[i] + kPixels);
      float values[kElements];
      if (kAccess == Access::kUnit || a_.whole_units) {
#pragma unroll
        for (int e = 0; e < kElements; ++e) values[e] = interpolate(i, e, weights);
      } else {
        const int in_chunk = unit_of(i) * kElements;
        int slot = slot_of(reading_, in_chunk);
#pragma unroll
        for (int e = 0; e < kElements; ++e) {
          values[e] = 0.0f;
          if (!has_channel(reading_, in_chunk + e)) continue;
          const int own = slot_of(reading_, in_chunk + e);
          if (own != slot) {
            slot = own;
            weights =
                shared_load(corners_ + corner_index(reading_buffer_, slot, pixel_of(i)) + kPixels);
          }
          values[e] = interpolate(i, e, weights);
        }
      }
      uint32_t unit[4];
      Math::pack(values, unit);
      shared_store(
          reinterpret_cast<Vec16*>(samples_ + tile * kPixels * kRowBytes + offset_of_sample(i)),
          Vec16{unit[0], unit[1], unit[2], unit[3]});
    }
  }

  // Weights are packed as [group][tap][chunk][padded_rows][kRowBytes], so steps follow each other.
  __device__ __forceinline__ void set_weights(int first_step) {
    const int row = static_cast<int>(thread_ / kRowUnits);
    const int64_t first =
        (static_cast<int64_t>(group_) * a_.taps * a_.chunks + first_step) * a_.padded_rows +
        first_row_ + row;
    next_weights_ = static_cast<const unsigned char*>(a_.packed) + first * kRowBytes +
                    thread_ % kRowUnits * kUnitBytes;
  }

  // Begins to copy the weights of the next step. Rows beyond the last are those of the step that
  // follows in memory: what becomes of them is not stored.
  __device__ __forceinline__ void copy_weights(int stage) {
    constexpr int kRowsAtOnce = kThreads / kRowUnits;
    static_assert(kRowsAtOnce % 8 == 0, "a thread's units are swizzled alike");
    unsigned char* target =
        weights_ + stage * kRows * kRowBytes +
        (kAccess == Access::kUnit ? sample_of_thread_
                                  : unit_offset(static_cast<int>(thread_ / kRowUnits),
                                                static_cast<int>(thread_ % kRowUnits)));
    copy_async_16<kRows / kRowsAtOnce, kRowsAtOnce * kRowBytes>(target, next_weights_);
    next_weights_ += a_.step_bytes;
  }

  __device__ __forceinline__ int lane() const { return static_cast<int>(thread_ % kWarpSize); }
  __device__ __forceinline__ int warp_row() const {
    return static_cast<int>(thread_ / kWarpSize % kWarpsAlongRows) * kWarpRows;
  }
  __device__ __forceinline__ int warp_pixel() const {
    return static_cast<int>(thread_ / kWarpSize / kWarpsAlongRows) * kWarpPixels;
  }

  __device__ __forceinline__ void multiply(int stage, int tile) {
    const unsigned char* weights = weights_ + stage * kRows * kRowBytes;
    const unsigned char* samples = samples_ + tile * kPixels * kRowBytes;
    if constexpr (Math::kUsesTensorCores) {
      multiply_tensor(weights, samples);
    } else {
      multiply_simt(weights, samples);
    }
  }

  __device__ __forceinline__ void multiply_tensor(const unsigned char* weights,
                                                  const unsigned char* samples) {
    // This lane's rows of the first matrices of both operands. Those of the others are swizzled
    // alike, and a step of two units changes one bit.
    static_assert(kWarpRows % 8 == 0 && kWarpPixels % 8 == 0, "matrices are swizzled alike");
#pragma unroll
    for (int half = 0; half < kRowUnits / 2; ++half) {
      // Two units: 32 elements of 8 bits, 16 of 16, 8 of 32.
      const unsigned char* half_weights = weights + (weights_of_warp_ ^ half * 2 * kUnitBytes);
      const unsigned char* half_samples = samples + (samples_of_warp_ ^ half * 2 * kUnitBytes);
      uint32_t b[kBlocksAlongPixels][2];
#pragma unroll
      for (int j = 0; j < kBlocksAlongPixels; j += 2) {
        uint32_t r[4];
        load_matrix_x4(r, half_samples + j * 8 * kRowBytes);
        b[j][0] = r[0];
        b[j][1] = r[1];
        b[j + 1][0] = r[2];
        b[j + 1][1] = r[3];
        if (DCN_DEPLOY_FAULT(3)) {
          b[j][0] = r[1];
          b[j][1] = r[0];
        }
      }
#pragma unroll
      for (int i = 0; i < kBlocksAlongRows; ++i) {
        uint32_t a[4];
        load_matrix_x4(a, half_weights + i * 16 * kRowBytes);
#pragma unroll
        for (int j = 0; j < kBlocksAlongPixels; ++j) Math::multiply(sums_[i][j], a, b[j]);
      }
    }
  }

  __device__ __forceinline__ void multiply_simt(const unsigned char* weights,
                                                const unsigned char* samples) {
#pragma unroll
    for (int unit = 0; unit < kRowUnits; ++unit) {
      float b[kBlocksAlongPixels][4];
#pragma unroll
      for (int j = 0; j < kBlocksAlongPixels; ++j) {
        const int pixel = warp_pixel() + lane() % 4 + 4 * j;
        unpack(shared_load(reinterpret_cast<const Vec16*>(samples + unit_offset(pixel, unit))),
               b[j]);
      }
#pragma unroll
      for (int i = 0; i < kBlocksAlongRows; ++i) {
        float a[4];
        const int row = warp_row() + lane() / 4 + 8 * i;
        unpack(shared_load(reinterpret_cast<const Vec16*>(weights + unit_offset(row, unit))), a);
#pragma unroll
        for (int j = 0; j < kBlocksAlongPixels; ++j) {
#pragma unroll
          for (int e = 0; e < 4; ++e) sums_[i][j][0] += a[e] * b[j][e];
        }
      }
    }
  }

  static __device__ __forceinline__ void unpack(const Vec16& v, float (&values)[4]) {
    values[0] = bits_to_float(v.x);
    values[1] = bits_to_float(v.y);
    values[2] = bits_to_float(v.z);
    values[3] = bits_to_float(v.w);
  }

  // Adds the bias and writes the sums, kEpilogueRows rows at a time through shared memory, so that
  // neighbouring threads write neighbouring elements in either layout. The blocks of a cluster
  // write a part of them each.
  __device__ __forceinline__ void store() {
#pragma unroll 1
    for (int slab = 0; slab < kRows; slab += kEpilogueRows) {
      block_barrier();
#pragma unroll
      for (int i = 0; i < kBlocksAlongRows; ++i) {
#pragma unroll
        for (int j = 0; j < kBlocksAlongPixels; ++j) {
#pragma unroll
          for (int s = 0; s < kBlockSums; ++s) {
            int row;
            int pixel;
            if (Math::kUsesTensorCores) {
              row = warp_row() + i * 16 + lane() / 4 + s / 2 * 8;
              pixel = warp_pixel() + j * 8 + lane() % 4 * 2 + s % 2;
            } else {
              row = warp_row() + lane() / 4 + 8 * i;
              pixel = warp_pixel() + lane() % 4 + 4 * j;
            }
            if (row >= slab && row < slab + kEpilogueRows) {
              const Total sum = Math::kUsesTensorCores
                                    ? static_cast<Total>(sums_[i][j][s])
                                    : totals_[i % kTotalsAlongRows][j % kTotalsAlongPixels];
              shared_store(&epilogue_[(row - slab) * Shared::kEpiloguePitch + pixel], sum);
            }
          }
        }
      }
      if (a_.splits > 1) {
        if (!DCN_DEPLOY_FAULT(8)) cluster_barrier();
      } else {
        block_barrier();
      }
      if (a_.y_is_nhwc) {
        store_channels(slab);
      } else {
        store_pixels(slab);
      }
      // What is here has been read by the others, too.
      if (a_.splits > 1 && !DCN_DEPLOY_FAULT(9)) cluster_barrier();
    }
  }

  // An element of the slab: of the sums of all blocks that share the tile.
  __device__ __forceinline__ Total total(int row, int pixel) const {
    const Total* at = &epilogue_[row * Shared::kEpiloguePitch + pixel];
    if (a_.splits == 1) return shared_load(at);
    Total sum = cluster_load(at, 0);
    for (int rank = 1; rank < a_.splits; ++rank) sum += cluster_load(at, rank);
    return sum;
  }

  static constexpr int kSlab = kRows < kEpilogueRows ? kRows : kEpilogueRows;
  static_assert(kRows % kSlab == 0 && kThreads % kSlab == 0 && kThreads % kPixels == 0,
                "a thread keeps to one row, or to one pixel");
  static constexpr int kStoredPixels = kThreads / kSlab;
  static constexpr int kStoredRows = kThreads / kPixels;

  // NHWC: neighbouring threads write neighbouring channels of a pixel.
  __device__ __forceinline__ void store_channels(int slab) {
    const int row = static_cast<int>(thread_ % kSlab);
    const int64_t group_row = first_row_ + slab + row;
    if (group_row >= a_.group_rows) return;
    const int64_t channel = static_cast<int64_t>(group_) * a_.group_rows + group_row;
    const Output<Storage> output(a_, channel);
#pragma unroll 4
    for (int pixel = static_cast<int>(thread_ / kSlab) + rank_ * kStoredPixels; pixel < kPixels;
         pixel += a_.splits * kStoredPixels) {
      const Vec16 info = shared_load(&pixel_info_[pixel]);
      if (static_cast<int32_t>(info.x) == kOutside) continue;
      const int64_t place = static_cast<int64_t>(info.x) * a_.out_plane + info.y;
      Output<Storage>::store(a_, place * a_.out_channels + channel,
                             output.value(total(row, pixel)));
    }
  }

  // NCHW: neighbouring threads write neighbouring pixels of a channel.
  __device__ __forceinline__ void store_pixels(int slab) {
    const int pixel = static_cast<int>(thread_ % kPixels);
    const Vec16 info = shared_load(&pixel_info_[pixel]);
    if (static_cast<int32_t>(info.x) == kOutside) return;
#pragma unroll 4
    for (int row = static_cast<int>(thread_ / kPixels) + rank_ * kStoredRows; row < kSlab;
         row += a_.splits * kStoredRows) {
      const int64_t group_row = first_row_ + slab + row;
      if (group_row >= a_.group_rows) break;
      const int64_t channel = static_cast<int64_t>(group_) * a_.group_rows + group_row;
      const int64_t plane = static_cast<int64_t>(info.x) * a_.out_channels + channel;
      const Output<Storage> output(a_, channel);
      Output<Storage>::store(a_, plane * a_.out_plane + info.y, output.value(total(row, pixel)));
    }
  }

  const DeformConv2dArguments& a_;
  unsigned char* const weights_;
  unsigned char* const samples_;
  Vec16* const pixel_info_;
  Vec16* const corners_;
  Total* const epilogue_;
  const unsigned thread_;
  int weights_of_warp_;
  int samples_of_warp_;
  int sample_of_thread_;
  int rank_ = 0;  // in the cluster
  int64_t first_pixel_;
  int group_;
  int64_t first_row_;
  const unsigned char* maps_[kSampleUnits];  // at the step that is read
  const unsigned char* next_weights_;
  Sum sums_[kBlocksAlongRows][kBlocksAlongPixels][kBlockSums] = {};
  Total totals_[kTotalsAlongRows][kTotalsAlongPixels] = {};
  // Of the step that read_samples has read last: where this thread's units have their corners in
  // `corners_`, and what is there.
  int corners_of_unit_[kSampleUnits];
  uint32_t raw_[kSampleUnits][4][kWords];
  Step reading_;  // that step, where a unit may be in several offset groups
  int reading_buffer_;
};

template <typename Math, int kRows, int kPixels, int kWarpRows, int kWarpPixels, Access kAccess>
__global__ void __launch_bounds__(
    FusedDeformConv2d<Math, kRows, kPixels, kWarpRows, kWarpPixels, kAccess>::kThreads,
    FusedDeformConv2d<Math, kRows, kPixels, kWarpRows, kWarpPixels, kAccess>::kBlocks)
    fused_deform_conv2d(DCN_DEPLOY_KERNEL_PARAMETER DeformConv2dArguments arguments) {
  DCN_DEPLOY_DYNAMIC_SHARED(shared);
  FusedDeformConv2d<Math, kRows, kPixels, kWarpRows, kWarpPixels, kAccess>(arguments, shared).run();
}

}  // namespace cuda
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_CORE_CUDA_DEFORM_CONV2D_FUSED_CUH_
