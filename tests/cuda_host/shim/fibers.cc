#include "fibers.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>

// ucontext's switch makes two system calls, and a block of a kernel switches millions of times.
#if defined(__x86_64__) && !defined(DCN_DEPLOY_HOST_UCONTEXT)
#define DCN_DEPLOY_HOST_OWN_SWITCH 1
#else
#define DCN_DEPLOY_HOST_OWN_SWITCH 0
#include <ucontext.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if DCN_DEPLOY_HOST_OWN_SWITCH
// Saves what a call must keep (System V ABI; the control words of the floating-point units are the
// same in all fibres), changes stacks, and restores the same from the other.
extern "C" __attribute__((visibility("hidden"))) void dcn_deploy_host_switch(void** save,
                                                                             void* load);
asm(R"(
.text
.p2align 4
.hidden dcn_deploy_host_switch
.globl dcn_deploy_host_switch
.type dcn_deploy_host_switch, @function
dcn_deploy_host_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size dcn_deploy_host_switch, . - dcn_deploy_host_switch
)");
#endif

namespace dcn_deploy {
namespace cuda {
namespace host {
namespace {

constexpr std::size_t kPage = 4096;
// AddressSanitizer's frames are large, and only what is touched takes memory.
constexpr std::size_t kStackSize = 512 * 1024;

Fibers* active = nullptr;

}  // namespace

Fibers::~Fibers() {
  for (Context& context : contexts_) {
    munmap(static_cast<unsigned char*>(const_cast<void*>(context.bottom)) - kPage,
           kStackSize + kPage);
#if !DCN_DEPLOY_HOST_OWN_SWITCH
    delete static_cast<ucontext_t*>(context.saved);
#endif
  }
#if !DCN_DEPLOY_HOST_OWN_SWITCH
  delete static_cast<ucontext_t*>(thread_.saved);
#endif
}

bool Fibers::add_stack() {
  void* memory = mmap(nullptr, kStackSize + kPage, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return false;
  // A page that faults, below: an overflow must not reach the next stack.
  mprotect(memory, kPage, PROT_NONE);
  Context context;
  context.bottom = static_cast<unsigned char*>(memory) + kPage;
  context.size = kStackSize;
  contexts_.push_back(context);
  return true;
}

bool Fibers::prepare(int count, Entry entry) {
  entry_ = entry;
  prepared_ = count;
  active = this;
  while (contexts_.size() < static_cast<std::size_t>(count)) {
    if (!add_stack()) return false;
  }
  for (int fiber = 0; fiber < count; ++fiber) {
    Context& context = contexts_[static_cast<std::size_t>(fiber)];
    context.fake_stack = nullptr;
#if DCN_DEPLOY_HOST_OWN_SWITCH
    // What the switch pops: six registers and the address to go to. Above it a return address of 0
    // ends backtraces, and puts the stack where a function expects it.
    auto* top = reinterpret_cast<std::uintptr_t*>(
        static_cast<unsigned char*>(const_cast<void*>(context.bottom)) + kStackSize);
    *--top = 0;
    *--top = reinterpret_cast<std::uintptr_t>(&Fibers::start);
    for (int i = 0; i < 6; ++i) *--top = 0;
    context.stack_pointer = top;
#else
    if (context.saved == nullptr) context.saved = new ucontext_t;
    auto* saved = static_cast<ucontext_t*>(context.saved);
    getcontext(saved);
    saved->uc_stack.ss_sp = const_cast<void*>(context.bottom);
    saved->uc_stack.ss_size = kStackSize;
    saved->uc_link = nullptr;
    makecontext(saved, &Fibers::start, 0);
#endif
  }
  return true;
}

void Fibers::change(int target, bool for_good) {
  if (target == running_) return;
  Context& from = context(running_);
  Context& to = context(target);
  previous_ = running_;
  running_ = target;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(for_good ? nullptr : &from.fake_stack, to.bottom, to.size);
#else
  static_cast<void>(for_good);
#endif
#if DCN_DEPLOY_HOST_OWN_SWITCH
  dcn_deploy_host_switch(&from.stack_pointer, to.stack_pointer);
#else
  if (from.saved == nullptr) from.saved = new ucontext_t;
  swapcontext(static_cast<ucontext_t*>(from.saved), static_cast<ucontext_t*>(to.saved));
#endif
  arrived();
}

void Fibers::arrived() {
#if defined(__SANITIZE_ADDRESS__)
  const void* bottom = nullptr;
  std::size_t size = 0;
  __sanitizer_finish_switch_fiber(context(running_).fake_stack, &bottom, &size);
  if (previous_ == kThread) {
    thread_.bottom = bottom;
    thread_.size = size;
  }
#endif
}

void Fibers::start() {
  active->arrived();
  active->entry_(active->running_);
  std::abort();  // an entry leaves by switch_for_good
}

void Fibers::switch_for_good(int target) {
  change(target, true);
  std::abort();  // nobody may continue a fibre that is gone
}

void Fibers::forget_frames() {
#if defined(__SANITIZE_ADDRESS__)
  for (int fiber = 0; fiber < prepared_; ++fiber) {
    const Context& context = contexts_[static_cast<std::size_t>(fiber)];
    ASAN_UNPOISON_MEMORY_REGION(context.bottom, context.size);
  }
#endif
}

}  // namespace host
}  // namespace cuda
}  // namespace dcn_deploy
