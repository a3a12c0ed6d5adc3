// The refusal of int8 where an operator takes floating-point types.

#ifndef DCN_DEPLOY_CORE_DTYPE_CHECK_H_
#define DCN_DEPLOY_CORE_DTYPE_CHECK_H_

#include <initializer_list>

#include "core/dtype.h"
#include "core/status.h"

namespace dcn_deploy {

struct NamedDType {
  const char* name;
  DType dtype;
};

inline Status check_floating_point(std::initializer_list<NamedDType> tensors) {
  for (const NamedDType& tensor : tensors) {
    if (!is_floating_point(tensor.dtype)) {
      return make_status(StatusCode::kInvalidArgument,
                         "%s: expected float32, float16 or bfloat16, got %s", tensor.name,
                         name_of(tensor.dtype));
    }
  }
  return {};
}

}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_CORE_DTYPE_CHECK_H_
