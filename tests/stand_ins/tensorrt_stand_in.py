"""A stand-in for the runtime part of TensorRT's API: an "engine" is an ONNX model that ONNX Runtime runs on the CPU.

Device memory is that of the stand-in for cuda-bindings, so the two work together as the real ones do: a run is put on a
stream and happens when somebody synchronises. Where the real API goes wrong silently (unknown names, addresses outside
of memory, a changed device), this one raises :class:`MisuseError`; where it returns False or None and writes to the
log, so does this one. It has the methods that the project calls and no others; a test compares each with the real
bindings.
"""

from __future__ import annotations

import base64
import enum
import json
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from cuda.bindings import runtime as cuda

__all__ = [
    "DataType",
    "Dims",
    "EngineInspector",
    "ExecutionContextAllocationStrategy",
    "ICudaEngine",
    "IExecutionContext",
    "ILogger",
    "IOutputAllocator",
    "IProfiler",
    "LayerInformationFormat",
    "MisuseError",
    "Runtime",
    "TensorFormat",
    "TensorIOMode",
    "TensorLocation",
    "get_plugin_registry",
    "init_libnvinfer_plugins",
]

__version_tensorrt__ = "10.14.1.48"
__version_rtx__ = "1.7.1.116"

_MAGIC = b"stand-in engine\n"
#: What a context takes on the device, for each profile.
CONTEXT_BYTES = 4096


class MisuseError(AssertionError):
    """Something that the real API would answer with undefined behaviour."""


DataType = enum.Enum(
    "DataType", ["FLOAT", "HALF", "INT8", "INT32", "BOOL", "UINT8", "FP8", "BF16", "INT64", "INT4", "FP4", "E8M0"]
)
TensorIOMode = enum.Enum("TensorIOMode", ["NONE", "INPUT", "OUTPUT"])
TensorLocation = enum.Enum("TensorLocation", ["DEVICE", "HOST"])
TensorFormat = enum.Enum("TensorFormat", ["LINEAR", "HWC8"])
LayerInformationFormat = enum.Enum("LayerInformationFormat", ["ONELINE", "JSON"])
ExecutionContextAllocationStrategy = enum.Enum(
    "ExecutionContextAllocationStrategy", ["STATIC", "ON_PROFILE_CHANGE", "USER_MANAGED"]
)
CudaGraphStrategy = enum.Enum("CudaGraphStrategy", ["DISABLED", "WHOLE_GRAPH_CAPTURE"])
DynamicShapesKernelSpecializationStrategy = enum.Enum(
    "DynamicShapesKernelSpecializationStrategy", ["LAZY", "EAGER", "NONE"]
)

_DTYPES = {
    "float32": DataType.FLOAT,
    "float16": DataType.HALF,
    "bfloat16": DataType.BF16,
    "int32": DataType.INT32,
    "int64": DataType.INT64,
    "int8": DataType.INT8,
    "uint8": DataType.UINT8,
    "bool": DataType.BOOL,
    "float8_e4m3fn": DataType.FP8,
}


class Dims:
    """Extents; like the real one a sequence, but no tuple."""

    def __init__(self, shape: Sequence[int]) -> None:
        self._shape = tuple(int(extent) for extent in shape)

    def __len__(self) -> int:
        return len(self._shape)

    def __getitem__(self, index: int) -> int:
        return self._shape[index]


class ILogger:
    Severity = enum.Enum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"])

    def __init__(self) -> None:
        self._initialized = True

    def log(self, severity: Any, msg: str) -> None:
        raise NotImplementedError


class IProfiler:
    def __init__(self) -> None:
        self._initialized = True

    def report_layer_time(self, layer_name: str, ms: float) -> None:
        raise NotImplementedError


class IOutputAllocator:
    def __init__(self) -> None:
        self._initialized = True


