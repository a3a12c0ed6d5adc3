"""The backends ``tensorrt`` and ``tensorrt-rtx``: engines that ``dcn-deploy build`` made, on a GPU."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dcn_deploy.errors import (
    BackendError,
    LibraryNotBuiltError,
    MissingDependencyError,
    ModelSourceError,
    UnsupportedError,
    describe,
)
from dcn_deploy.runtime import device_memory, engine_metadata, tensorrt_api
from dcn_deploy.runtime.base import ModelRunner
from dcn_deploy.runtime.engine_context import EngineContext
from dcn_deploy.runtime.engine_layers import LayerOrigins, LayerRecorder, layers_of, node_times, profiler_of
from dcn_deploy.runtime.engine_tensors import EngineTensor, choose_profile, profiles_of, specs_of, tensors_of
from dcn_deploy.runtime.runner import NodeTime, RunnerOptions

if TYPE_CHECKING:
    import numpy as np

    from dcn_deploy.runtime.engine_metadata import EngineMetadata, Range


def what_is_missing() -> tuple[str, str] | None:
    """Return (what is missing, what to do about it) where no engine can run; None where one can."""
    return device_memory.what_is_missing()


class EngineRunner(ModelRunner):
    """Runs an engine file.

    The file beside it, ``model.engine.json``, is checked before TensorRT sees the engine. Each optimisation profile
    gets an execution context of its own when the first feed comes that fits it; contexts, their buffers and their
    streams are used again from then on. A runner is for one thread at a time.
    """

    #: Whether TensorRT itself records graphs, so that nothing is left to do here.
    records_graphs: ClassVar[bool] = False

    def __init__(self, model: str | Path, *, options: RunnerOptions) -> None:
        super().__init__(model, options=options)
        self._metadata: EngineMetadata | None = None
        self._device: device_memory.Device | None = None
        self._runtime: Any = None
        self._engine: Any = None
        self._tensors: tuple[EngineTensor, ...] = ()
        self._profiles: tuple[Mapping[str, Range], ...] = ()
        self._contexts: dict[int, EngineContext] = {}
        self._recorder: LayerRecorder | None = None
        self._profiler: Any = None
        self._last: EngineContext | None = None

    @property
    def tf32(self) -> bool:
        """Whether float32 products may be rounded to TF32; True of an engine that does not say."""
        self._require_active("tf32")
        return self._metadata is None or bool(self._metadata.options.get("tf32", True))

    def _load(self) -> None:
        if self.options.keep_intermediates:
            raise UnsupportedError(
                f"keep_intermediates of the backend '{self.backend}': expected False, got True. An engine gives its "
                "outputs alone, since its layers are fused: look at the ONNX file it was built from in the backend "
                "'onnxruntime'."
            )
        path = Path(self.model)
        command = f"dcn-deploy build model.onnx -o {shlex.quote(str(path))} --backend {self.backend}"
        if not path.is_file():
            raise ModelSourceError(
                describe(
                    "engine",
                    expected="the path of a file",
                    actual=f"'{path}', which is none",
                    remedy=f"Build it: {command}.",
                )
            )
        self._metadata = engine_metadata.read(path)
        if self._metadata is not None:
            # Before the package, which for an engine of the other one need not be there.
            self._metadata.check_backend(path, self.backend)
        purpose = f"the backend '{self.backend}'"
        self._api = tensorrt_api.load(self.backend, purpose)
        missing = what_is_missing()
        if missing is not None:
            kind = MissingDependencyError if missing[1].startswith("pip ") else BackendError
            raise kind(f"{purpose} cannot run here: {missing[0]}; {missing[1]}.")
        self._device = device_memory.open_device(self.options.device, purpose)
        if self.options.cuda_graph and not self.records_graphs:
            self._device.require_graphs()
        plugins = self._load_plugins()
        if self._metadata is not None:
            here = self._device.properties
            self._metadata.check(
                path,
                version=self._api.version,
                device=engine_metadata.Device(here.name, here.compute_capability),
                plugins=plugins,
            )
        with self._device.current():
            self._deserialize(path)
        inputs, outputs = ((), ()) if self._metadata is None else (self._metadata.inputs, self._metadata.outputs)
        self._inputs = specs_of(self._tensors, inputs, inputs=True, profiles=self._profiles)
        self._outputs = specs_of(self._tensors, outputs, inputs=False, profiles=())

    def _load_plugins(self) -> str | None:
        """Put the plugins that the engine may call into the registry; return the version of the project's own."""
        if not self._api.package.takes_plugins:
            return None
        if self._metadata is None or self._metadata.form == "standard":
            self._api.register_stock_plugins()
        if self._metadata is not None:
            return self._api.load_plugins().version if self._metadata.plugins is not None else None
        # Whether the engine needs it is not known; if it does, TensorRT says so.
        with contextlib.suppress(LibraryNotBuiltError):
            return self._api.load_plugins().version
        return None

    def _deserialize(self, path: Path) -> None:
        trt = self._api.trt
        what = f"it cannot load the engine '{path.name}'"
        with self._api.listening() as messages:
            self._runtime = self._api.create_runtime()
            if self._metadata is not None and self._metadata.version_compatible:
                # Such an engine brings the runtime of the version that built it along, as code.
                self._runtime.engine_host_code_allowed = True
            self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
            if self._engine is None:
                command = f"dcn-deploy build model.onnx -o {shlex.quote(path.name)} --backend {self.backend}"
                if self._metadata is not None:
                    command = self._metadata.build_command(path, self.backend)
                raise self._api.error(what, messages, f"Build it again here: {command}.")
            self._tensors = tensors_of(trt, self._engine)
            self._profiles = profiles_of(self._engine, self._tensors)
            if self.options.profile:
                self._recorder = LayerRecorder()
                self._profiler = profiler_of(trt, self._recorder)

    def _create_context(self) -> Any:
        """Return a new ``IExecutionContext``, or None if TensorRT cannot make one."""
        return self._engine.create_execution_context(self._allocation)

    @property
    def _allocation(self) -> Any:
        """How a context comes by its memory: that of its profile, rather than of the most demanding one."""
        strategies = self._api.trt.ExecutionContextAllocationStrategy
        return strategies.ON_PROFILE_CHANGE if len(self._profiles) > 1 else strategies.STATIC

    def _prepared(self, profile: int) -> EngineContext:
        if profile in self._contexts:
            return self._contexts[profile]
        assert self._device is not None
        with self._api.listening() as messages:
            context = self._create_context()
            if context is None:
                raise self._api.error("it cannot make an execution context", messages)
        if self._profiler is not None:
            context.profiler = self._profiler
        # Layers are timed one by one, which a graph has none of.
        graph = self.options.cuda_graph and not self.records_graphs and self._profiler is None
        chosen = profile if len(self._profiles) > 1 else None
        made = EngineContext(self._api, context, self._device, self._tensors, chosen, graph=graph)
        self._contexts[profile] = made
        return made

    def _run(self, feed: Mapping[str, np.ndarray[Any, Any]], outputs: list[str]) -> dict[str, np.ndarray[Any, Any]]:
        assert self._device is not None
        profile = choose_profile(self._profiles, {name: array.shape for name, array in feed.items()})
        with self._device.current():
            prepared = self._prepared(profile)
            if self._recorder is not None:
                self._recorder.begin()
            results = prepared.run(feed, outputs)
        self._last = prepared
        return results

    def _free(self) -> None:
        contexts, self._contexts, self._last = self._contexts, {}, None
        if self._device is not None:
            # Even where the GPU has a fault, so that what made it active comes through.
            with contextlib.suppress(BackendError), self._device.current():
                for prepared in contexts.values():
                    prepared.free()
                # In the reverse order of their making, while the device is current.
                self._profiler = self._engine = self._runtime = None
        self._profiler = self._engine = self._runtime = self._device = self._recorder = self._metadata = None
        self._tensors, self._profiles = (), ()

    @property
    def device_seconds(self) -> float | None:
        """What the last run took on the GPU, without the copies; see :attr:`Runner.device_seconds`."""
        return None if self._last is None else self._last.seconds

    @property
    def notes(self) -> tuple[str, ...]:
        """What is not known about the engine; see :attr:`Runner.notes`."""
        self._require_active("notes")
        return () if self._metadata is not None else (f"{engine_metadata.without_sidecar(self.model)}.",)

    def node_times(self, skip: int = 0) -> tuple[NodeTime, ...]:
        """Return what each layer took; see :meth:`Runner.node_times`. From TensorRT's ``IProfiler``."""
        self._require_recording(self._recorder)
        assert self._recorder is not None
        nodes = () if self._metadata is None else self._metadata.nodes
        recorder, self._recorder = self._recorder, None
        return node_times(recorder, LayerOrigins(layers_of(self._api, self._engine), nodes), skip)


class TensorRtRunner(EngineRunner):
    """Runs an engine of TensorRT, with the plugins of this project."""

    backend: ClassVar[str] = "tensorrt"


class TensorRtRtxRunner(EngineRunner):
    """Runs an engine of TensorRT-RTX, which makes the kernels for the GPU at hand when a context is made.

    For shapes that come up later it makes them before the run goes on, rather than meanwhile: what is timed or compared
    is always the final kernel. It records graphs itself, for every new set of shapes.
    """

    backend: ClassVar[str] = "tensorrt-rtx"
    records_graphs: ClassVar[bool] = True

    def _create_context(self) -> Any:
        trt = self._api.trt
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(self._allocation)
        config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        if self.options.cuda_graph and self._profiler is None:
            config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        return self._engine.create_execution_context(config)
