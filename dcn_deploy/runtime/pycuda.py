"""Device memory through ``pycuda``: CUDA's driver API, in the context that the rest of the process uses too."""

from __future__ import annotations

import contextlib
import importlib
from typing import TYPE_CHECKING, Any

from dcn_deploy.errors import BackendError
from dcn_deploy.runtime.device_memory import Binding, DeviceProperties

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

#: CU_STREAM_NON_BLOCKING of cuda.h: pycuda has no name for it.
_NON_BLOCKING = 1


class PyCuda(Binding):
    """The package ``pycuda``. It has no graphs.

    Each GPU's primary context is retained: the one that CUDA's runtime API, and with it TensorRT and PyTorch, work in.
    """

    package = "pycuda"
    module = "pycuda.driver"
    has_graphs = False

    def __init__(self) -> None:
        self._driver: Any = importlib.import_module(self.module)
        self._contexts: dict[int, Any] = {}

    @property
    def version(self) -> str:
        """The package's version."""
        return str(importlib.import_module("pycuda").VERSION_TEXT)

    def _call(self, what: str, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except self._driver.MemoryError as error:
            remedy = "Take a smaller batch or image, or close what else uses the GPU"
            raise BackendError(f"CUDA: {what} failed: {_plain(error)}. {remedy}.") from error
        except self._driver.Error as error:
            raise BackendError(
                f"CUDA: {what} failed: {_plain(error)}. 'dcn-deploy doctor' shows what was found."
            ) from error

    def device_count(self) -> int:
        """Return the number of GPUs; raise if there is no driver."""
        self._call("cuInit", self._driver.init)
        return int(self._call("cuDeviceGetCount", self._driver.Device.count))

    def properties(self, ordinal: int) -> DeviceProperties:
        """Describe a GPU."""
        device = self._call("cuDeviceGet", lambda: self._driver.Device(ordinal))
        major, minor = device.compute_capability()
        return DeviceProperties(str(device.name()), (int(major), int(minor)), int(device.total_memory()))

    def enter(self, ordinal: int) -> Any:
        """Make a GPU current on this thread; return what :meth:`leave` needs."""
        if ordinal not in self._contexts:
            device = self._driver.Device(ordinal)
            self._contexts[ordinal] = self._call("cuDevicePrimaryCtxRetain", device.retain_primary_context)
        context = self._contexts[ordinal]
        self._call("cuCtxPushCurrent", context.push)
        return context

    def leave(self, entered: Any) -> None:
        """Make current what was so before :meth:`enter`."""
        # A GPU with a fault refuses this as well, and what told of the fault is on its way already.
        with contextlib.suppress(self._driver.Error):
            entered.pop()

    def memory_info(self) -> tuple[int, int]:
        """Return (free, total) bytes of the current GPU."""
        free, total = self._call("cuMemGetInfo", self._driver.mem_get_info)
        return int(free), int(total)

    def allocate(self, nbytes: int) -> tuple[Any, int]:
        """Return (handle, address) of new device memory."""
        memory = self._call("cuMemAlloc", lambda: self._driver.mem_alloc(nbytes))
        return memory, int(memory)

    def free(self, memory: Any) -> None:
        """Free device memory."""
        self._call("cuMemFree", memory.free)

    def allocate_host(self, nbytes: int) -> tuple[Any, np.ndarray[Any, Any]]:
        """Return (handle, uint8 array) of new page-locked host memory."""
        import numpy as np

        array = self._call("cuMemHostAlloc", lambda: self._driver.pagelocked_empty(nbytes, np.uint8))
        return array.base, array

    def free_host(self, memory: Any) -> None:
        """Free page-locked host memory."""
        self._call("cuMemFreeHost", memory.free)

    def create_stream(self) -> tuple[Any, int]:
        """Return (handle, number) of a new stream that does not wait for the default one."""
        stream = self._call("cuStreamCreate", lambda: self._driver.Stream(_NON_BLOCKING))
        return stream, int(stream.handle)

    def destroy_stream(self, stream: Any) -> None:
        """Leave a stream to pycuda, which destroys it with its last reference."""

    def synchronize(self, stream: Any) -> None:
        """Wait until a stream's work is done."""
        self._call("cuStreamSynchronize", stream.synchronize)

    def copy_to_device(self, address: int, array: np.ndarray[Any, Any], stream: Any) -> None:
        """Enqueue a copy of a page-locked uint8 array to device memory."""
        self._call("cuMemcpyHtoDAsync", lambda: self._driver.memcpy_htod_async(address, array, stream))

    def copy_to_host(self, array: np.ndarray[Any, Any], address: int, stream: Any) -> None:
        """Enqueue a copy of device memory to a page-locked uint8 array."""
        self._call("cuMemcpyDtoHAsync", lambda: self._driver.memcpy_dtoh_async(array, address, stream))

    def create_event(self) -> Any:
        """Return a new event that can be timed."""
        return self._call("cuEventCreate", self._driver.Event)

    def destroy_event(self, event: Any) -> None:
        """Leave an event to pycuda, which destroys it with its last reference."""

    def record(self, event: Any, stream: Any) -> None:
        """Enqueue an event."""
        self._call("cuEventRecord", lambda: event.record(stream))

    def milliseconds(self, start: Any, end: Any) -> float:
        """Return the time between two recorded events whose work is done."""
        return float(self._call("cuEventElapsedTime", lambda: start.time_till(end)))

    def capture(self, stream: Any, work: Callable[[], None]) -> Any:
        """Not possible here; see ``has_graphs``."""
        raise NotImplementedError

    def launch(self, graph: Any, stream: Any) -> None:
        """Not possible here; see ``has_graphs``."""
        raise NotImplementedError

    def destroy_graph(self, graph: Any) -> None:
        """Not possible here; see ``has_graphs``."""
        raise NotImplementedError


def _plain(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
