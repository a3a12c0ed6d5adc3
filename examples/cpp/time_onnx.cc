// Loads an ONNX file with deformable operators into ONNX Runtime and times it on the CPU.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <exception>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

// The API comes from the library that is loaded by name.
#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>

#include "command_line.h"
#include "dcn_deploy/plugins.h"
#include "latency.h"
#include "shared_library.h"
#include "tensor_data.h"

namespace examples {
namespace {

constexpr char kSummary[] =
    "Loads an ONNX file with deformable operators into ONNX Runtime and times it on the CPU.\n"
    "Exit status: 0 done, 2 wrong usage or something is missing.";

const std::vector<std::pair<ONNXTensorElementDataType, ElementType>> kTypes{
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, ElementType::kFloat32},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16, ElementType::kFloat16},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16, ElementType::kBfloat16},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8, ElementType::kInt8},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, ElementType::kUint8},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32, ElementType::kInt32},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, ElementType::kInt64},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL, ElementType::kBool},
};

template <typename Info>
TensorInfo tensor_info(std::string name, const Info& info) {
  const auto row = std::find_if(kTypes.begin(), kTypes.end(), [&](const auto& known) {
    return known.first == info.GetElementType();
  });
  if (row == kTypes.end()) {
    throw std::runtime_error("'" + name + "': expected a tensor of numbers, got ONNX type " +
                             std::to_string(info.GetElementType()));
  }
  return {std::move(name), row->second, info.GetShape()};
}

void initialise_api(const Request& request) {
  const SharedLibrary runtime(request.runtime,
                              "Pass the path of libonnxruntime.so of ONNX Runtime 1.21 or later.");
  const OrtApiBase* const base = runtime.function<const OrtApiBase*()>("OrtGetApiBase")();
  const OrtApi* const api = base->GetApi(ORT_API_VERSION);
  if (api == nullptr) {
    throw std::runtime_error("--runtime: expected ONNX Runtime with API version " +
                             std::to_string(ORT_API_VERSION) + ", got " + base->GetVersionString() +
                             ". Use a later one, or compile this program with its headers.");
  }
  Ort::InitApi(api);
  std::printf("ONNX Runtime %s\n", base->GetVersionString());
}

ONNXTensorElementDataType onnx_type(ElementType type) {
  const auto row = std::find_if(kTypes.begin(), kTypes.end(),
                                [&](const auto& known) { return known.second == type; });
  return row->first;
}

void run(const Request& request, int threads) {
  initialise_api(request);
  const Ort::Env environment(ORT_LOGGING_LEVEL_WARNING, "time_onnx");
  Ort::SessionOptions options;
  options.SetIntraOpNumThreads(threads);
  if (!request.plugin.empty()) {
    std::printf("plugin %s, version %s\n", request.plugin.c_str(),
                dcn_deploy::library_version(request.plugin).c_str());
    options.RegisterCustomOpsLibrary(request.plugin.c_str());
  }
  Ort::Session session(environment, request.model.c_str(), options);

  const Ort::AllocatorWithDefaultOptions allocator;
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  std::vector<TensorInfo> inputs;
  std::vector<std::vector<char>> values;  // what the tensors below point to
  std::vector<Ort::Value> tensors;
  for (std::size_t i = 0; i < session.GetInputCount(); ++i) {
    const Ort::TypeInfo type = session.GetInputTypeInfo(i);
    TensorInfo input = tensor_info(session.GetInputNameAllocated(i, allocator).get(),
                                   type.GetTensorTypeAndShapeInfo());
    const auto named = request.shapes.find(input.name);
    if (named != request.shapes.end()) {
      input.shape = named->second;
    }
    values.push_back(input_values(request, input));
    tensors.push_back(Ort::Value::CreateTensor(memory, values.back().data(), values.back().size(),
                                               input.shape.data(), input.shape.size(),
                                               onnx_type(input.type)));
    std::printf("input  %s %s\n", input.name.c_str(), shape_text(input.shape).c_str());
    inputs.push_back(std::move(input));
  }
  for (const auto& [name, shape] : request.shapes) {
    if (std::none_of(inputs.begin(), inputs.end(), [&, wanted = name](const TensorInfo& input) {
          return input.name == wanted;
        })) {
      throw std::invalid_argument("--shape: expected an input of the model, got '" + name + "'");
    }
  }
  std::vector<std::string> output_names;
  for (std::size_t i = 0; i < session.GetOutputCount(); ++i) {
    output_names.emplace_back(session.GetOutputNameAllocated(i, allocator).get());
  }
  std::vector<const char*> input_pointers;
  std::vector<const char*> output_pointers;
  for (const TensorInfo& input : inputs) {
    input_pointers.push_back(input.name.c_str());
  }
  for (const std::string& name : output_names) {
    output_pointers.push_back(name.c_str());
  }

  std::vector<double> times;
  std::vector<Ort::Value> outputs;
  for (int64_t i = 0; i < request.warm_up + request.runs; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    outputs = session.Run(Ort::RunOptions{nullptr}, input_pointers.data(), tensors.data(),
                          tensors.size(), output_pointers.data(), output_pointers.size());
    const std::chrono::duration<double, std::milli> taken =
        std::chrono::steady_clock::now() - begin;
    if (i >= request.warm_up) {
      times.push_back(taken.count());
    }
  }
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    const TensorInfo output = tensor_info(output_names[i], outputs[i].GetTensorTypeAndShapeInfo());
    std::printf("output %s %s\n", output.name.c_str(), shape_text(output.shape).c_str());
    if (!request.save.empty()) {
      save_output(request.save, output, static_cast<const char*>(outputs[i].GetTensorRawData()));
    }
  }
  print_latency("run", times);
}

}  // namespace
}  // namespace examples

int main(int argc, char** argv) {
  try {
    examples::Request request;
    request.runtime = "libonnxruntime.so.1";
    request.plugin = DCN_DEPLOY_PLUGIN;
    int threads = 0;
    const std::vector<examples::Option> more{
        {"--threads", "N", "threads of an operator [0: one for each core]",
         [&](const std::string& value) {
           threads = static_cast<int>(examples::whole_number("--threads", value, 0));
         }}};
    if (examples::parse(argc, argv, examples::kSummary, more, request)) {
      examples::run(request, threads);
    }
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "time_onnx: %s\n", error.what());
    return 2;
  }
}
