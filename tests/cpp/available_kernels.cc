#include <vector>

#include "comparison.h"
#include "core/cpu/kernels.h"

namespace dcn_deploy {
namespace testing {

std::vector<const cpu::Kernels*> available_kernels() {
  std::vector<const cpu::Kernels*> all;
  for (const char* name : {"portable", "avx2", "avx512"}) {
    if (const cpu::Kernels* kernels = cpu::find_kernels(name)) all.push_back(kernels);
  }
  return all;
}

}  // namespace testing
}  // namespace dcn_deploy
