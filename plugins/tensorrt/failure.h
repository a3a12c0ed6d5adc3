// How the plugins fail inside, before the noexcept boundary of TensorRT's interface.

#ifndef DCN_DEPLOY_TENSORRT_FAILURE_H_
#define DCN_DEPLOY_TENSORRT_FAILURE_H_

#include <exception>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

#include "core/status.h"
#include "tensorrt/logging.h"

namespace dcn_deploy {
namespace tensorrt {

// What was expected, what came, what to do; the layer is named where it is caught.
class Failure : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

inline void check(const Status& status) {
  if (!status.ok()) throw Failure(status.message);
}

// Gives what `body` does, or logs what it threw and gives `on_failure`. `where` is the layer;
// nothing may be made on the way here that can throw.
template <typename Result, typename Body>
Result guarded(const char* where, Result on_failure, Body&& body) noexcept {
  try {
    return body();
  } catch (const std::bad_alloc&) {
    log(nvinfer1::ILogger::Severity::kERROR, where, "expected memory of the host, got none");
  } catch (const std::exception& error) {
    log(nvinfer1::ILogger::Severity::kERROR, where, error.what());
  } catch (...) {
    log(nvinfer1::ILogger::Severity::kERROR, where, "an unknown failure");
  }
  return on_failure;
}

}  // namespace tensorrt
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_TENSORRT_FAILURE_H_
