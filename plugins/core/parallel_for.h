// The seam through which a caller lends its threads.

#ifndef DCN_DEPLOY_CORE_PARALLEL_FOR_H_
#define DCN_DEPLOY_CORE_PARALLEL_FOR_H_

#include <cstdint>

namespace dcn_deploy {

// run(context, count, task, argument) calls task(argument, i) once for every i in [0, count), in
// any order, on any threads, and returns when all are done. A task never throws.
struct ParallelFor {
  using Task = void (*)(void* argument, std::int64_t index);

  void (*run)(void* context, std::int64_t count, Task task, void* argument) = nullptr;
  void* context = nullptr;

  void operator()(std::int64_t count, Task task, void* argument) const {
    if (run != nullptr) {
      run(context, count, task, argument);
    } else {
      for (std::int64_t i = 0; i < count; ++i) task(argument, i);
    }
  }
};

}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_CORE_PARALLEL_FOR_H_
