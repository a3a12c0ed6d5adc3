#include "onnxruntime/session_threads.h"

#include <cstddef>

#include "onnxruntime/api.h"

namespace dcn_deploy {
namespace onnxruntime {
namespace {

struct Call {
  ParallelFor::Task task;
  void* argument;
};

}  // namespace

void SessionThreads::run(void* self, std::int64_t count, ParallelFor::Task task, void* argument) {
  const auto& threads = *static_cast<const SessionThreads*>(self);
  Call call{task, argument};
  const auto total = static_cast<std::size_t>(count);
  // As many batches as tasks: threads that are done early take over from the others.
  check(threads.api_, threads.api_.KernelContext_ParallelFor(
                          threads.context_,
                          [](void* user_data, std::size_t index) {
                            const auto& c = *static_cast<const Call*>(user_data);
                            c.task(c.argument, static_cast<std::int64_t>(index));
                          },
                          total, total, &call));
}

}  // namespace onnxruntime
}  // namespace dcn_deploy
