// Who holds which element of the operands of mma.sync, and the product itself (PTX ISA, "Matrix
// Fragments for mma.m16n8k16", "mma.m16n8k8" and "mma.m16n8k32"; A by rows, B by columns).

#ifndef DCN_DEPLOY_TESTS_CUDA_HOST_SHIM_MATRIX_FRAGMENTS_H_
#define DCN_DEPLOY_TESTS_CUDA_HOST_SHIM_MATRIX_FRAGMENTS_H_

#include <cstdint>

namespace dcn_deploy {
namespace cuda {
namespace host {

enum class MatrixFormat { kFloat16, kBFloat16, kTf32, kInt8 };

// One lane's operands.
struct MatrixOperands {
  void* d;                 // 4 float32, or int32 for int8; read and written
  const std::uint32_t* a;  // 4 registers
  const std::uint32_t* b;  // 2 registers
};

// d += a · b for the 32 lanes of a warp. The sum of products and accumulator is rounded towards
// zero once, as the tensor cores do it; that of int8 is modulo 2^32.
void multiply_fragments(MatrixFormat format, const MatrixOperands (&lanes)[32]);

}  // namespace host
}  // namespace cuda
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_TESTS_CUDA_HOST_SHIM_MATRIX_FRAGMENTS_H_
