// How results are compared with the double reference and with each other.

#ifndef DCN_DEPLOY_TESTS_CPP_COMPARISON_H_
#define DCN_DEPLOY_TESTS_CPP_COMPARISON_H_

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "core/cpu/kernels.h"
#include "core/dtype.h"

namespace dcn_deploy {
namespace testing {

// Relative RMS error allowed against the double reference on inputs rounded to storage first.
inline constexpr double kRelativeRms[kDTypeCount] = {1e-6, 1e-3, 8e-3};

double root_mean_square(const std::vector<double>& values);

// The relative RMS error is within the bound of `dtype`, no element is off by much more than that,
// and both are NaN at the same places.
::testing::AssertionResult close(const std::vector<double>& actual,
                                 const std::vector<double>& expected, DType dtype);

// The first place at which the bits differ; empty if there is none.
std::string first_difference(const std::vector<double>& a, const std::vector<double>& b);

// Every set of inner loops that this processor runs.
std::vector<const cpu::Kernels*> available_kernels();

// What to set to run a test again with the same random numbers.
std::string seed_trace();

}  // namespace testing
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_TESTS_CPP_COMPARISON_H_