def _require_initialized(thing: Any, kind: type) -> None:
    if not isinstance(thing, kind) or not getattr(thing, "_initialized", False):
        raise TypeError(f"expected a {kind.__name__} whose __init__ was called, got {type(thing).__name__}")


class _PluginRegistry:
    """Knows the project's two plugins once any library is loaded."""

    def __init__(self) -> None:
        #: What was loaded, for tests.
        self.loaded: list[str] = []

    def load_library(self, plugin_path: str) -> object:
        self.loaded.append(plugin_path)
        return object()

    def get_creator(self, type: str, version: str, plugin_namespace: str = "") -> object | None:
        known = self.loaded and type in ("DeformConv2d", "DeformRoIPool2d") and plugin_namespace == "dcn_deploy"
        return object() if known else None


_registry = _PluginRegistry()
#: Namespaces for which TensorRT's own plugins were asked for, for tests.
_stock_plugins: list[str] = []


def init_libnvinfer_plugins(logger: ILogger, namespace: str) -> bool:
    _require_initialized(logger, ILogger)
    _stock_plugins.append(namespace)
    return True


def get_plugin_registry() -> _PluginRegistry:
    return _registry


def serialize(
    model: onnx.ModelProto,
    profiles: Sequence[Mapping[str, Sequence[Sequence[int]]]] = (),
    *,
    late: Sequence[str] = (),
    layers: Sequence[Any] | None = None,
    on_host: Sequence[str] = (),
    in_blocks: Sequence[str] = (),
    fails: str = "",
) -> bytes:
    """Return an engine.

    Args:
        model: what it computes.
        profiles: for each profile (smallest, optimal, largest) shapes of the inputs with dynamic axes.
        late: outputs whose shapes are only known after the run.
        layers: what the inspector lists; names, or mappings with at least ``Name``. None: the names of the nodes.
        on_host: inputs that are shape tensors.
        in_blocks: tensors of the format HWC8.
        fails: what every run says and fails with.
    """
    description = {
        "model": base64.b64encode(model.SerializeToString()).decode(),
        "profiles": [dict(profile) for profile in profiles] or [{}],
        "late": list(late),
        "layers": [node.name for node in model.graph.node] if layers is None else list(layers),
        "on_host": list(on_host),
        "in_blocks": list(in_blocks),
        "fails": fails,
    }
    return _MAGIC + json.dumps(description).encode()


class Runtime:
    _engine: type[ICudaEngine]

    def __init__(self, logger: ILogger) -> None:
        _require_initialized(logger, ILogger)
        self._logger = logger
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        status, device = cuda.cudaGetDevice()
        if status != cuda.cudaError_t.cudaSuccess:
            self._logger.log(ILogger.Severity.ERROR, f"CUDA initialization failure with error: {int(status)}")
            return None
        if not serialized_engine.startswith(_MAGIC):
            self._logger.log(ILogger.Severity.ERROR, "deserializeCudaEngine: Magic tag does not match")
            return None
        return self._engine(json.loads(serialized_engine[len(_MAGIC) :]), self._logger, device)


