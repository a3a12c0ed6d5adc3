// Loads an engine of TensorRT or TensorRT-RTX, with the plugin library of dcn_deploy, and times it.

#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "command_line.h"
#include "cuda_memory.h"
#include "dcn_deploy/plugins.h"
#include "latency.h"
#include "shared_library.h"
#include "tensor_data.h"

namespace examples {
namespace {

namespace trt = nvinfer1;

constexpr char kSummary[] =
    "Loads an engine of TensorRT or TensorRT-RTX, with the plugin library of dcn_deploy, and times "
    "it.\n"
    "Exit status: 0 done, 1 the engine did not run, 2 wrong usage or something is missing.";

// The engine is there and was loaded, but does not run.
struct RunError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// TensorRT says why a call failed here, not in what the call returns.
class Logger : public trt::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override {
    if (severity <= Severity::kWARNING) {
      std::fprintf(stderr, "%s\n", message);
    }
  }
};

const std::vector<std::pair<trt::DataType, ElementType>> kTypes{
    {trt::DataType::kFLOAT, ElementType::kFloat32}, {trt::DataType::kHALF, ElementType::kFloat16},
    {trt::DataType::kBF16, ElementType::kBfloat16}, {trt::DataType::kINT8, ElementType::kInt8},
    {trt::DataType::kUINT8, ElementType::kUint8},   {trt::DataType::kINT32, ElementType::kInt32},
    {trt::DataType::kINT64, ElementType::kInt64},   {trt::DataType::kBOOL, ElementType::kBool},
};

std::vector<int64_t> to_shape(const trt::Dims& dims) {
  return {dims.d, dims.d + std::max(dims.nbDims, 0)};
}

trt::Dims to_dims(const std::string& name, const std::vector<int64_t>& shape) {
  if (shape.size() > static_cast<std::size_t>(trt::Dims::MAX_DIMS)) {
    throw std::invalid_argument("--shape " + name + ": expected at most " +
                                std::to_string(trt::Dims::MAX_DIMS) + " sizes, got " +
                                std::to_string(shape.size()));
  }
  trt::Dims dims{};
  dims.nbDims = static_cast<int32_t>(shape.size());
  std::copy(shape.begin(), shape.end(), dims.d);
  return dims;
}

// An input or output, with memory on both sides.
struct Binding {
  TensorInfo tensor;
  bool is_input = false;
  PinnedMemory host;
  DeviceMemory device;
};

std::unique_ptr<trt::IRuntime> make_runtime(const Request& request, trt::ILogger& logger) {
  const SharedLibrary library(
      request.runtime, "Pass the path of libnvinfer.so.<major> or libtensorrt_rtx.so.<major>.");
  // The interfaces are those of the headers: of another major version they are not the same.
  const int32_t version = library.function<int32_t()>("getInferLibVersion")();
  if (version / 10000 != NV_TENSORRT_MAJOR) {
    throw std::runtime_error("--runtime: expected a library of major version " +
                             std::to_string(NV_TENSORRT_MAJOR) +
                             ", whose headers this program was compiled with, got " +
                             std::to_string(version / 10000) + " in " + request.runtime +
                             ". Compile it with the headers of that library (TENSORRT_ROOT).");
  }
  std::printf("runtime %s, version %d.%d.%d\n", request.runtime.c_str(), version / 10000,
              version / 100 % 100, version % 100);
  int devices = 0;
  const cudaError_t found = cudaGetDeviceCount(&devices);
  if (found != cudaSuccess || devices == 0) {
    throw std::runtime_error(
        std::string("expected a GPU that CUDA can use, got none (") + cudaGetErrorString(found) +
        "). An engine runs only on a machine with an NVIDIA GPU and its driver.");
  }
  // What createInferRuntime of the headers does, without being linked with the library.
  auto* const create = library.function<void*(void*, int32_t)>("createInferRuntime_INTERNAL");
  std::unique_ptr<trt::IRuntime> runtime(
      static_cast<trt::IRuntime*>(create(&logger, NV_TENSORRT_VERSION)));
  if (runtime == nullptr) {
    throw std::runtime_error("the runtime cannot be created; see what TensorRT says above");
  }
  return runtime;
}

void load_plugin(const Request& request, trt::IRuntime& runtime) {
  if (request.plugin.empty()) {
    return;
  }
  std::printf("plugin %s, version %s\n", request.plugin.c_str(),
              dcn_deploy::library_version(request.plugin).c_str());
  trt::IPluginRegistry& registry = runtime.getPluginRegistry();
  // What is registered already would be refused a second time.
  if (registry.getCreator(dcn_deploy::kDeformConv2d, dcn_deploy::kPluginVersion,
                          dcn_deploy::kDomain) == nullptr &&
      registry.loadLibrary(request.plugin.c_str()) == nullptr) {
    throw std::runtime_error("--plugin: TensorRT does not take " + request.plugin +
                             "; see what it says above");
  }
}

std::unique_ptr<trt::ICudaEngine> load_engine(const Request& request,
                                              const std::vector<char>& content,
                                              trt::IRuntime& runtime) {
  std::unique_ptr<trt::ICudaEngine> engine(
      runtime.deserializeCudaEngine(content.data(), content.size()));
  if (engine == nullptr) {
    throw std::runtime_error(
        "'" + request.model +
        "': expected an engine for this GPU, version of TensorRT and plugin library; see "
        "what TensorRT says above. Build it again: dcn-deploy build");
  }
  return engine;
}

void set_input_shapes(const Request& request, const trt::ICudaEngine& engine, int32_t profile,
                      trt::IExecutionContext& context) {
  for (const auto& [name, shape] : request.shapes) {
    if (engine.getTensorIOMode(name.c_str()) != trt::TensorIOMode::kINPUT) {
      throw std::invalid_argument("--shape: expected an input of the engine, got '" + name + "'");
    }
  }
  for (int32_t i = 0; i < engine.getNbIOTensors(); ++i) {
    const char* const name = engine.getIOTensorName(i);
    if (engine.getTensorIOMode(name) != trt::TensorIOMode::kINPUT) {
      continue;
    }
    if (engine.isShapeInferenceIO(name)) {
      throw std::runtime_error(std::string("'") + name +
                               "': expected an input on the GPU, got one whose values are a shape");
    }
    const auto named = request.shapes.find(name);
    trt::Dims dims = engine.getTensorShape(name);
    if (named != request.shapes.end()) {
      dims = to_dims(name, named->second);
    } else if (std::any_of(dims.d, dims.d + dims.nbDims, [](int64_t size) { return size < 0; })) {
      dims = engine.getProfileShape(name, profile, trt::OptProfileSelector::kOPT);
    }
    if (!context.setInputShape(name, dims)) {
      throw std::invalid_argument(
          std::string("'") + name + "': expected a shape from " +
          shape_text(
              to_shape(engine.getProfileShape(name, profile, trt::OptProfileSelector::kMIN))) +
          " to " +
          shape_text(
              to_shape(engine.getProfileShape(name, profile, trt::OptProfileSelector::kMAX))) +
          " (profile " + std::to_string(profile) + "), got " + shape_text(to_shape(dims)));
    }
  }
}

std::vector<Binding> make_bindings(const Request& request, const trt::ICudaEngine& engine,
                                   int32_t profile, trt::IExecutionContext& context) {
  std::vector<Binding> bindings;
  for (int32_t i = 0; i < engine.getNbIOTensors(); ++i) {
    const char* const name = engine.getIOTensorName(i);
    const auto row = std::find_if(kTypes.begin(), kTypes.end(), [&](const auto& known) {
      return known.first == engine.getTensorDataType(name);
    });
    if (row == kTypes.end() ||
        engine.getTensorFormat(name, profile) != trt::TensorFormat::kLINEAR) {
      throw std::runtime_error(std::string("'") + name +
                               "': expected a linear tensor with elements of a byte or more");
    }
    Binding binding;
    binding.tensor = {name, row->second, to_shape(context.getTensorShape(name))};
    binding.is_input = engine.getTensorIOMode(name) == trt::TensorIOMode::kINPUT;
    binding.host = make_pinned_memory(binding.tensor.bytes());
    binding.device = make_device_memory(binding.tensor.bytes());
    if (binding.is_input) {
      const std::vector<char> values = input_values(request, binding.tensor);
      std::copy(values.begin(), values.end(), binding.host.get());
    }
    if (!context.setTensorAddress(name, binding.device.get())) {
      throw RunError(std::string("'") + name + "': TensorRT does not take its address; see above");
    }
    std::printf("%-6s %s %s\n", binding.is_input ? "input" : "output", name,
                shape_text(binding.tensor.shape).c_str());
    bindings.push_back(std::move(binding));
  }
  return bindings;
}

void copy(const std::vector<Binding>& bindings, bool inputs, const Stream& stream) {
  for (const Binding& binding : bindings) {
    if (binding.is_input != inputs || binding.tensor.bytes() == 0) {
      continue;
    }
    char* const to = inputs ? binding.device.get() : binding.host.get();
    const char* const from = inputs ? binding.host.get() : binding.device.get();
    check_cuda(
        cudaMemcpyAsync(to, from, binding.tensor.bytes(),
                        inputs ? cudaMemcpyHostToDevice : cudaMemcpyDeviceToHost, stream.get()),
        "cudaMemcpyAsync");
  }
}

void enqueue(trt::IExecutionContext& context, const Stream& stream) {
  if (!context.enqueueV3(stream.get())) {
    throw RunError("the engine does not run; see what TensorRT says above");
  }
}

// The engine's work on the stream as a graph. The context must have run once before.
GraphExec record(trt::IExecutionContext& context, const Stream& stream) {
  check_cuda(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal),
             "cudaStreamBeginCapture");
  const bool enqueued = context.enqueueV3(stream.get());
  cudaGraph_t recorded = nullptr;
  const cudaError_t ended = cudaStreamEndCapture(stream.get(), &recorded);
  const Graph graph(recorded);
  if (!enqueued) {
    throw RunError("--graph: the engine cannot be recorded; see what TensorRT says above");
  }
  check_cuda(ended, "cudaStreamEndCapture");
  cudaGraphExec_t executable = nullptr;
  check_cuda(cudaGraphInstantiate(&executable, graph.get(), 0), "cudaGraphInstantiate");
  return GraphExec(executable);
}

