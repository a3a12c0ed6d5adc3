// Output sizes as expressions of the inputs' sizes, which may be known only when the engine runs.

#ifndef DCN_DEPLOY_TENSORRT_OUTPUT_SHAPE_H_
#define DCN_DEPLOY_TENSORRT_OUTPUT_SHAPE_H_

#include <NvInferRuntime.h>

#include <cstdint>

namespace dcn_deploy {
namespace tensorrt {

using Expression = const nvinfer1::IDimensionExpr*;

// Throws a Failure where TensorRT gives no expression.
class ExpressionBuilder {
 public:
  explicit ExpressionBuilder(nvinfer1::IExprBuilder* builder) : builder_(*builder) {}

  Expression constant(std::int64_t value);
  Expression sum(Expression a, Expression b);
  Expression product(Expression a, Expression b);
  Expression floor_divide(Expression a, Expression b);

 private:
  Expression operation(nvinfer1::DimensionOperation op, Expression a, Expression b);

  nvinfer1::IExprBuilder& builder_;
};

// output_extent of core/deform_conv2d_shape.h. Below 1 where the kernel does not fit, which the
// plugin refuses once the sizes are known.
Expression output_extent(ExpressionBuilder* builder, Expression size, std::int64_t pad_begin,
                         std::int64_t pad_end, std::int64_t dilation, Expression kernel,
                         std::int64_t stride);

}  // namespace tensorrt
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_TENSORRT_OUTPUT_SHAPE_H_
