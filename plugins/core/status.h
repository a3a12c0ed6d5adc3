// What every function of the core returns: plain data, so that it crosses any boundary.

#ifndef DCN_DEPLOY_CORE_STATUS_H_
#define DCN_DEPLOY_CORE_STATUS_H_

namespace dcn_deploy {

enum class StatusCode : int {
  kOk = 0,
  // An attribute, a shape or an element type does not fit the operator.
  kInvalidArgument = 1,
  // The sizes overflow 64-bit arithmetic or what the kernels can index.
  kTooLarge = 2,
  kOutOfMemory = 3,
  // A call of the GPU's runtime failed.
  kDevice = 4,
};

// The message is cut, never overrun; a status owns no memory and cannot throw.
struct Status {
  StatusCode code = StatusCode::kOk;
  char message[508] = {0};

  bool ok() const { return code == StatusCode::kOk; }
};

#if defined(__GNUC__)
#define DCN_DEPLOY_PRINTF_FORMAT __attribute__((format(printf, 2, 3)))
#else
#define DCN_DEPLOY_PRINTF_FORMAT
#endif

// A status with a message formatted as by printf: "what: expected E, got A".
DCN_DEPLOY_PRINTF_FORMAT Status make_status(StatusCode code, const char* format, ...);

}  // namespace dcn_deploy

#define DCN_DEPLOY_RETURN_IF_ERROR(expression)                   \
  do {                                                           \
    const ::dcn_deploy::Status dcn_deploy_status = (expression); \
    if (!dcn_deploy_status.ok()) return dcn_deploy_status;       \
  } while (false)

#endif  // DCN_DEPLOY_CORE_STATUS_H_
