#include "tensorrt/fields.h"

#include <cstdio>
#include <cstring>
#include <limits>

#include "tensorrt/failure.h"

namespace dcn_deploy {
namespace tensorrt {
namespace {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

constexpr const char* kVersionField = "fields_version";

std::string name_of(PluginFieldType type) {
  switch (type) {
    case PluginFieldType::kFLOAT16:
      return "kFLOAT16";
    case PluginFieldType::kFLOAT32:
      return "kFLOAT32";
    case PluginFieldType::kFLOAT64:
      return "kFLOAT64";
    case PluginFieldType::kINT8:
      return "kINT8";
    case PluginFieldType::kINT16:
      return "kINT16";
    case PluginFieldType::kINT32:
      return "kINT32";
    case PluginFieldType::kCHAR:
      return "kCHAR";
    case PluginFieldType::kDIMS:
      return "kDIMS";
    case PluginFieldType::kINT64:
      return "kINT64";
    default:
      return "type " + std::to_string(static_cast<std::int32_t>(type));
  }
}

[[noreturn]] void refuse_type(const PluginField& field, const char* expected) {
  throw Failure(std::string("field ") + field.name + ": expected " + expected + ", got " +
                name_of(field.type));
}

void require_length(const PluginField& field, std::size_t length) {
  if (field.length == static_cast<std::int64_t>(length)) return;
  throw Failure(std::string("field ") + field.name + ": expected " + std::to_string(length) +
                (length == 1 ? " value" : " values") + ", got " + std::to_string(field.length));
}

std::int64_t integer_at(const PluginField& field, std::size_t index) {
  std::int64_t value = 0;
  if (field.type == PluginFieldType::kINT32) {
    std::int32_t narrow;
    std::memcpy(&narrow, static_cast<const char*>(field.data) + index * sizeof(narrow),
                sizeof(narrow));
    value = narrow;
  } else if (field.type == PluginFieldType::kINT64) {
    std::memcpy(&value, static_cast<const char*>(field.data) + index * sizeof(value),
                sizeof(value));
  } else {
    refuse_type(field, "kINT32 or kINT64");
  }
  // So that it fits into an engine.
  if (value < std::numeric_limits<std::int32_t>::min() ||
      value > std::numeric_limits<std::int32_t>::max()) {
    throw Failure(std::string("field ") + field.name + ": expected 32-bit integers, got " +
                  std::to_string(value));
  }
  return value;
}

std::vector<float> reals_of(const PluginField& field) {
  std::vector<float> values(static_cast<std::size_t>(field.length));
  const auto* data = static_cast<const char*>(field.data);
  if (field.type == PluginFieldType::kFLOAT32) {
    if (!values.empty()) std::memcpy(values.data(), data, values.size() * sizeof(float));
  } else if (field.type == PluginFieldType::kFLOAT64) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      double wide;
      std::memcpy(&wide, data + i * sizeof(wide), sizeof(wide));
      values[i] = static_cast<float>(wide);
    }
  } else {
    refuse_type(field, "kFLOAT32 or kFLOAT64");
  }
  return values;
}

std::string text_of(float value) {
  char number[32];
  std::snprintf(number, sizeof(number), "%.9g", static_cast<double>(value));
  return number;
}

std::string joined(std::initializer_list<std::int64_t*> values) {
  std::string text;
  for (const std::int64_t* value : values) {
    text += (text.empty() ? "" : ",") + std::to_string(*value);
  }
  return text;
}

}  // namespace

void FieldVisitor::flag(const char* name, bool* value) {
  std::int64_t integer = *value ? 1 : 0;
  integers(name, {&integer});
  if (integer != 0 && integer != 1) {
    throw Failure(std::string("field ") + name + ": expected 0 or 1, got " +
                  std::to_string(integer));
  }
  *value = integer == 1;
}

void FieldNames::integers(const char* name, std::initializer_list<std::int64_t*> values) {
  fields_.emplace_back(name, nullptr, PluginFieldType::kINT32,
                       static_cast<std::int32_t>(values.size()));
}

void FieldNames::real(const char* name, float*) {
  fields_.emplace_back(name, nullptr, PluginFieldType::kFLOAT32, 1);
}

void FieldNames::reals(const char* name, std::vector<float>*) {
  fields_.emplace_back(name, nullptr, PluginFieldType::kFLOAT32, 0);
}

void FieldNames::text(const char* name, std::string*) {
  fields_.emplace_back(name, nullptr, PluginFieldType::kCHAR, 0);
}

const nvinfer1::PluginFieldCollection* FieldNames::collection() {
  collection_.nbFields = static_cast<std::int32_t>(fields_.size());
  collection_.fields = fields_.data();
  return &collection_;
}