class ICudaEngine:
    def __init__(self, description: Any, logger: ILogger, device: int) -> None:
        from dcn_deploy.runtime import onnx_model

        self._description = description
        self._logger = logger
        self._device = device
        self._model = onnx.ModelProto.FromString(base64.b64decode(description["model"]))
        self._inputs = {spec.name: spec for spec in onnx_model.input_specs(self._model)}
        self._outputs = {value.name: onnx_model.tensor_spec(value) for value in self._model.graph.output}
        self._runner: Any = None
        #: Contexts that were made, for tests.
        self._contexts: weakref.WeakSet[IExecutionContext] = weakref.WeakSet()

    @property
    def num_io_tensors(self) -> int:
        return len(self._inputs) + len(self._outputs)

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._description["profiles"])

    def get_tensor_name(self, index: int) -> str:
        return [*self._inputs, *self._outputs][index]

    def get_tensor_mode(self, name: str) -> Any:
        self._spec(name)
        return TensorIOMode.INPUT if name in self._inputs else TensorIOMode.OUTPUT

    def get_tensor_location(self, name: str) -> Any:
        self._spec(name)
        return TensorLocation.HOST if name in self._description["on_host"] else TensorLocation.DEVICE

    def get_tensor_format(self, name: str, profile_index: int) -> Any:
        self._spec(name)
        if not 0 <= profile_index < self.num_optimization_profiles:
            raise MisuseError(f"there is no profile {profile_index}")
        return TensorFormat.HWC8 if name in self._description["in_blocks"] else TensorFormat.LINEAR

    def get_tensor_dtype(self, name: str) -> Any:
        return _DTYPES[self._spec(name).dtype.name]

    def get_tensor_shape(self, name: str) -> Dims:
        return Dims([extent if isinstance(extent, int) else -1 for extent in self._spec(name).shape])

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Dims]:
        if name not in self._inputs:
            raise MisuseError(f"'{name}' is no input")
        fixed = [list(self.get_tensor_shape(name))] * 3
        return [Dims(shape) for shape in self._description["profiles"][profile_index].get(name, fixed)]

    def create_execution_context(self, strategy: Any = ExecutionContextAllocationStrategy.STATIC) -> IExecutionContext:
        if not isinstance(strategy, ExecutionContextAllocationStrategy):
            raise TypeError("create_execution_context(): incompatible function arguments")
        return self._context(strategy, False)

    def _context(self, strategy: Any, records: bool) -> IExecutionContext | None:
        self._require_device()
        try:
            context = IExecutionContext(self, strategy, records)
        except MemoryError:
            self._logger.log(ILogger.Severity.ERROR, "createExecutionContext: out of memory")
            return None
        self._contexts.add(context)
        return context

    def create_engine_inspector(self) -> EngineInspector:
        return EngineInspector(self)

    def _infer(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        """Do what the engine does, on the host; for contexts."""
        if self._runner is None:
            from dcn_deploy import runtime

            options = runtime.RunnerOptions(threads=1, spinning=False)
            self._runner = runtime.create("onnxruntime", self._model, options=options)
            self._runner.activate()
        return self._runner.infer(feed)

    def _spec(self, name: str) -> Any:
        if name not in self._inputs and name not in self._outputs:
            raise MisuseError(f"the engine has no tensor '{name}'")
        return self._inputs.get(name) or self._outputs[name]

    def _require_device(self) -> None:
        if cuda.cudaGetDevice()[1] != self._device:
            raise MisuseError(f"the engine is on device {self._device}, which is not current")


Runtime._engine = ICudaEngine


class IRuntimeConfig:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine
        self._strategy: Any = ExecutionContextAllocationStrategy.STATIC
        self.cuda_graph_strategy: Any = CudaGraphStrategy.DISABLED
        self.dynamic_shapes_kernel_specialization_strategy: Any = DynamicShapesKernelSpecializationStrategy.LAZY

    def set_execution_context_allocation_strategy(
        self, strategy: Any = ExecutionContextAllocationStrategy.STATIC
    ) -> None:
        if not isinstance(strategy, ExecutionContextAllocationStrategy):
            raise TypeError("set_execution_context_allocation_strategy(): incompatible function arguments")
        self._strategy = strategy


class RtxCudaEngine(ICudaEngine):
    def create_runtime_config(self) -> IRuntimeConfig:
        return IRuntimeConfig(self)

    def create_execution_context(self, runtime_config: IRuntimeConfig | None = None) -> Any:
        if not isinstance(runtime_config, IRuntimeConfig) or runtime_config._engine is not self:
            raise MisuseError("expected a configuration that this engine made")
        if not isinstance(runtime_config.cuda_graph_strategy, CudaGraphStrategy):
            raise TypeError("cuda_graph_strategy: incompatible function arguments")
        if runtime_config.dynamic_shapes_kernel_specialization_strategy is not (
            DynamicShapesKernelSpecializationStrategy.EAGER
        ):
            raise MisuseError("kernels that are exchanged meanwhile make times and results change from run to run")
        records = runtime_config.cuda_graph_strategy is CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        return self._context(runtime_config._strategy, records)


class RtxRuntime(Runtime):
    _engine = RtxCudaEngine


class EngineInspector:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine

    def get_engine_information(self, format: Any) -> str:
        if format is not LayerInformationFormat.JSON:
            raise MisuseError("this stand-in only writes JSON")
        return json.dumps({"Layers": self._engine._description["layers"], "Bindings": []})


class IExecutionContext:
    def __init__(self, engine: ICudaEngine, strategy: Any, records: bool) -> None:
        self._engine = engine
        self._strategy = strategy
        #: Whether it records graphs itself, for tests.
        self._records = records
        self.profiler: Any = None
        self._memory = 0
        self._profile = 0
        self._selected = engine.num_optimization_profiles == 1
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._output_shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._allocators: dict[str, Any] = {}
        self._run_with: dict[str, tuple[int, ...]] | None = None
        self._allocate()

    def __del__(self) -> None:
        if self._memory:
            cuda.cudaFree(self._memory)

    def _allocate(self) -> None:
        if self._memory:
            cuda.cudaFree(self._memory)
            self._memory = 0
        wanted = 1
        if self._strategy is ExecutionContextAllocationStrategy.STATIC:
            wanted = self._engine.num_optimization_profiles
        status, *rest = cuda.cudaMalloc(wanted * CONTEXT_BYTES)
        if status != cuda.cudaError_t.cudaSuccess:
            raise MemoryError
        self._memory = rest[0]

    @property
    def active_optimization_profile(self) -> int:
        return self._profile

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self._engine._require_device()
        if stream_handle not in cuda.machine.streams:
            raise MisuseError(f"{stream_handle:#x} is no stream")
        if not 0 <= profile_index < self._engine.num_optimization_profiles:
            return self._refuse(f"setOptimizationProfileAsync: there is no profile {profile_index}")
        self._profile = profile_index
        self._selected = True
        self._shapes, self._run_with = {}, None
        if self._strategy is ExecutionContextAllocationStrategy.ON_PROFILE_CHANGE:
            self._allocate()
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        if name not in self._engine._inputs:
            raise MisuseError(f"'{name}' is no input")
        if not self._selected:
            raise MisuseError("no profile was selected, of several")
        if not isinstance(shape, tuple) or not all(isinstance(extent, int) for extent in shape):
            raise TypeError("set_input_shape(): incompatible function arguments")
        low, _, high = self._engine.get_tensor_profile_shape(name, self._profile)
        if len(shape) != len(low) or not all(a <= x <= b for a, x, b in zip(low, shape, high, strict=True)):
            return self._refuse(f"setInputShape: {name} {shape} is out of profile {self._profile}")
        self._shapes[name] = shape
        return True

    def infer_shapes(self) -> list[str]:
        missing = [name for name in self._engine._inputs if name not in self._shapes and not self._is_fixed(name)]
        if missing:
            return missing
        zeros = {name: np.zeros(self._shape(name), dtype=spec.dtype) for name, spec in self._engine._inputs.items()}
        outputs = self._compute(zeros)
        late = self._engine._description["late"]
        self._output_shapes = {name: array.shape for name, array in outputs.items() if name not in late}
        return []

    def get_tensor_shape(self, name: str) -> Dims:
        if name in self._engine._inputs:
            return Dims(self._shape(name))
        self._engine._spec(name)
        return Dims(self._output_shapes.get(name, tuple(self._engine.get_tensor_shape(name))))

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._engine._spec(name)
        _require_memory(name, memory, 1)
        self._addresses[name] = memory
        return True

    def set_output_allocator(self, name: str, output_allocator: Any) -> bool:
        if name not in self._engine._outputs:
            raise MisuseError(f"'{name}' is no output")
        _require_initialized(output_allocator, IOutputAllocator)
        self._allocators[name] = output_allocator
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        engine = self._engine
        engine._require_device()
        if engine._description["fails"]:
            return self._refuse(engine._description["fails"])
        shapes = {name: self._shape(name) for name in engine._inputs}
        if any(-1 in shape for shape in shapes.values()):
            return self._refuse("enqueueV3: the shape of an input is not set")
        late = engine._description["late"]
        outputs = {name: shape for name, shape in self._output_shapes.items() if name not in late}
        for name in late:
            if name not in self._allocators:
                raise MisuseError(f"neither memory nor an allocator for '{name}'")
        capturing = cuda.is_capturing(stream_handle)
        if capturing and (late or self.profiler is not None or self._run_with != shapes):
            return self._refuse("enqueueV3: this cannot be captured before a first run, with a profiler or late shapes")
        places = dict(self._addresses)
        for name, shape in (shapes | outputs).items():
            if name not in places:
                raise MisuseError(f"no memory for '{name}'")
            _require_memory(name, places[name], _nbytes(engine._spec(name), shape))
        self._run_with = shapes
        started: list[float] = []

        def work() -> None:
            started.append(_clock())
            feed = {
                name: np.frombuffer(
                    bytearray(cuda.read(places[name], _nbytes(spec, shapes[name]))), dtype=spec.dtype
                ).reshape(shapes[name])
                for name, spec in engine._inputs.items()
            }
            for name, array in self._compute(feed).items():
                if name not in late:
                    cuda.write(places[name], np.ascontiguousarray(array).tobytes())
                    continue
                # Asked for more than it needs, as the real one may.
                address = self._allocators[name].reallocate_output_async(name, 0, array.nbytes + 64, 256, stream_handle)
                if not address:
                    raise MemoryError
                cuda.write(address, np.ascontiguousarray(array).tobytes())
                self._allocators[name].notify_shape(name, Dims(array.shape))

        try:
            cuda.enqueue(stream_handle, work)
        except KeyError:
            raise MisuseError(f"{stream_handle:#x} is no stream of the current device") from None
        if late or self.profiler is not None:
            # Shapes that only the run tells, and a profiler, make the call wait for the run.
            try:
                cuda.cudaStreamSynchronize(cuda.machine.streams[stream_handle])
            except MemoryError:
                return self._refuse("enqueueV3: out of memory for an output")
        if self.profiler is not None:
            _require_initialized(self.profiler, IProfiler)
            names = list(self._layer_names())
            for name in names:
                self.profiler.report_layer_time(name, 1e3 * (_clock() - started[0]) / len(names))
        return True

    def _layer_names(self) -> Iterator[str]:
        for layer in self._engine._description["layers"]:
            yield layer if isinstance(layer, str) else layer["Name"]

    def _is_fixed(self, name: str) -> bool:
        return -1 not in tuple(self._engine.get_tensor_shape(name))

    def _shape(self, name: str) -> tuple[int, ...]:
        return self._shapes.get(name, tuple(self._engine.get_tensor_shape(name)))

    def _compute(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        return self._engine._infer(feed)

    def _refuse(self, text: str) -> bool:
        self._engine._logger.log(ILogger.Severity.ERROR, text)
        return False


def _clock() -> float:
    import time

    return time.perf_counter()


def _nbytes(spec: Any, shape: Sequence[int]) -> int:
    return int(np.prod(shape, dtype=np.int64)) * spec.dtype.itemsize


def _require_memory(name: str, address: int, nbytes: int) -> None:
    if not isinstance(address, int) or address == 0:
        raise MisuseError(f"{address!r} is no address for '{name}'")
    try:
        cuda.machine.find(address, max(nbytes, 1), "device")
    except Exception as error:
        raise MisuseError(f"{nbytes} bytes at {address:#x} for '{name}' are not in live device memory") from error
