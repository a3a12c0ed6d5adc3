#include "comparison.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "random_tensors.h"

namespace dcn_deploy {
namespace testing {

double root_mean_square(const std::vector<double>& values) {
  double sum = 0;
  std::size_t count = 0;
  for (const double value : values) {
    if (!std::isfinite(value)) continue;
    sum += value * value;
    ++count;
  }
  return count > 0 ? std::sqrt(sum / static_cast<double>(count)) : 0;
}

::testing::AssertionResult close(const std::vector<double>& actual,
                                 const std::vector<double>& expected, DType dtype) {
  if (actual.size() != expected.size()) return ::testing::AssertionFailure() << "sizes differ";
  const double bound = kRelativeRms[static_cast<int>(dtype)];
  const double scale = root_mean_square(expected);
  std::vector<double> errors;
  std::size_t worst = 0;
  double largest = 0;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    if (std::isnan(actual[i]) != std::isnan(expected[i])) {
      return ::testing::AssertionFailure()
             << "element " << i << ": expected " << expected[i] << ", got " << actual[i];
    }
    if (std::isnan(expected[i])) continue;
    const double error = actual[i] - expected[i];
    if (!std::isfinite(error)) {
      return ::testing::AssertionFailure()
             << "element " << i << ": expected " << expected[i] << ", got " << actual[i];
    }
    errors.push_back(error);
    if (std::abs(error) > largest) {
      largest = std::abs(error);
      worst = i;
    }
  }
  const double relative = scale > 0 ? root_mean_square(errors) / scale : root_mean_square(errors);
  if (relative <= bound && largest <= 16 * bound * std::max(scale, 1e-30)) {
    return ::testing::AssertionSuccess();
  }
  return ::testing::AssertionFailure()
         << "relative RMS error: expected at most " << bound << ", got " << relative
         << "; worst is element " << worst << ": expected " << expected[worst] << ", got "
         << actual[worst];
}

std::string first_difference(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.size() != b.size()) return "sizes differ";
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (std::memcmp(&a[i], &b[i], sizeof(double)) != 0 && !(std::isnan(a[i]) && std::isnan(b[i]))) {
      return "element " + std::to_string(i) + ": " + std::to_string(a[i]) + " and " +
             std::to_string(b[i]);
    }
  }
  return {};
}

std::string seed_trace() { return "DCN_DEPLOY_TEST_SEED=" + std::to_string(seed()); }

}  // namespace testing
}  // namespace dcn_deploy
