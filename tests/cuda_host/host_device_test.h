// What tests on the host-played device share.

#ifndef DCN_DEPLOY_TESTS_CUDA_HOST_HOST_DEVICE_TEST_H_
#define DCN_DEPLOY_TESTS_CUDA_HOST_HOST_DEVICE_TEST_H_

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "host_device.h"

namespace dcn_deploy {
namespace cuda {

// Starts with the settings' defaults and no fault, and leaves no finding behind unseen.
class HostDeviceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    host::configure({});
    host::plant_fault(0);
    host::take_findings();
  }
  void TearDown() override {
    host::plant_fault(0);
    for (const host::Finding& finding : host::take_findings()) ADD_FAILURE() << finding.message;
  }
};

inline std::vector<host::Settings> all_orders() {
  std::vector<host::Settings> all;
  for (const host::AsyncCopies copies : {host::AsyncCopies::kLate, host::AsyncCopies::kAtOnce}) {
    for (const host::ThreadOrder order :
         {host::ThreadOrder::kForward, host::ThreadOrder::kReverse, host::ThreadOrder::kRandom}) {
      host::Settings settings;
      settings.async_copies = copies;
      settings.thread_order = order;
      settings.shuffle_blocks = order == host::ThreadOrder::kRandom;
      all.push_back(settings);
    }
  }
  return all;
}

// The findings are one, of that kind, whose message has `text` in it.
inline ::testing::AssertionResult found(host::Violation violation, const std::string& text) {
  const std::vector<host::Finding> findings = host::take_findings();
  if (findings.size() != 1) {
    return ::testing::AssertionFailure() << "expected one finding, got " << findings.size();
  }
  if (findings[0].violation != violation || findings[0].message.find(text) == std::string::npos) {
    return ::testing::AssertionFailure()
           << "expected a finding with '" << text << "', got: " << findings[0].message;
  }
  return ::testing::AssertionSuccess();
}

}  // namespace cuda
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_TESTS_CUDA_HOST_HOST_DEVICE_TEST_H_
