// The storage types in plain C++. Internal linkage: see half.h.

#ifndef DCN_DEPLOY_CORE_CPU_STORAGE_PORTABLE_H_
#define DCN_DEPLOY_CORE_CPU_STORAGE_PORTABLE_H_

#include <stdint.h>

#include "core/half.h"

namespace dcn_deploy {
namespace cpu {
namespace {

struct Float32 {
  using Type = float;
  static float load(float value) { return value; }
  static float store(float value) { return value; }
};

struct Float16 {
  using Type = uint16_t;
  static float load(uint16_t value) { return float16_to_float(value); }
  static uint16_t store(float value) { return float_to_float16(value); }
};

struct BFloat16 {
  using Type = uint16_t;
  static float load(uint16_t value) { return bfloat16_to_float(value); }
  static uint16_t store(float value) { return float_to_bfloat16(value); }
};

}  // namespace
}  // namespace cpu
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_CORE_CPU_STORAGE_PORTABLE_H_
