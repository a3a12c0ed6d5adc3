// Storage types of tensors. Arithmetic is float32 whatever the storage type.

#ifndef DCN_DEPLOY_CORE_DTYPE_H_
#define DCN_DEPLOY_CORE_DTYPE_H_

#include <cstddef>

namespace dcn_deploy {

// The values index the tables of kernels by storage type.
enum class DType : int { kFloat32 = 0, kFloat16 = 1, kBFloat16 = 2 };

inline constexpr int kDTypeCount = 3;

constexpr std::size_t size_of(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

constexpr const char* name_of(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return "float32";
    case DType::kFloat16:
      return "float16";
    case DType::kBFloat16:
      return "bfloat16";
  }
  return "unknown";
}

}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_CORE_DTYPE_H_
