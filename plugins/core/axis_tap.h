// One row or column of a map with its weight. Plain data: included where different instruction sets
// are compiled for.

#ifndef DCN_DEPLOY_CORE_AXIS_TAP_H_
#define DCN_DEPLOY_CORE_AXIS_TAP_H_

#include <stdint.h>

namespace dcn_deploy {

// The samples of a bin merged.
struct AxisTap {
  int32_t index;
  float weight;
};

}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_CORE_AXIS_TAP_H_