FieldReader::FieldReader(const nvinfer1::PluginFieldCollection* collection,
                         nvinfer1::TensorRTPhase phase)
    : must_be_complete_(phase == nvinfer1::TensorRTPhase::kRUNTIME) {
  if (collection == nullptr) throw Failure("field collection: expected one, got null");
  if (collection->nbFields < 0 || (collection->nbFields > 0 && collection->fields == nullptr)) {
    throw Failure("field collection: expected fields, got " + std::to_string(collection->nbFields) +
                  (collection->fields == nullptr ? " at null" : ""));
  }
  for (std::int32_t i = 0; i < collection->nbFields; ++i) {
    const PluginField& field = collection->fields[i];
    if (field.name == nullptr) {
      throw Failure("field " + std::to_string(i) + ": expected a name, got null");
    }
    if (field.length < 0 || (field.length > 0 && field.data == nullptr)) {
      throw Failure(std::string("field ") + field.name + ": expected data, got " +
                    std::to_string(field.length) + " values" +
                    (field.data == nullptr ? " at null" : ""));
    }
    if (has(field.name)) {
      throw Failure(std::string("field ") + field.name + ": expected it once, got it twice");
    }
    entries_.push_back({&field, false});
  }
  if (!must_be_complete_) return;
  if (!has(kVersionField)) {
    throw Failure(std::string("fields of the engine: expected ") + kVersionField +
                  " among them, got none. Rebuild the engine with this library");
  }
  std::int64_t version = 0;
  integers(kVersionField, {&version});
  if (version != kFieldsVersion) {
    throw Failure("fields of the engine: expected version " + std::to_string(kFieldsVersion) +
                  ", got " + std::to_string(version) +
                  ". Rebuild the engine with this library, or load the library that built it");
  }
}

const PluginField* FieldReader::take(const char* name) {
  known_ += (known_.empty() ? "" : ", ") + std::string(name);
  for (Entry& entry : entries_) {
    if (std::strcmp(entry.field->name, name) != 0) continue;
    entry.read = true;
    return entry.field;
  }
  if (must_be_complete_) {
    throw Failure(std::string("fields of the engine: expected ") + name +
                  " among them, got none. Rebuild the engine with this library");
  }
  return nullptr;
}

void FieldReader::integers(const char* name, std::initializer_list<std::int64_t*> values) {
  const PluginField* field = take(name);
  if (field == nullptr) return;
  if (field->type != PluginFieldType::kINT32 && field->type != PluginFieldType::kINT64) {
    refuse_type(*field, "kINT32 or kINT64");
  }
  require_length(*field, values.size());
  std::size_t index = 0;
  for (std::int64_t* value : values) *value = integer_at(*field, index++);
}

void FieldReader::real(const char* name, float* value) {
  const PluginField* field = take(name);
  if (field == nullptr) return;
  // Of another type its length says nothing.
  const std::vector<float> values = reals_of(*field);
  require_length(*field, 1);
  *value = values[0];
}

void FieldReader::reals(const char* name, std::vector<float>* values) {
  const PluginField* field = take(name);
  if (field == nullptr) return;
  *values = reals_of(*field);
  if (values->empty()) {
    throw Failure(std::string("field ") + name + ": expected 1 value or more, got 0");
  }
}

void FieldReader::text(const char* name, std::string* value) {
  const PluginField* field = take(name);
  if (field == nullptr) return;
  if (field->type != PluginFieldType::kCHAR) refuse_type(*field, "kCHAR");
  value->clear();
  if (field->length > 0) {
    value->assign(static_cast<const char*>(field->data), static_cast<std::size_t>(field->length));
  }
  // With or without an end, depending on who made it.
  while (!value->empty() && value->back() == '\0') value->pop_back();
}

bool FieldReader::has(const char* name) const {
  for (const Entry& entry : entries_) {
    if (std::strcmp(entry.field->name, name) == 0) return true;
  }
  return false;
}

void FieldReader::finish() const {
  for (const Entry& entry : entries_) {
    if (entry.read) continue;
    throw Failure(std::string("field ") + entry.field->name + ": expected one of " + known_ +
                  ", got another");
  }
}

FieldWriter::FieldWriter() { integer(kVersionField, kFieldsVersion); }

void FieldWriter::integer(const char* name, std::int64_t value) { integers(name, {&value}); }

void FieldWriter::integers(const char* name, std::initializer_list<std::int64_t*> values) {
  std::vector<std::int32_t>& stored = integers_.emplace_back();
  for (const std::int64_t* value : values) stored.push_back(static_cast<std::int32_t>(*value));
  fields_.emplace_back(name, stored.data(), PluginFieldType::kINT32,
                       static_cast<std::int32_t>(stored.size()));
}

void FieldWriter::real(const char* name, float* value) {
  std::vector<float> one = {*value};
  reals(name, &one);
}

void FieldWriter::reals(const char* name, std::vector<float>* values) {
  const std::vector<float>& stored = reals_.emplace_back(*values);
  fields_.emplace_back(name, stored.data(), PluginFieldType::kFLOAT32,
                       static_cast<std::int32_t>(stored.size()));
}

void FieldWriter::text(const char* name, std::string* value) {
  const std::string& stored = texts_.emplace_back(*value);
  // With its end, so that no field is empty.
  fields_.emplace_back(name, stored.c_str(), PluginFieldType::kCHAR,
                       static_cast<std::int32_t>(stored.size() + 1));
}

const nvinfer1::PluginFieldCollection* FieldWriter::collection() {
  collection_.nbFields = static_cast<std::int32_t>(fields_.size());
  collection_.fields = fields_.data();
  return &collection_;
}

void FieldText::integers(const char* name, std::initializer_list<std::int64_t*> values) {
  text_ += std::string(name) + "=" + joined(values) + ";";
}

void FieldText::real(const char* name, float* value) {
  text_ += std::string(name) + "=" + text_of(*value) + ";";
}

void FieldText::reals(const char* name, std::vector<float>* values) {
  std::string list;
  for (const float value : *values) list += (list.empty() ? "" : ",") + text_of(value);
  text_ += std::string(name) + "=" + list + ";";
}

void FieldText::text(const char* name, std::string* value) {
  text_ += std::string(name) + "=" + *value + ";";
}

}  // namespace tensorrt
}  // namespace dcn_deploy
