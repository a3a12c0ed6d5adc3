// Random tensors in any storage type, in memory whose surroundings are watched.

#ifndef DCN_DEPLOY_TESTS_CPP_RANDOM_TENSORS_H_
#define DCN_DEPLOY_TESTS_CPP_RANDOM_TENSORS_H_

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "core/deform_conv2d_params.h"
#include "core/dtype.h"
#include "core/parallel_for.h"

namespace dcn_deploy {
namespace testing {

// The seed of this process: the environment variable DCN_DEPLOY_TEST_SEED, or 20170317. Tests print
// it when they fail.
std::uint64_t seed();

// Bytes with a guard zone on either side. AddressSanitizer reports any access to the zones; without
// it, intact() tells whether they were written to.
class GuardedBytes {
 public:
  explicit GuardedBytes(std::size_t size);
  ~GuardedBytes();
  GuardedBytes(const GuardedBytes&) = delete;
  GuardedBytes& operator=(const GuardedBytes&) = delete;

  unsigned char* data() { return memory_.data() + kGuard; }
  const unsigned char* data() const { return memory_.data() + kGuard; }
  std::size_t size() const { return memory_.size() - 2 * kGuard; }
  bool intact() const;

 private:
  static constexpr std::size_t kGuard = 4096;
  std::vector<unsigned char> memory_;
};

// A tensor as a kernel sees it, and the double values that its elements stand for.
class Tensor {
 public:
  // Rounds `values` to `dtype`.
  Tensor(DType dtype, const std::vector<double>& values);

  DType dtype() const { return dtype_; }
  const std::vector<double>& values() const { return values_; }
  const void* data() const { return bytes_.data(); }
  bool intact() const { return bytes_.intact(); }

 private:
  DType dtype_;
  std::vector<double> values_;
  GuardedBytes bytes_;
};

// An output: `count` elements, poisoned with NaN; int8 with some number.
class Output {
 public:
  Output(DType dtype, std::size_t count);

  void* data() { return bytes_.data(); }
  const GuardedBytes& bytes() const { return bytes_; }
  std::vector<double> values() const;

 private:
  DType dtype_;
  GuardedBytes bytes_;
};

// The value of element `index` of a tensor. int8 takes whole numbers in its range.
double read_element(DType dtype, const void* data, std::size_t index);
void write_element(DType dtype, double value, void* data, std::size_t index);

std::vector<double> normal_values(std::mt19937_64* random, std::int64_t count, double deviation);
std::vector<double> uniform_values(std::mt19937_64* random, std::int64_t count, double low,
                                   double high);

// Runs tasks on `threads` threads, in an order that differs from call to call.
class ThreadPerCall {
 public:
  explicit ThreadPerCall(int threads) : threads_(threads) {}
  ParallelFor parallel_for() { return {&ThreadPerCall::run, this}; }

 private:
  static void run(void* self, std::int64_t count, ParallelFor::Task task, void* argument);
  int threads_;
};

}  // namespace testing
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_TESTS_CPP_RANDOM_TENSORS_H_
