// Storage types of tensors. Arithmetic is float32 whatever the storage type; products of int8 are
// summed in int32.

#ifndef DCN_DEPLOY_CORE_DTYPE_H_
#define DCN_DEPLOY_CORE_DTYPE_H_

#include <cstddef>

namespace dcn_deploy {

// The values of the floating-point types index the tables of kernels by storage type. Whatever
// takes int8 says so, and everything else refuses it.
enum class DType : int { kFloat32 = 0, kFloat16 = 1, kBFloat16 = 2, kInt8 = 3 };

// Of floating-point types, which come first.
inline constexpr int kDTypeCount = 3;

constexpr bool is_floating_point(DType dtype) { return static_cast<int>(dtype) < kDTypeCount; }

constexpr std::size_t size_of(DType dtype) {
  return dtype == DType::kFloat32 ? 4 : dtype == DType::kInt8 ? 1 : 2;
}

constexpr const char* name_of(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return "float32";
    case DType::kFloat16:
      return "float16";
    case DType::kBFloat16:
      return "bfloat16";
    case DType::kInt8:
      return "int8";
  }
  return "unknown";
}

}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_CORE_DTYPE_H_
