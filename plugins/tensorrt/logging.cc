#include "tensorrt/logging.h"

#include <dlfcn.h>

#include <atomic>
#include <cstdint>
#include <cstdio>

namespace dcn_deploy {
namespace tensorrt {
namespace {

// Place of ILogger::log and ILoggerFinder::findLogger in their tables of virtual functions. In
// TensorRT 11 both classes got a base with functions of its own, and one library serves them all:
// the compiler, which has the headers of one version, must not make these calls.
constexpr int kUnknownPlace = -1;

struct LoggerLayout {
  std::int32_t major;
  std::int32_t first_minor;
  int place;
};

// The last row that fits counts.
constexpr LoggerLayout kLayouts[] = {
    {10, 0, 0},
    {11, 0, 4},
    // TensorRT-RTX, which counts its versions anew; earlier ones were not looked at.
    {1, 7, 4},
};
// Of TensorRT. What comes later is taken to be as the last that is known.
constexpr std::int32_t kLastMajor = 11;

int place_of(std::int32_t major, std::int32_t minor) {
  if (major > kLastMajor) major = kLastMajor;
  int place = kUnknownPlace;
  for (const LoggerLayout& layout : kLayouts) {
    if (layout.major == major && layout.first_minor <= minor) place = layout.place;
  }
  return place;
}

using GetLogger = void* (*)();

std::atomic<void*> logger_finder{nullptr};
std::atomic<GetLogger> get_logger{nullptr};
std::atomic<int> place{kUnknownPlace};

template <typename Function>
Function virtual_function(void* object) {
  void** functions = *static_cast<void***>(object);
  return reinterpret_cast<Function>(functions[place.load()]);
}

// Null if there is none, or none that can be called.
void* find_logger() noexcept {
  if (place.load() == kUnknownPlace) return nullptr;
  try {
    // That of the engine or context whose call this thread is in.
    void* finder = logger_finder.load();
    if (finder != nullptr) {
      void* logger = virtual_function<void* (*)(void*)>(finder)(finder);
      if (logger != nullptr) return logger;
    }
    // That of the last builder, runtime or refitter.
    const GetLogger get = get_logger.load();
    return get != nullptr ? get() : nullptr;
  } catch (...) {
    return nullptr;
  }
}

// The library that the code belongs to, or the whole process where that is no TensorRT but an
// application that is linked to one.
void* host_of(const void* code) {
  Dl_info info;
  if (dladdr(code, &info) == 0 || info.dli_fname == nullptr) return RTLD_DEFAULT;
  // By its file: it may be hidden from others, and there may be another TensorRT in the process.
  void* library = dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
  if (library == nullptr) return RTLD_DEFAULT;
  void* symbol = dlsym(library, "getInferLibMajorVersion");
  Dl_info owner;
  if (symbol != nullptr && dladdr(symbol, &owner) != 0 && owner.dli_fbase == info.dli_fbase) {
    // Stays open: what is called must not be unloaded.
    return library;
  }
  dlclose(library);
  return RTLD_DEFAULT;
}

}  // namespace

void set_host(const void* code) noexcept {
  void* host = host_of(code);
  const auto version = [&](const char* name) {
    const auto function = reinterpret_cast<std::int32_t (*)()>(dlsym(host, name));
    return function != nullptr ? function() : 0;
  };
  const int found =
      place_of(version("getInferLibMajorVersion"), version("getInferLibMinorVersion"));
  // That of another TensorRT in this process would be called by the wrong layout.
  if (found != place.load()) logger_finder.store(nullptr);
  place.store(found);
  get_logger.store(reinterpret_cast<GetLogger>(dlsym(host, "getLogger")));
}

void set_logger_finder(nvinfer1::ILoggerFinder* finder, const void* code) noexcept {
  logger_finder.store(nullptr);
  set_host(code);
  logger_finder.store(finder);
}

void log(nvinfer1::ILogger::Severity severity, const char* where, const char* message) noexcept {
  // A core's message has 508 bytes at most, a layer's name 1024.
  char text[2048];
  std::snprintf(text, sizeof(text), "dcn_deploy: %s: %s", where, message);
  void* logger = find_logger();
  if (logger != nullptr) {
    using Log = void (*)(void*, nvinfer1::ILogger::Severity, const char*);
    virtual_function<Log>(logger)(logger, severity, text);
  } else if (severity <= nvinfer1::ILogger::Severity::kWARNING) {
    std::fprintf(stderr, "%s\n", text);
  }
}

}  // namespace tensorrt
}  // namespace dcn_deploy
