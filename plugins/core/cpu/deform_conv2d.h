// Deformable convolution on the CPU: blocked, without a column buffer.
//
//   Y[n,m,ho,wo] = B[m] + Σ_{c∈γ(m)} Σ_{i,j} W[m,c,i,j] · mask[n,o,i,j,ho,wo] · S(X[n,c], y, x)
//   y = ho·stride_h − pad_top + i·dilation_h + Δy      x = wo·stride_w − pad_left + j·dilation_w +
//   Δx
//
// (Dai et al., "Deformable Convolutional Networks", 2017; the mask: Zhu et al., "Deformable
// ConvNets v2", 2019.)
//
// A task computes a tile of at most kTilePixels output pixels of one image, for all their output
// channels:
//
//   1. the sampling positions of the tile, once for each tap and offset group (Kernels::locate);
//   2. for one block of the sum at a time (whole channels, about kBlockDepth terms), the samples,
//   written to a panel
//      [terms][pixels] (Kernels::sample);
//   3. the panel times the packed weights, added to the tile's float32 sums (Kernels::multiply);
//   4. the bias, and the conversion to the storage type (Kernels::store).
//
// The order in which a sum's terms are added depends on the filter's shape alone, so that the
// result does not depend on the number of threads, bit for bit.

#ifndef DCN_DEPLOY_CORE_CPU_DEFORM_CONV2D_H_
#define DCN_DEPLOY_CORE_CPU_DEFORM_CONV2D_H_

#include <cstddef>
#include <cstdint>

#include "core/cpu/aligned_buffer.h"
#include "core/cpu/kernels.h"
#include "core/deform_conv2d_params.h"
#include "core/dtype.h"
#include "core/parallel_for.h"
#include "core/status.h"

namespace dcn_deploy {
namespace cpu {

// Weights as float32, in the order in which the kernel reads them.
//
//   [group][block of the sum][block of kernels.rows output channels][term][kernels.rows]
//
// A block of the sum is a run of channels of one offset group times a run of taps (see
// for_each_sum_block in deform_conv2d.cc), its terms ordered [channel][tap]. Rows beyond the last
// output channel of a group are zero.
class PackedDeformConv2dWeights {
 public:
  // Packs W [out_channels, in_channels / group, kernel_h, kernel_w]. Of `params`, only the
  // channels, the kernel, group and offset_group are read, so that weights can be packed before X
  // is known.
  static Status pack(const DeformConv2dParams& params, const void* weight, DType dtype,
                     const Kernels& kernels, PackedDeformConv2dWeights* packed);

  const Kernels& kernels() const { return *kernels_; }
  // The weights of one group.
  const float* group(std::int64_t index) const { return buffer_.data() + index * group_size_; }

 private:
  const Kernels* kernels_ = nullptr;
  std::int64_t group_size_ = 0;
  AlignedBuffer buffer_;
};

// Tensors in the layouts of DeformConv2dParams, contiguous. `bias` and `mask` may be null.
struct DeformConv2dTensors {
  DType dtype = DType::kFloat32;  // of x, bias and y
  DType offset_dtype = DType::kFloat32;
  DType mask_dtype = DType::kFloat32;
  const void* x = nullptr;
  const void* offset = nullptr;
  const void* bias = nullptr;
  const void* mask = nullptr;
  void* y = nullptr;
};

// Scratch memory that a thread keeps for its next tile, whatever the shapes are.
std::size_t scratch_bytes_per_thread();

// `packed` must have been packed for the same channels, kernel, group and offset_group as `params`.
Status deform_conv2d(const DeformConv2dParams& params, const DeformConv2dTensors& tensors,
                     const PackedDeformConv2dWeights& packed, const ParallelFor& parallel_for);

}  // namespace cpu
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_CORE_CPU_DEFORM_CONV2D_H_
