#include "stand_ins.h"

#include <algorithm>
#include <stdexcept>

namespace dcn_deploy {
namespace tensorrt {
namespace {

std::int64_t floor_div(std::int64_t a, std::int64_t b) {
  return a / b - (a % b != 0 && (a < 0) != (b < 0) ? 1 : 0);
}

}  // namespace

Size Size::unknown(int index) {
  Size size;
  size.unknown_ = index;
  return size;
}

Size Size::of(nvinfer1::DimensionOperation op, const Size& a, const Size& b) {
  Size size;
  size.op_ = op;
  size.a_ = &a;
  size.b_ = &b;
  return size;
}

Size::Size(const Size& other)
    : nvinfer1::IDimensionExpr(),
      nvinfer1::apiv::VDimensionExpr(),
      value_(other.value_),
      unknown_(other.unknown_),
      op_(other.op_),
      a_(other.a_),
      b_(other.b_) {
  mImpl = this;
}

bool Size::isConstant() const {
  if (a_ != nullptr) return a_->isConstant() && b_->isConstant();
  return unknown_ == kNoUnknown;
}

std::int64_t Size::evaluate(const std::vector<std::int64_t>& sizes) const {
  if (unknown_ != kNoUnknown) return sizes.at(static_cast<std::size_t>(unknown_));
  if (a_ == nullptr) return value_;
  const std::int64_t a = a_->evaluate(sizes);
  const std::int64_t b = b_->evaluate(sizes);
  switch (op_) {
    case nvinfer1::DimensionOperation::kSUM:
      return a + b;
    case nvinfer1::DimensionOperation::kPROD:
      return a * b;
    case nvinfer1::DimensionOperation::kMAX:
      return std::max(a, b);
    case nvinfer1::DimensionOperation::kMIN:
      return std::min(a, b);
    case nvinfer1::DimensionOperation::kSUB:
      return a - b;
    case nvinfer1::DimensionOperation::kEQUAL:
      return a == b ? 1 : 0;
    case nvinfer1::DimensionOperation::kLESS:
      return a < b ? 1 : 0;
    case nvinfer1::DimensionOperation::kFLOOR_DIV:
      return floor_div(a, b);
    case nvinfer1::DimensionOperation::kCEIL_DIV:
      return -floor_div(-a, b);
  }
  throw std::logic_error("an operation on sizes that TensorRT does not have");
}

const nvinfer1::IDimensionExpr* SizeBuilder::constant(std::int64_t value) {
  return dry_ ? nullptr : known(value);
}

const nvinfer1::IDimensionExpr* SizeBuilder::operation(nvinfer1::DimensionOperation op,
                                                       const nvinfer1::IDimensionExpr& first,
                                                       const nvinfer1::IDimensionExpr& second) {
  if (dry_) return nullptr;
  return &sizes_.emplace_back(
      Size::of(op, static_cast<const Size&>(first), static_cast<const Size&>(second)));
}

}  // namespace tensorrt
}  // namespace dcn_deploy
