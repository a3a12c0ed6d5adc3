// Messages to the logger of the TensorRT that called.

#ifndef DCN_DEPLOY_TENSORRT_LOGGING_H_
#define DCN_DEPLOY_TENSORRT_LOGGING_H_

#include <NvInferRuntime.h>

namespace dcn_deploy {
namespace tensorrt {

// TensorRT's own functions are told from the code that called: `code` is an address in it.

// From TensorRT, through the exported function of the same name; null takes it back. It must live
// as long as it is set.
void set_logger_finder(nvinfer1::ILoggerFinder* finder, const void* code) noexcept;

// The TensorRT that loads the plugins: its logger is theirs where no finder is set, and it sets one
// only for a library that came with an engine.
void set_host(const void* code) noexcept;

// "dcn_deploy: where: message". Without a logger, errors and warnings go to standard error.
void log(nvinfer1::ILogger::Severity severity, const char* where, const char* message) noexcept;

}  // namespace tensorrt
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_TENSORRT_LOGGING_H_
