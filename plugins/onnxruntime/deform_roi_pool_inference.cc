#include "onnxruntime/deform_roi_pool_inference.h"

#include <array>
#include <cstdint>

#include "onnxruntime/api.h"
#include "onnxruntime/inference.h"

namespace dcn_deploy {
namespace onnxruntime {
namespace {

// Of Y. With `psroi`, from the attribute or from C = Cout · group_size².
Dim output_channels(const Inference& node, const Dim& in_channels) {
  if (node.string("variant", "aligned") == "aligned") return in_channels;
  Dim out;
  out.size = node.integer("output_channels", 0);
  const std::int64_t group_size = node.integer("group_size", 1);
  // A group_size that is this large is refused by the kernel's constructor.
  constexpr std::int64_t kLargest = 1 << 30;
  if (out.size < 1 && group_size == 1) return in_channels;
  if (out.size < 1 && in_channels.size >= 0 && group_size > 1 && group_size < kLargest) {
    out.size = in_channels.size / (group_size * group_size);
  }
  if (out.size < 1) out.size = -1;
  return out;
}

void infer(const Inference& node) {
  const std::array<std::int64_t, 2> output_size = node.ints<2>("output_size", {-1, -1});
  Dim out_h;
  Dim out_w;
  if (output_size[0] > 0 && output_size[1] > 0) {
    out_h.size = output_size[0];
    out_w.size = output_size[1];
  }
  const Dim rois = first_known(at(node.input(1), 0, 2), at(node.input(2), 0), at(node.input(3), 0));
  node.set_output(node.input_type(0),
                  {rois, output_channels(node, at(node.input(0), 1)), out_h, out_w});
}

}  // namespace

void infer_deform_roi_pool_shape(const OrtApi& api, OrtShapeInferContext* context) noexcept {
  OrtStatusPtr status = guarded(api, [&] { infer(Inference(api, context)); });
  if (status != nullptr) api.ReleaseStatus(status);
}

}  // namespace onnxruntime
}  // namespace dcn_deploy
