// Where in a kernel something was called.

#ifndef DCN_DEPLOY_TESTS_CUDA_HOST_SHIM_SITE_H_
#define DCN_DEPLOY_TESTS_CUDA_HOST_SHIM_SITE_H_

namespace dcn_deploy {
namespace cuda {
namespace host {

struct Site {
  const char* file = "";
  int line = 0;

  // As a default argument: the place of the call.
  static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
  // The file's name without its folder.
  const char* name() const {
    const char* start = file;
    for (const char* c = file; *c != '\0'; ++c) {
      if (*c == '/') start = c + 1;
    }
    return start;
  }
  bool operator==(const Site& other) const { return file == other.file && line == other.line; }
};

}  // namespace host
}  // namespace cuda
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_TESTS_CUDA_HOST_SHIM_SITE_H_
