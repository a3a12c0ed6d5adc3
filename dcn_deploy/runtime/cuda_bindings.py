"""Device memory through NVIDIA's ``cuda-bindings``: CUDA's runtime API, function for function."""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dcn_deploy.errors import BackendError
from dcn_deploy.runtime.device_memory import Binding, DeviceProperties

if TYPE_CHECKING:
    import numpy as np

# What to do about CUDA's errors, by their names.
_REMEDIES = {
    "cudaErrorMemoryAllocation": "Take a smaller batch or image, or close what else uses the GPU.",
    "cudaErrorInsufficientDriver": "Install or update NVIDIA's driver, or take an older cuda-bindings.",
    "cudaErrorNoDevice": "The driver finds no GPU: check nvidia-smi and CUDA_VISIBLE_DEVICES.",
    "cudaErrorStreamCaptureUnsupported": "Something in the network cannot be recorded: leave cuda_graph off.",
    "cudaErrorStreamCaptureInvalidated": "Something in the network cannot be recorded: leave cuda_graph off.",
    "cudaErrorIllegalAddress": "A kernel left its memory; the process cannot use the GPU any more. Report this.",
}


class CudaBindings(Binding):
    """The package ``cuda-bindings``, 12 or later."""

    package = "cuda-bindings"
    module = "cuda.bindings.runtime"
    has_graphs = True

    def __init__(self) -> None:
        self._cudart: Any = importlib.import_module(self.module)

    @property
    def version(self) -> str:
        """The package's version."""
        return str(importlib.import_module("cuda.bindings").__version__)

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call a function of the runtime API and return what it gives beside the status."""
        status, *results = getattr(self._cudart, name)(*arguments)
        if int(status) != 0:
            raise self._error(name, status)
        return results[0] if len(results) == 1 else tuple(results)

    def _error(self, name: str, status: Any) -> BackendError:
        _, code = self._cudart.cudaGetErrorName(status)
        _, text = self._cudart.cudaGetErrorString(status)
        code = code.decode("utf-8", "replace")
        remedy = _REMEDIES.get(code, "'dcn-deploy doctor' shows what was found.")
        return BackendError(f"CUDA: {name} failed with {code}: {text.decode('utf-8', 'replace')}. {remedy}")

    def device_count(self) -> int:
        """Return the number of GPUs; raise if there is no driver."""
        status, count = self._cudart.cudaGetDeviceCount()
        if status == self._cudart.cudaError_t.cudaErrorNoDevice:
            return 0
        if int(status) != 0:
            raise self._error("cudaGetDeviceCount", status)
        return int(count)

    def properties(self, ordinal: int) -> DeviceProperties:
        """Describe a GPU."""
        found = self._call("cudaGetDeviceProperties", ordinal)
        return DeviceProperties(
            found.name.decode("utf-8", "replace"), (int(found.major), int(found.minor)), int(found.totalGlobalMem)
        )

    def enter(self, ordinal: int) -> Any:
        """Make a GPU current on this thread; return what :meth:`leave` needs."""
        before = self._call("cudaGetDevice")
        self._call("cudaSetDevice", ordinal)
        return before

    def leave(self, entered: Any) -> None:
        """Make current what was so before :meth:`enter`."""
        # Unchecked: a GPU with a fault refuses this as well, and what told of the fault is on its way already.
        self._cudart.cudaSetDevice(entered)

    def memory_info(self) -> tuple[int, int]:
        """Return (free, total) bytes of the current GPU."""
        free, total = self._call("cudaMemGetInfo")
        return int(free), int(total)

    def allocate(self, nbytes: int) -> tuple[Any, int]:
        """Return (handle, address) of new device memory."""
        address = int(self._call("cudaMalloc", nbytes))
        return address, address

    def free(self, memory: Any) -> None:
        """Free device memory."""
        self._call("cudaFree", memory)

    def allocate_host(self, nbytes: int) -> tuple[Any, np.ndarray[Any, Any]]:
        """Return (handle, uint8 array) of new page-locked host memory."""
        import numpy as np

        address = int(self._call("cudaHostAlloc", nbytes, self._cudart.cudaHostAllocDefault))
        return address, np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))

    def free_host(self, memory: Any) -> None:
        """Free page-locked host memory."""
        self._call("cudaFreeHost", memory)

    def create_stream(self) -> tuple[Any, int]:
        """Return (handle, number) of a new stream that does not wait for the default one."""
        stream = self._call("cudaStreamCreateWithFlags", self._cudart.cudaStreamNonBlocking)
        return stream, int(stream)

    def destroy_stream(self, stream: Any) -> None:
        """Destroy a stream."""
        self._call("cudaStreamDestroy", stream)

    def synchronize(self, stream: Any) -> None:
        """Wait until a stream's work is done."""
        self._call("cudaStreamSynchronize", stream)

    def copy_to_device(self, address: int, array: np.ndarray[Any, Any], stream: Any) -> None:
        """Enqueue a copy of a page-locked uint8 array to device memory."""
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, stream)

    def copy_to_host(self, array: np.ndarray[Any, Any], address: int, stream: Any) -> None:
        """Enqueue a copy of device memory to a page-locked uint8 array."""
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, kind, stream)

    def create_event(self) -> Any:
        """Return a new event that can be timed."""
        return self._call("cudaEventCreate")

    def destroy_event(self, event: Any) -> None:
        """Destroy an event."""
        self._call("cudaEventDestroy", event)

    def record(self, event: Any, stream: Any) -> None:
        """Enqueue an event."""
        self._call("cudaEventRecord", event, stream)

    def milliseconds(self, start: Any, end: Any) -> float:
        """Return the time between two recorded events whose work is done."""
        return float(self._call("cudaEventElapsedTime", start, end))

    def capture(self, stream: Any, work: Callable[[], None]) -> Any:
        """Record what ``work`` enqueues on a stream, instead of running it, and return a graph to launch."""
        # Thread-local: what other threads do meanwhile, allocating memory say, must not spoil the recording.
        mode = self._cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode)
        try:
            work()
        except BaseException:
            # A recording must be ended, or the stream is of no use any more; what it gives does not matter.
            status, graph = self._cudart.cudaStreamEndCapture(stream)
            if int(status) == 0:
                self._cudart.cudaGraphDestroy(graph)
            raise
        graph = self._call("cudaStreamEndCapture", stream)
        try:
            return self._call("cudaGraphInstantiate", graph, 0)
        finally:
            self._call("cudaGraphDestroy", graph)

    def launch(self, graph: Any, stream: Any) -> None:
        """Enqueue a recorded graph."""
        self._call("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: Any) -> None:
        """Destroy a graph."""
        self._call("cudaGraphExecDestroy", graph)
