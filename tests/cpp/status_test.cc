#include "core/status.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>

namespace dcn_deploy {
namespace {

TEST(Status, DefaultIsOk) {
  const Status status;
  EXPECT_TRUE(status.ok());
  EXPECT_STREQ(status.message, "");
}

TEST(Status, FormatsItsMessage) {
  const Status status = make_status(StatusCode::kInvalidArgument, "x: expected %d, got %s", 3, "4");
  EXPECT_FALSE(status.ok());
  EXPECT_EQ(status.code, StatusCode::kInvalidArgument);
  EXPECT_STREQ(status.message, "x: expected 3, got 4");
}

TEST(Status, CutsALongMessage) {
  const std::string text(10000, 'a');
  const Status status = make_status(StatusCode::kTooLarge, "%s", text.c_str());
  EXPECT_EQ(std::strlen(status.message), sizeof(status.message) - 1);
}

}  // namespace
}  // namespace dcn_deploy
