// The threads of the session that runs a node, as the core borrows them.

#ifndef DCN_DEPLOY_ONNXRUNTIME_SESSION_THREADS_H_
#define DCN_DEPLOY_ONNXRUNTIME_SESSION_THREADS_H_

#include <onnxruntime_c_api.h>

#include <cstdint>

#include "core/parallel_for.h"

namespace dcn_deploy {
namespace onnxruntime {

// Must outlive what parallel_for() returns.
class SessionThreads {
 public:
  SessionThreads(const OrtApi& api, const OrtKernelContext* context)
      : api_(api), context_(context) {}

  ParallelFor parallel_for() const { return {&run, const_cast<SessionThreads*>(this)}; }

 private:
  static void run(void* self, std::int64_t count, ParallelFor::Task task, void* argument);

  const OrtApi& api_;
  const OrtKernelContext* context_;
};

}  // namespace onnxruntime
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_ONNXRUNTIME_SESSION_THREADS_H_
