#include "random_tensors.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <thread>

#include "core/half.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size) static_cast<void>(0)
#define ASAN_UNPOISON_MEMORY_REGION(address, size) static_cast<void>(0)
#endif

namespace dcn_deploy {
namespace testing {
namespace {

constexpr unsigned char kGuardByte = 0xa5;
constexpr double kInt8Poison = -91;

}  // namespace

std::uint64_t seed() {
  const char* text = std::getenv("DCN_DEPLOY_TEST_SEED");
  return text != nullptr ? std::strtoull(text, nullptr, 10) : 20170317u;
}

GuardedBytes::GuardedBytes(std::size_t size) : memory_(size + 2 * kGuard, kGuardByte) {
  ASAN_POISON_MEMORY_REGION(memory_.data(), kGuard);
  ASAN_POISON_MEMORY_REGION(memory_.data() + kGuard + size, kGuard);
}

GuardedBytes::~GuardedBytes() { ASAN_UNPOISON_MEMORY_REGION(memory_.data(), memory_.size()); }

bool GuardedBytes::intact() const {
#if defined(__SANITIZE_ADDRESS__)
  return true;  // a write would have ended the process
#else
  const auto is_guard = [](unsigned char byte) { return byte == kGuardByte; };
  return std::all_of(memory_.begin(), memory_.begin() + kGuard, is_guard) &&
         std::all_of(memory_.end() - kGuard, memory_.end(), is_guard);
#endif
}

double read_element(DType dtype, const void* data, std::size_t index) {
  const auto* bytes = static_cast<const unsigned char*>(data) + index * size_of(dtype);
  if (dtype == DType::kInt8) return static_cast<std::int8_t>(*bytes);
  if (dtype == DType::kFloat32) {
    float value;
    std::memcpy(&value, bytes, sizeof(value));
    return value;
  }
  std::uint16_t bits;
  std::memcpy(&bits, bytes, sizeof(bits));
  return dtype == DType::kFloat16 ? float16_to_float(bits) : bfloat16_to_float(bits);
}

void write_element(DType dtype, double value, void* data, std::size_t index) {
  auto* bytes = static_cast<unsigned char*>(data) + index * size_of(dtype);
  if (dtype == DType::kInt8) {
    // Not a number is what an output is poisoned with: of all numbers the least likely.
    *bytes = static_cast<unsigned char>(
        static_cast<std::int8_t>(std::isnan(value) ? kInt8Poison : value));
    return;
  }
  const auto single = static_cast<float>(value);
  if (dtype == DType::kFloat32) {
    std::memcpy(bytes, &single, sizeof(single));
    return;
  }
  const std::uint16_t bits =
      dtype == DType::kFloat16 ? float_to_float16(single) : float_to_bfloat16(single);
  std::memcpy(bytes, &bits, sizeof(bits));
}

Tensor::Tensor(DType dtype, const std::vector<double>& values)
    : dtype_(dtype), values_(values.size()), bytes_(values.size() * size_of(dtype)) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    write_element(dtype, values[i], bytes_.data(), i);
    values_[i] = read_element(dtype, bytes_.data(), i);
  }
}

Output::Output(DType dtype, std::size_t count) : dtype_(dtype), bytes_(count * size_of(dtype)) {
  for (std::size_t i = 0; i < count; ++i) {
    write_element(dtype, std::numeric_limits<double>::quiet_NaN(), bytes_.data(), i);
  }
}

std::vector<double> Output::values() const {
  std::vector<double> values(bytes_.size() / size_of(dtype_));
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = read_element(dtype_, bytes_.data(), i);
  }
  return values;
}

std::vector<double> normal_values(std::mt19937_64* random, std::int64_t count, double deviation) {
  std::normal_distribution<double> distribution(0, deviation);
  std::vector<double> values(static_cast<std::size_t>(count));
  for (double& value : values) value = distribution(*random);
  return values;
}

std::vector<double> uniform_values(std::mt19937_64* random, std::int64_t count, double low,
                                   double high) {
  std::uniform_real_distribution<double> distribution(low, high);
  std::vector<double> values(static_cast<std::size_t>(count));
  for (double& value : values) value = distribution(*random);
  return values;
}

void ThreadPerCall::run(void* self, std::int64_t count, ParallelFor::Task task, void* argument) {
  std::atomic<std::int64_t> next{0};
  const auto work = [&] {
    for (std::int64_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) task(argument, i);
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < static_cast<const ThreadPerCall*>(self)->threads_; ++i) {
    threads.emplace_back(work);
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace testing
}  // namespace dcn_deploy
