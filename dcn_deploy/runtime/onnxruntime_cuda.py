"""The backend ``onnxruntime-cuda``: ONNX Runtime's CUDA provider, with inputs and outputs bound to the session."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from dcn_deploy._lazy import require
from dcn_deploy.errors import BackendError, InvalidArgumentError, MissingDependencyError, UnsupportedError, describe
from dcn_deploy.runtime.onnxruntime import OnnxRuntimeRunner, from_ort_value, to_ort_value

if TYPE_CHECKING:
    import numpy as np

PROVIDER = "CUDAExecutionProvider"

#: ONNX Runtime's name for the provider's memory.
_MEMORY = "cuda"

#: Entry of a session's configuration that the custom-op library reads when it is registered.
_ALLOW_TF32 = "dcn_deploy.allow_tf32"


def what_is_missing() -> tuple[str, str] | None:
    """Return (what is missing, what to do about it) where the CUDA provider cannot run; None where it can."""
    ort = require("onnxruntime", "the backend 'onnxruntime-cuda'")
    providers = ort.get_available_providers()
    if PROVIDER not in providers:
        return (
            f"ONNX Runtime {ort.__version__} has no CUDA provider, only {', '.join(providers)}",
            "pip uninstall onnxruntime, then pip install 'dcn-deploy[gpu]', or use the backend 'onnxruntime'",
        )
    return _missing_gpu()


def _missing_gpu() -> tuple[str, str] | None:
    remedy = "install NVIDIA's driver on a machine with an NVIDIA GPU, or use the backend 'onnxruntime'"
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return f"no NVIDIA driver ({error})", remedy
    count = ctypes.c_int(0)
    status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if status != 0 or count.value == 0:
        return f"the NVIDIA driver finds no GPU (status {status}, {count.value} devices)", remedy
    return None


class OnnxRuntimeCudaRunner(OnnxRuntimeRunner):
    """Runs an ONNX file in ONNX Runtime's CUDA provider.

    Nodes without a CUDA kernel run on the CPU, as ONNX Runtime has it; a session that as a whole fell back to the CPU
    is refused. With ``RunnerOptions(cuda_graph=True)`` inputs and outputs keep their place on the GPU, and the work is
    recorded in the first run and replayed in those after it.
    """

    backend: ClassVar[str] = "onnxruntime-cuda"
    library: ClassVar[str] = "onnxruntime_cuda"

    def _load(self) -> None:
        missing = what_is_missing()
        if missing is not None:
            kind = MissingDependencyError if "provider" in missing[0] else BackendError
            raise kind(f"the backend '{self.backend}' cannot run here: {missing[0]}; {missing[1]}.")
        self._graph: _Graph | None = None
        _preload_cuda_libraries()
        super()._load()
        if PROVIDER not in self._session.get_providers():
            # ONNX Runtime only warns where the provider's libraries do not load, and takes the CPU.
            raise BackendError(
                describe(
                    "ONNX Runtime's providers of the session",
                    expected=PROVIDER,
                    actual=", ".join(self._session.get_providers()),
                    remedy="CUDA and cuDNN must be there in the versions that this onnxruntime-gpu was built for.",
                )
            )

    @property
    def tf32(self) -> bool:
        """Whether float32 products may be rounded to TF32."""
        return self.options.allow_tf32

    def _session_options(self, ort: Any, *, needs_library: bool) -> Any:
        options = super()._session_options(ort, needs_library=False)
        if self.options.allow_tf32:
            options.add_session_config_entry(_ALLOW_TF32, "1")
        if needs_library:
            # Only now: the library reads the entry when it is registered.
            self._register_library(ort, options)
        return options

    def _providers(self) -> list[Any]:
        settings = {
            "device_id": str(self.options.device),
            "use_tf32": str(int(self.options.allow_tf32)),
            "enable_cuda_graph": str(int(self.options.cuda_graph)),
        }
        return [(PROVIDER, settings), "CPUExecutionProvider"]

    def _free(self) -> None:
        self._graph = None
        super()._free()

    def _compute(self, feed: Mapping[str, np.ndarray[Any, Any]], outputs: list[str]) -> list[np.ndarray[Any, Any]]:
        if self.options.cuda_graph:
            if self._graph is None:
                self._graph = _Graph(self._session, self.options.device, feed, [spec.name for spec in self._outputs])
            results = self._graph.run(feed)
            return [results[name] for name in outputs]
        binding = self._session.io_binding()
        for name, array in feed.items():
            binding.bind_ortvalue_input(name, to_ort_value(array))
        for name in outputs:
            binding.bind_output(name, "cpu")
        self._session.run_with_iobinding(binding)
        return [from_ort_value(value) for value in binding.get_outputs()]


class _Graph:
    """Inputs and outputs that keep their place on the GPU, so that a recorded run can be replayed."""

    def __init__(self, session: Any, device: int, feed: Mapping[str, np.ndarray[Any, Any]], outputs: list[str]) -> None:
        import numpy as np
        import onnxruntime as ort

        odd = [name for name, array in feed.items() if array.dtype.name == "bfloat16"]
        if odd:
            raise UnsupportedError(
                f"cuda_graph: expected inputs of types that NumPy has, got bfloat16 in {', '.join(odd)}. Begin the "
                "network with a Cast, or leave cuda_graph off."
            )
        self._session = session
        self._shapes = {name: array.shape for name, array in feed.items()}
        self._names = outputs
        self._inputs = {
            # A copy: in the host's memory, ONNX Runtime would write into the caller's array.
            name: ort.OrtValue.ortvalue_from_numpy(np.array(array, order="C"), _MEMORY, device)
            for name, array in feed.items()
        }
        self._binding = session.io_binding()
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name in outputs:
            self._binding.bind_output(name, _MEMORY, device)
        # This run finds the outputs' shapes and is not recorded; from then on they stay where they are.
        not_recorded = ort.RunOptions()
        not_recorded.add_run_config_entry("gpu_graph_id", "-1")
        session.run_with_iobinding(self._binding, not_recorded)
        self._outputs = dict(zip(outputs, self._binding.get_outputs(), strict=True))
        for name, value in self._outputs.items():
            self._binding.bind_ortvalue_output(name, value)

    def run(self, feed: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """Copy the inputs to their places, replay, and copy the outputs from theirs."""
        import numpy as np

        for name, array in feed.items():
            if array.shape != self._shapes[name]:
                raise InvalidArgumentError(
                    describe(
                        f"shape of input '{name}' with cuda_graph",
                        expected=f"that of the first run, {self._shapes[name]}",
                        actual=array.shape,
                        remedy="Activate another runner for other shapes, or leave cuda_graph off.",
                    )
                )
            self._inputs[name].update_inplace(np.ascontiguousarray(array))
        self._session.run_with_iobinding(self._binding)
        return {name: np.array(value.numpy()) for name, value in self._outputs.items()}


def _preload_cuda_libraries() -> None:
    import onnxruntime as ort

    preload = getattr(ort, "preload_dlls", None)
    if preload is not None:
        # It tells of what it does not find by printing, and standard output belongs to results.
        with contextlib.redirect_stdout(sys.stderr):
            preload()
