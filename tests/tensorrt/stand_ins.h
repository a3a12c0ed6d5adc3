// What TensorRT gives a plugin, played by the tests.

#ifndef DCN_DEPLOY_TESTS_TENSORRT_STAND_INS_H_
#define DCN_DEPLOY_TESTS_TENSORRT_STAND_INS_H_

#include <NvInferRuntime.h>

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

namespace dcn_deploy {
namespace tensorrt {

// A size: a constant, one of the network's unknown sizes, or what is computed of two others.
class Size final : public nvinfer1::IDimensionExpr, private nvinfer1::apiv::VDimensionExpr {
 public:
  static constexpr int kNoUnknown = -1;

  explicit Size(std::int64_t value) : Size() { value_ = value; }
  static Size unknown(int index);
  static Size of(nvinfer1::DimensionOperation op, const Size& a, const Size& b);
  Size(const Size& other);

  // With the unknown sizes replaced by `sizes`.
  std::int64_t evaluate(const std::vector<std::int64_t>& sizes) const;

 private:
  Size() { mImpl = this; }

  bool isConstant() const override;
  std::int64_t getConstantValue() const override { return evaluate({}); }
  bool isSizeTensor() const override { return false; }

  std::int64_t value_ = 0;
  int unknown_ = kNoUnknown;
  nvinfer1::DimensionOperation op_ = nvinfer1::DimensionOperation::kSUM;
  const Size* a_ = nullptr;
  const Size* b_ = nullptr;
};

class SizeBuilder final : public nvinfer1::IExprBuilder, private nvinfer1::apiv::VExprBuilder {
 public:
  SizeBuilder() { mImpl = this; }

  const Size* unknown(int index) { return &sizes_.emplace_back(Size::unknown(index)); }
  const Size* known(std::int64_t value) { return &sizes_.emplace_back(Size(value)); }
  // From now on there is nothing but null to be had.
  void run_dry() { dry_ = true; }

 private:
  const nvinfer1::IDimensionExpr* constant(std::int64_t value) override;
  const nvinfer1::IDimensionExpr* operation(nvinfer1::DimensionOperation op,
                                            const nvinfer1::IDimensionExpr& first,
                                            const nvinfer1::IDimensionExpr& second) override;
  const nvinfer1::IDimensionExpr* declareSizeTensor(std::int32_t, const nvinfer1::IDimensionExpr&,
                                                    const nvinfer1::IDimensionExpr&) override {
    return nullptr;
  }

  std::deque<Size> sizes_;
  bool dry_ = false;
};

// Keeps what it is told. Its classes are those of the headers.
class Logger final : public nvinfer1::ILogger, public nvinfer1::ILoggerFinder {
 public:
  struct Message {
    Severity severity;
    std::string text;
  };

  void log(Severity severity, const char* message) noexcept override {
    messages_.push_back({severity, message});
  }
  nvinfer1::ILogger* findLogger() override { return this; }

  // Those since the last call.
  std::vector<Message> take() {
    std::vector<Message> taken;
    taken.swap(messages_);
    return taken;
  }

 private:
  std::vector<Message> messages_;
};

class Context final : public nvinfer1::IPluginResourceContext {
 public:
  nvinfer1::IGpuAllocator* getGpuAllocator() const noexcept override { return nullptr; }
  nvinfer1::IErrorRecorder* getErrorRecorder() const noexcept override { return nullptr; }
};

}  // namespace tensorrt
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_TESTS_TENSORRT_STAND_INS_H_
