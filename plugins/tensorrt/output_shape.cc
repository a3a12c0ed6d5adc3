#include "tensorrt/output_shape.h"

#include "tensorrt/failure.h"

namespace dcn_deploy {
namespace tensorrt {
namespace {

Expression required(Expression expression) {
  if (expression == nullptr) {
    throw Failure("output shape: expected an expression from TensorRT, got null");
  }
  return expression;
}

}  // namespace

Expression ExpressionBuilder::constant(std::int64_t value) {
  return required(builder_.constant(value));
}

Expression ExpressionBuilder::sum(Expression a, Expression b) {
  return operation(nvinfer1::DimensionOperation::kSUM, a, b);
}

Expression ExpressionBuilder::product(Expression a, Expression b) {
  return operation(nvinfer1::DimensionOperation::kPROD, a, b);
}

Expression ExpressionBuilder::floor_divide(Expression a, Expression b) {
  return operation(nvinfer1::DimensionOperation::kFLOOR_DIV, a, b);
}

Expression ExpressionBuilder::operation(nvinfer1::DimensionOperation op, Expression a,
                                        Expression b) {
  return required(builder_.operation(op, *required(a), *required(b)));
}

Expression output_extent(ExpressionBuilder* builder, Expression size, std::int64_t pad_begin,
                         std::int64_t pad_end, std::int64_t dilation, Expression kernel,
                         std::int64_t stride) {
  // size + pads − dilation·(kernel − 1) − 1 = size + (pads + dilation − 1) − dilation·kernel
  Expression room;
  if (kernel->isConstant()) {
    const std::int64_t rest =
        pad_begin + pad_end + dilation - 1 - dilation * kernel->getConstantValue();
    room = builder->sum(size, builder->constant(rest));
  } else {
    room = builder->sum(size, builder->constant(pad_begin + pad_end + dilation - 1));
    room = builder->sum(room, builder->product(kernel, builder->constant(-dilation)));
  }
  return builder->sum(builder->floor_divide(room, builder->constant(stride)), builder->constant(1));
}

}  // namespace tensorrt
}  // namespace dcn_deploy
