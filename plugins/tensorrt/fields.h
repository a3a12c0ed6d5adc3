// Plugin fields: how a node's attributes come to a plugin, and how a plugin gets into an engine.
//
// Each plugin lists its fields once, to a FieldVisitor. The list serves the creator's field names,
// the reading of a field collection, its writing into an engine, and the timing-cache identifier.

#ifndef DCN_DEPLOY_TENSORRT_FIELDS_H_
#define DCN_DEPLOY_TENSORRT_FIELDS_H_

#include <NvInferRuntime.h>

#include <cstdint>
#include <deque>
#include <initializer_list>
#include <string>
#include <vector>

namespace dcn_deploy {
namespace tensorrt {

// What is written into an engine, as a whole: raised when a field changes its meaning, comes or
// goes, so that a library refuses an engine of another one instead of misreading it.
inline constexpr std::int32_t kFieldsVersion = 1;

class FieldVisitor {
 public:
  virtual ~FieldVisitor() = default;

  // Integers, as many as there are values. They are 32-bit numbers in an engine and from the ONNX
  // parser; a program may give 64-bit ones.
  virtual void integers(const char* name, std::initializer_list<std::int64_t*> values) = 0;
  virtual void real(const char* name, float* value) = 0;
  // One or more.
  virtual void reals(const char* name, std::vector<float>* values) = 0;
  virtual void text(const char* name, std::string* value) = 0;
  // 0 or 1.
  void flag(const char* name, bool* value);
};

// The fields' names and types, without values.
class FieldNames final : public FieldVisitor {
 public:
  void integers(const char* name, std::initializer_list<std::int64_t*> values) override;
  void real(const char* name, float* value) override;
  void reals(const char* name, std::vector<float>* values) override;
  void text(const char* name, std::string* value) override;

  const nvinfer1::PluginFieldCollection* collection();

 private:
  std::vector<nvinfer1::PluginField> fields_;
  nvinfer1::PluginFieldCollection collection_;
};

// Reads values. Throws a Failure for a field of another type or length.
class FieldReader final : public FieldVisitor {
 public:
  // kBUILD: what is not given keeps its default. kRUNTIME: everything must be there, as a
  // FieldWriter of the same kFieldsVersion wrote it.
  FieldReader(const nvinfer1::PluginFieldCollection* collection, nvinfer1::TensorRTPhase phase);

  void integers(const char* name, std::initializer_list<std::int64_t*> values) override;
  void real(const char* name, float* value) override;
  void reals(const char* name, std::vector<float>* values) override;
  void text(const char* name, std::string* value) override;

  // Whether kBUILD's collection has it.
  bool has(const char* name) const;
  // Refuses fields that nobody has read.
  void finish() const;

 private:
  struct Entry {
    const nvinfer1::PluginField* field;
    bool read;
  };

  // Null if it is not there, which kRUNTIME refuses.
  const nvinfer1::PluginField* take(const char* name);

  std::vector<Entry> entries_;
  std::string known_;
  const bool must_be_complete_;
};

// Holds the values that its collection points to.
class FieldWriter final : public FieldVisitor {
 public:
  FieldWriter();
  FieldWriter(const FieldWriter&) = delete;
  FieldWriter& operator=(const FieldWriter&) = delete;

  void integers(const char* name, std::initializer_list<std::int64_t*> values) override;
  void real(const char* name, float* value) override;
  void reals(const char* name, std::vector<float>* values) override;
  void text(const char* name, std::string* value) override;

  const nvinfer1::PluginFieldCollection* collection();

 private:
  void integer(const char* name, std::int64_t value);

  std::deque<std::vector<std::int32_t>> integers_;
  std::deque<std::vector<float>> reals_;
  std::deque<std::string> texts_;
  std::vector<nvinfer1::PluginField> fields_;
  nvinfer1::PluginFieldCollection collection_;
};

// "name=value;name=value;", to tell plugins apart.
class FieldText final : public FieldVisitor {
 public:
  void integers(const char* name, std::initializer_list<std::int64_t*> values) override;
  void real(const char* name, float* value) override;
  void reals(const char* name, std::vector<float>* values) override;
  void text(const char* name, std::string* value) override;

  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

}  // namespace tensorrt
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_TENSORRT_FIELDS_H_
