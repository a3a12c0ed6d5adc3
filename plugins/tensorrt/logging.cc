#include "tensorrt/logging.h"

#include <atomic>
#include <cstdio>

namespace dcn_deploy {
namespace tensorrt {
namespace {

std::atomic<nvinfer1::ILoggerFinder*> logger_finder{nullptr};

// That of the engine or context whose call this thread is in.
nvinfer1::ILogger* find_logger() noexcept {
  nvinfer1::ILoggerFinder* finder = logger_finder.load();
  if (finder == nullptr) return nullptr;
  try {
    return finder->findLogger();
  } catch (...) {
    return nullptr;
  }
}

}  // namespace

void set_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept { logger_finder.store(finder); }

void log(nvinfer1::ILogger::Severity severity, const char* where, const char* message) noexcept {
  // A core's message has 508 bytes at most, a layer's name 1024.
  char text[2048];
  std::snprintf(text, sizeof(text), "dcn_deploy: %s: %s", where, message);
  nvinfer1::ILogger* logger = find_logger();
  if (logger != nullptr) {
    logger->log(severity, text);
  } else if (severity <= nvinfer1::ILogger::Severity::kWARNING) {
    std::fprintf(stderr, "%s\n", text);
  }
}

}  // namespace tensorrt
}  // namespace dcn_deploy
