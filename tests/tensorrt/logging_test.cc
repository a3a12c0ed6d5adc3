// Where the library's messages go, for every layout of TensorRT's logger.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "hosting_tensorrt.h"
#include "layer.h"

namespace dcn_deploy {
namespace tensorrt {
namespace {

using Severity = nvinfer1::ILogger::Severity;

struct Received {
  std::vector<std::string> texts;
  std::vector<Severity> severities;

  void add(Severity severity, const char* text) {
    severities.push_back(severity);
    texts.push_back(text);
  }
};

// The classes as the headers of TensorRT 10.14 have them.
struct Logger10 {
  virtual void log(Severity severity, const char* text) noexcept { received.add(severity, text); }
  virtual ~Logger10() = default;
  Received received;
};
struct Finder10 {
  virtual Logger10* find() { return logger; }
  virtual ~Finder10() = default;
  Logger10* logger = nullptr;
};

// And as those of TensorRT 11.1 have them.
struct Versioned {
  virtual std::int32_t language() const noexcept { return 0; }
  virtual nvinfer1::InterfaceInfo info() const noexcept { return {"", 1, 0}; }
  virtual ~Versioned() noexcept = default;
};
struct Logger11 : Versioned {
  virtual void log(Severity severity, const char* text) noexcept { received.add(severity, text); }
  Received received;
};
struct Finder11 : Versioned {
  virtual Logger11* find() { return logger; }
  Logger11* logger = nullptr;
};

class Logging : public PluginTest {
 protected:
  void SetUp() override {
    PluginTest::SetUp();
    PluginLibrary::instance().set_logger_finder(nullptr);
  }
  void TearDown() override {
    hosting_tensorrt() = tensorrt_of_the_headers();
    PluginTest::TearDown();
  }

  // As TensorRT of that version would; the finder's and the logger's classes are those of it.
  void host(std::int32_t major, std::int32_t minor, void* logger, void* finder) {
    hosting_tensorrt() = {major, minor, logger};
    PluginLibrary::instance().set_logger_finder(static_cast<nvinfer1::ILoggerFinder*>(finder));
  }

  // Makes the library say something; returns what went to standard error.
  std::string speak(const char* layer = "layer") {
    ::testing::internal::CaptureStderr();
    EXPECT_EQ(create(creator("DeformConv2d"), FieldList().integers("group", {0}),
                     nvinfer1::TensorRTPhase::kBUILD, layer),
              nullptr);
    return ::testing::internal::GetCapturedStderr();
  }

  const std::string said_ =
      "dcn_deploy: DeformConv2d 'layer': attribute group: expected at least 1, got 0";
};

TEST_F(Logging, GoesToTheFindersLogger) {
  Logger10 logger10, elsewhere10;
  Finder10 finder10;
  finder10.logger = &logger10;
  for (const std::int32_t minor : {0, 1, 14, 99}) {
    host(10, minor, &elsewhere10, &finder10);
    EXPECT_EQ(speak(), "");
  }
  EXPECT_EQ(logger10.received.texts, std::vector<std::string>(4, said_));
  EXPECT_EQ(logger10.received.severities, std::vector<Severity>(4, Severity::kERROR));
  EXPECT_TRUE(elsewhere10.received.texts.empty());

  Logger11 logger11, elsewhere11;
  Finder11 finder11;
  finder11.logger = &logger11;
  const std::int32_t versions[][2] = {{11, 0}, {11, 4}, {12, 0}, {1, 7}, {1, 8}};
  for (const auto& version : versions) {
    host(version[0], version[1], &elsewhere11, &finder11);
    EXPECT_EQ(speak(), "");
  }
  EXPECT_EQ(logger11.received.texts, std::vector<std::string>(5, said_));
  EXPECT_TRUE(elsewhere11.received.texts.empty());
}

TEST_F(Logging, GoesToTheLastLoggerWithoutAFinder) {
  Logger10 logger10;
  host(10, 9, &logger10, nullptr);
  EXPECT_EQ(speak(), "");
  EXPECT_EQ(logger10.received.texts, std::vector<std::string>{said_});
  // Or where the finder finds none.
  Finder10 nothing10;
  host(10, 9, &logger10, &nothing10);
  EXPECT_EQ(speak(), "");
  EXPECT_EQ(logger10.received.texts.size(), 2u);
  Logger11 logger11;
  host(11, 4, &logger11, nullptr);
  EXPECT_EQ(speak(), "");
  EXPECT_EQ(logger11.received.texts, std::vector<std::string>{said_});
}

TEST_F(Logging, GoesToStandardErrorWithoutALogger) {
  for (const std::int32_t major : {10, 11}) {
    host(major, 0, nullptr, nullptr);
    EXPECT_EQ(speak(), said_ + "\n");
  }
}

// A call by the wrong table of functions may do anything.
TEST_F(Logging, LoggersOfUnknownLayoutAreNotCalled) {
  const std::int32_t versions[][2] = {{0, 0}, {1, 0}, {1, 6}, {8, 6}, {9, 3}};
  for (const auto& version : versions) {
    int no_object = 0;
    host(version[0], version[1], &no_object, &no_object);
    EXPECT_EQ(speak(), said_ + "\n");
  }
}

TEST_F(Logging, LongNamesAreCutAndNotTheMessage) {
  host(10, 9, nullptr, nullptr);
  const std::string said = speak(std::string(5000, 'x').c_str());
  EXPECT_EQ(said.substr(0, 30), "dcn_deploy: DeformConv2d 'xxxx");
  const std::string end = "xx: attribute group: expected at least 1, got 0\n";
  EXPECT_EQ(said.substr(said.size() - std::min(said.size(), end.size())), end);
  EXPECT_LT(said.size(), 1200u);
}

}  // namespace
}  // namespace tensorrt
}  // namespace dcn_deploy
