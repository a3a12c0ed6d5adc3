// A thin layer over ONNX Runtime's C API: failures become exceptions inside this library, and
// exceptions become statuses at its boundary (see guarded). Only what version 21 of the API (ONNX
// Runtime 1.21) has is used, so that one library serves every later runtime.

#ifndef DCN_DEPLOY_ONNXRUNTIME_API_H_
#define DCN_DEPLOY_ONNXRUNTIME_API_H_

#include <onnxruntime_c_api.h>

#include <cstdint>
#include <exception>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "core/status.h"

namespace dcn_deploy {
namespace onnxruntime {

inline constexpr std::uint32_t kApiVersion = 21;
static_assert(ORT_API_VERSION >= kApiVersion,
              "the headers of ONNX Runtime 1.21 or later are needed");

// Never leaves the library.
class Failure : public std::exception {
 public:
  Failure(OrtErrorCode code, std::string message) : code_(code), message_(std::move(message)) {}

  OrtErrorCode code() const { return code_; }
  const char* what() const noexcept override { return message_.c_str(); }

 private:
  OrtErrorCode code_;
  std::string message_;
};

// Runs `body` and turns whatever it throws into a status of ONNX Runtime's.
template <typename Body>
OrtStatusPtr guarded(const OrtApi& api, Body&& body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const Failure& failure) {
    return api.CreateStatus(failure.code(), failure.what());
  } catch (const std::bad_alloc&) {
    return api.CreateStatus(ORT_FAIL, "dcn_deploy: out of memory");
  } catch (const std::exception& error) {
    return api.CreateStatus(ORT_FAIL, error.what());
  } catch (...) {
    return api.CreateStatus(ORT_FAIL, "dcn_deploy: unknown exception");
  }
}

// Throws a Failure if a call into ONNX Runtime failed.
void check(const OrtApi& api, OrtStatusPtr status);

// Throws a Failure "<where>: <message>" if the core refused.
void check(const Status& status, const std::string& where);

// The element type's name as ONNX has it: "float32", "int64", "string".
const char* name_of(ONNXTensorElementDataType type);

// What is known of a tensor, at session creation or in a run.
struct TensorDescription {
  // Optional input that is not there.
  bool present = false;
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  // ONNX Runtime 1.21 says "rank 0" for an unknown rank as well, so a rank of 0 is not known before
  // the run.
  bool known_rank = false;
  // -1: not known.
  std::vector<std::int64_t> dims;
};

// Reads a node while its session is made.
class NodeInfo {
 public:
  NodeInfo(const OrtApi& api, const OrtKernelInfo* info, const char* op_type);

  // "DeformConv2d node 'name'", or with the output's name if the node has none.
  const std::string& where() const { return where_; }

  // Attributes: the default if absent; a Failure that names the node if of another type.
  std::int64_t int_attribute(const char* name, std::int64_t default_value) const;
  float float_attribute(const char* name, float default_value) const;
  std::string string_attribute(const char* name, const char* default_value) const;
  // An empty vector if absent; a Failure unless it has `length` values.
  std::vector<std::int64_t> ints_attribute(const char* name, std::size_t length) const;

  TensorDescription input(std::size_t index) const;

  // Null if the input is not an initialiser.
  const OrtValue* constant_input(std::size_t index) const;

 private:
  // Whether there is such an attribute, and it is an integer, a real number or a string.
  bool has_single_value(const char* name) const;
  // Whether there is such an attribute, of whatever type.
  bool has_attribute(const char* name) const;
  // Throws a Failure if there is such an attribute: one that has not the expected type.
  void refuse_other_type(const char* name, const char* expected) const;
  std::string input_name(std::size_t index) const;

  const OrtApi& api_;
  const OrtKernelInfo* info_;
  std::string where_;
};

TensorDescription describe(const OrtApi& api, const OrtTensorTypeAndShapeInfo* info);
TensorDescription describe(const OrtApi& api, const OrtValue* value);

const void* data_of(const OrtApi& api, const OrtValue* value);

}  // namespace onnxruntime
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_ONNXRUNTIME_API_H_
