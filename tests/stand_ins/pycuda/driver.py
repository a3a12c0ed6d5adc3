"""A stand-in for ``pycuda.driver`` over the stand-in for CUDA's runtime API, with the names of pycuda 2026.1.

The real one is built from source with a CUDA toolkit, so no test can compare the two where there is none; the names,
arguments and what they return were read in its source (``src/wrapper/wrap_cudadrv.cpp``). As with the real one, nothing
works without a context on the stack.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from cuda.bindings import runtime as cuda


class Error(Exception):
    pass


class LogicError(Error):
    pass


class MemoryError(Error):
    pass


_stack: list[Context] = []
_initialized = False


def _call(name: str, *arguments: Any) -> Any:
    if name != "cudaGetDeviceCount" and not _stack:
        raise LogicError(f"{name} failed: invalid device context")
    status, *results = getattr(cuda, name)(*arguments)
    if status == cuda.cudaError_t.cudaErrorMemoryAllocation:
        raise MemoryError(f"{name} failed: out of memory")
    if status != cuda.cudaError_t.cudaSuccess:
        raise LogicError(f"{name} failed: {status.name}")
    return results[0] if len(results) == 1 else tuple(results)


def init(flags: int = 0) -> None:
    global _initialized
    _call("cudaGetDeviceCount")
    _initialized = True


class Device:
    def __init__(self, number: int) -> None:
        if not _initialized:
            raise LogicError("cuDeviceGet failed: initialization error")
        self._number = number

    @staticmethod
    def count() -> int:
        if not _initialized:
            raise LogicError("cuDeviceGetCount failed: initialization error")
        return int(_call("cudaGetDeviceCount"))

    def name(self) -> str:
        return cuda.cudaGetDeviceProperties(self._number)[1].name.decode()

    def compute_capability(self) -> tuple[int, int]:
        return cuda.COMPUTE_CAPABILITY

    def total_memory(self) -> int:
        return cuda.TOTAL_MEMORY

    def retain_primary_context(self) -> Context:
        return Context(self._number)


class Context:
    def __init__(self, device: int) -> None:
        self._device = device

    def push(self) -> None:
        _stack.append(self)
        cuda.cudaSetDevice(self._device)

    @staticmethod
    def pop() -> None:
        if not _stack:
            raise LogicError("context::pop failed: cannot pop non-current context")
        _stack.pop()
        if _stack:
            cuda.cudaSetDevice(_stack[-1]._device)


def mem_get_info() -> tuple[int, int]:
    return _call("cudaMemGetInfo")


class DeviceAllocation:
    def __init__(self, address: int) -> None:
        self._address = address

    def __int__(self) -> int:
        return self._address

    def free(self) -> None:
        _call("cudaFree", self._address)


def mem_alloc(bytes: int) -> DeviceAllocation:
    return DeviceAllocation(_call("cudaMalloc", bytes))


class PagelockedHostAllocation:
    def __init__(self, nbytes: int) -> None:
        self._address = _call("cudaHostAlloc", nbytes, cuda.cudaHostAllocDefault)
        self.__array_interface__ = {
            "shape": (nbytes,),
            "typestr": "|u1",
            "data": (self._address, False),
            "version": 3,
        }

    def free(self) -> None:
        _call("cudaFreeHost", self._address)


def pagelocked_empty(shape: int, dtype: Any, order: str = "C", mem_flags: int = 0) -> Any:
    if np.dtype(dtype) != np.uint8 or not isinstance(shape, int):
        raise NotImplementedError("this stand-in has bytes only")
    array = np.asarray(PagelockedHostAllocation(shape))
    assert isinstance(array.base, PagelockedHostAllocation)
    return array


class Stream:
    def __init__(self, flags: int = 0) -> None:
        self._stream = _call("cudaStreamCreateWithFlags", flags)

    @property
    def handle(self) -> int:
        return int(self._stream)

    def synchronize(self) -> None:
        _call("cudaStreamSynchronize", self._stream)

    def __del__(self) -> None:
        if hasattr(self, "_stream"):
            current = cuda.machine.current
            cuda.machine.current = self._stream.device
            cuda.cudaStreamDestroy(self._stream)
            cuda.machine.current = current


class Event:
    def __init__(self, flags: int = 0) -> None:
        self._event = _call("cudaEventCreate")

    def record(self, stream: Stream | None = None) -> Event:
        assert stream is not None
        _call("cudaEventRecord", self._event, stream._stream)
        return self

    def time_till(self, event: Event) -> float:
        return float(_call("cudaEventElapsedTime", self._event, event._event))

    def __del__(self) -> None:
        if hasattr(self, "_event"):
            cuda.cudaEventDestroy(self._event)


def memcpy_htod_async(dest: int, src: Any, stream: Stream) -> None:
    data, kind = memoryview(src).nbytes, cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
    _call("cudaMemcpyAsync", int(dest), src.ctypes.data, data, kind, stream._stream)


def memcpy_dtoh_async(dest: Any, src: int, stream: Stream) -> None:
    data, kind = memoryview(dest).nbytes, cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
    _call("cudaMemcpyAsync", dest.ctypes.data, int(src), data, kind, stream._stream)