void run(const Request& request, int32_t profile, bool use_graph) {
  const std::vector<char> content = read_file(request.model);
  Logger logger;
  const auto runtime = make_runtime(request, logger);
  load_plugin(request, *runtime);
  const auto engine = load_engine(request, content, *runtime);
  if (profile >= engine->getNbOptimizationProfiles()) {
    throw std::invalid_argument("--profile: expected less than " +
                                std::to_string(engine->getNbOptimizationProfiles()) +
                                ", the profiles of the engine, got " + std::to_string(profile));
  }
  const std::unique_ptr<trt::IExecutionContext> context(engine->createExecutionContext());
  if (context == nullptr) {
    throw RunError("no context for the engine; see what TensorRT says above");
  }
  const Stream stream = make_stream();
  if (!context->setOptimizationProfileAsync(profile, stream.get())) {
    throw RunError("TensorRT does not take profile " + std::to_string(profile) + "; see above");
  }
  check_cuda(cudaStreamSynchronize(stream.get()), "cudaStreamSynchronize");
  set_input_shapes(request, *engine, profile, *context);
  const std::vector<Binding> bindings = make_bindings(request, *engine, profile, *context);

  copy(bindings, true, stream);
  enqueue(*context, stream);
  check_cuda(cudaStreamSynchronize(stream.get()), "the first run");
  const GraphExec graph = use_graph ? record(*context, stream) : nullptr;
  const auto launch = [&] {
    if (graph != nullptr) {
      check_cuda(cudaGraphLaunch(graph.get(), stream.get()), "cudaGraphLaunch");
    } else {
      enqueue(*context, stream);
    }
  };

  const Event begin = make_event();
  const Event end = make_event();
  std::vector<double> on_device;
  std::vector<double> with_copies;
  for (int64_t i = 0; i < request.warm_up + request.runs; ++i) {
    const auto started = std::chrono::steady_clock::now();
    copy(bindings, true, stream);
    check_cuda(cudaEventRecord(begin.get(), stream.get()), "cudaEventRecord");
    launch();
    check_cuda(cudaEventRecord(end.get(), stream.get()), "cudaEventRecord");
    copy(bindings, false, stream);
    check_cuda(cudaStreamSynchronize(stream.get()), "a run");
    const std::chrono::duration<double, std::milli> taken =
        std::chrono::steady_clock::now() - started;
    if (i >= request.warm_up) {
      on_device.push_back(milliseconds(begin, end));
      with_copies.push_back(taken.count());
    }
  }
  if (!request.save.empty()) {
    for (const Binding& binding : bindings) {
      if (!binding.is_input) {
        save_output(request.save, binding.tensor, binding.host.get());
      }
    }
  }
  print_latency(use_graph ? "device, graph" : "device", on_device);
  print_latency("with transfers", with_copies);
}

}  // namespace
}  // namespace examples

int main(int argc, char** argv) {
  try {
    examples::Request request;
#ifdef TRT_MAJOR_RTX
    // TensorRT-RTX takes no plugins: its engines come from the form 'decomposed'.
    request.runtime = "libtensorrt_rtx.so." + std::to_string(NV_TENSORRT_MAJOR);
#else
    request.runtime = "libnvinfer.so." + std::to_string(NV_TENSORRT_MAJOR);
    request.plugin = DCN_DEPLOY_PLUGIN;
#endif
    int32_t profile = 0;
    bool use_graph = false;
    const std::vector<examples::Option> more{
        {"--profile", "N", "optimisation profile of the engine [0]",
         [&](const std::string& value) {
           profile = static_cast<int32_t>(examples::whole_number("--profile", value, 0));
         }},
        {"--graph", "", "record the run in a CUDA graph and time that",
         [&](const std::string&) { use_graph = true; }}};
    if (examples::parse(argc, argv, examples::kSummary, more, request)) {
      examples::run(request, profile, use_graph);
    }
    return 0;
  } catch (const examples::RunError& error) {
    std::fprintf(stderr, "time_engine: %s\n", error.what());
    return 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "time_engine: %s\n", error.what());
    return 2;
  }
}
