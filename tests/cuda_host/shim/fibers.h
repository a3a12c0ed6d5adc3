// Cooperative fibres: stacks of their own on the calling thread, switched by hand.

#ifndef DCN_DEPLOY_TESTS_CUDA_HOST_SHIM_FIBERS_H_
#define DCN_DEPLOY_TESTS_CUDA_HOST_SHIM_FIBERS_H_

#include <cstddef>
#include <vector>

namespace dcn_deploy {
namespace cuda {
namespace host {

// Fibres numbered from 0. One set runs at a time, and always on the same thread.
class Fibers {
 public:
  using Entry = void (*)(int fiber);

  // The thread's own stack, as a target of a switch.
  static constexpr int kThread = -1;

  Fibers() = default;
  ~Fibers();
  Fibers(const Fibers&) = delete;
  Fibers& operator=(const Fibers&) = delete;

  // Makes fibres 0 to count - 1 ready to call entry(fiber), which must not return but leave by
  // switch_for_good. False if there is no memory for their stacks.
  bool prepare(int count, Entry entry);

  // Stops the caller and continues `target`; returns when somebody continues the caller.
  void switch_to(int target) { change(target, false); }
  // The same without a return: the caller's stack is free for another prepare().
  [[noreturn]] void switch_for_good(int target);

  // Call after fibres were left in the middle of something: their stacks are clean again.
  void forget_frames();

 private:
  struct Context {
    void* stack_pointer = nullptr;
    void* saved = nullptr;  // ucontext_t where there is no switch of our own
    const void* bottom = nullptr;
    std::size_t size = 0;
    void* fake_stack = nullptr;
  };

  static void start();
  Context& context(int fiber) {
    return fiber == kThread ? thread_ : contexts_[static_cast<std::size_t>(fiber)];
  }
  bool add_stack();
  void change(int target, bool for_good);
  void arrived();

  Context thread_;
  std::vector<Context> contexts_;
  Entry entry_ = nullptr;
  int prepared_ = 0;
  int running_ = kThread;
  int previous_ = kThread;
};

}  // namespace host
}  // namespace cuda
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_TESTS_CUDA_HOST_SHIM_FIBERS_H_
