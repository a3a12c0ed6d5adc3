#include "onnxruntime/deform_conv2d_inference.h"

#include <cstdint>

#include "core/deform_conv2d_shape.h"
#include "onnxruntime/api.h"
#include "onnxruntime/inference.h"

namespace dcn_deploy {
namespace onnxruntime {
namespace {

// Along one axis: from the size of X if that and the kernel are numbers.
Dim output_dim(const Dim& x, const Dim& kernel, std::int64_t pad_begin, std::int64_t pad_end,
               std::int64_t dilation, std::int64_t stride) {
  if (kernel.size < 1 || stride < 1 || dilation < 1 || pad_begin < 0 || pad_end < 0) return {};
  if (x.size >= 0) {
    Dim out;
    out.size = output_extent(x.size, pad_begin, pad_end, dilation, kernel.size, stride);
    if (out.size < 1) out.size = -1;  // the kernel's constructor refuses it
    return out;
  }
  // A padding that makes up for the kernel's reach keeps the size, whatever it is.
  constexpr std::int64_t kProbe = 4096;
  const bool keeps_size =
      stride == 1 && output_extent(kProbe, pad_begin, pad_end, dilation, kernel.size, 1) == kProbe;
  return keeps_size ? x : Dim{};
}

void infer(const Inference& node) {
  const Shape x = node.input(0);
  const Shape w = node.input(1);
  const Shape offset = node.input(2);
  const Shape mask = node.input(4);
  const auto kernel_shape = node.ints<2>("kernel_shape", {-1, -1});
  const auto strides = node.ints<2>("strides", {1, 1});
  const auto pads = node.ints<4>("pads", {0, 0, 0, 0});
  const auto dilations = node.ints<2>("dilations", {1, 1});
  Dim kernel_h = at(w, 2);
  Dim kernel_w = at(w, 3);
  if (kernel_h.size < 0) kernel_h.size = kernel_shape[0];
  if (kernel_w.size < 0) kernel_w.size = kernel_shape[1];
  const Dim out_h = output_dim(at(x, 2), kernel_h, pads[0], pads[2], dilations[0], strides[0]);
  const Dim out_w = output_dim(at(x, 3), kernel_w, pads[1], pads[3], dilations[1], strides[1]);
  node.set_output(node.input_type(0), {first_known(at(x, 0), at(offset, 0), at(mask, 0)), at(w, 0),
                                       first_known(out_h, at(offset, 2), at(mask, 2)),
                                       first_known(out_w, at(offset, 3), at(mask, 3))});
}

}  // namespace

void infer_deform_conv2d_shape(const OrtApi& api, OrtShapeInferContext* context) noexcept {
  OrtStatusPtr status = guarded(api, [&] { infer(Inference(api, context)); });
  if (status != nullptr) api.ReleaseStatus(status);
}

}  // namespace onnxruntime
}  // namespace dcn_deploy
