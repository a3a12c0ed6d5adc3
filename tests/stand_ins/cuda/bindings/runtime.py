# ruff: noqa: N801, N802, N815, N816 (the names are CUDA's)
"""A stand-in for ``cuda.bindings.runtime``: CUDA's runtime API where device memory is the host's.

It is stricter than the real one wherever that would let a fault pass unseen. Work on a stream is kept until somebody
synchronises, so a result read too early is poison. Device memory and page-locked memory are registered: a copy that
leaves its allocation, uses freed or pageable memory, or goes the wrong way fails. What is freed while a stream holds
work for it makes that work fail, as an illegal address does. Handles of another device are refused.

``DCN_DEPLOY_STAND_IN_GPUS`` says how many GPUs there are, -1 that there is no driver; unset, there is one. Each has
256 MiB.
"""

from __future__ import annotations

import bisect
import ctypes
import enum
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

POISON = 0xA5
TOTAL_MEMORY = 256 * 2**20
COMPUTE_CAPABILITY = (8, 9)

cudaHostAllocDefault = 0
cudaStreamNonBlocking = 1


class cudaError_t(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorInvalidDevice = 101
    cudaErrorInvalidResourceHandle = 400
    cudaErrorNotReady = 600
    cudaErrorIllegalAddress = 700
    cudaErrorLaunchFailure = 719
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901
    cudaErrorIllegalState = 401


class cudaMemcpyKind(enum.IntEnum):
    cudaMemcpyHostToHost = 0
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class cudaStreamCaptureMode(enum.IntEnum):
    cudaStreamCaptureModeGlobal = 0
    cudaStreamCaptureModeThreadLocal = 1
    cudaStreamCaptureModeRelaxed = 2


_E = cudaError_t
_OK = _E.cudaSuccess
Work = Callable[[], None]


class RefusalError(Exception):
    """What a function refuses with; work that raises it spoils the device, as a faulty kernel does."""

    def __init__(self, status: cudaError_t) -> None:
        super().__init__(status.name)
        self.status = status


class _Handle:
    """Something with a number that is not used twice."""

    _next = 0x1000

    def __init__(self, device: int) -> None:
        _Handle._next += 16
        self._number = _Handle._next
        self.device = device
        self.alive = True

    def __int__(self) -> int:
        return self._number


class cudaStream_t(_Handle):
    def __init__(self, device: int) -> None:
        super().__init__(device)
        self.pending: list[Work] = []
        self.capturing: list[Work] | None = None
        self.spoiled = False


class cudaEvent_t(_Handle):
    recorded: float | None = None
    enqueued = False


class cudaGraph_t(_Handle):
    work: tuple[Work, ...] = ()


class cudaGraphExec_t(_Handle):
    work: tuple[Work, ...] = ()


@dataclass(frozen=True)
class cudaDeviceProp:
    name: bytes
    major: int
    minor: int
    totalGlobalMem: int


@dataclass
class _Allocation:
    address: int
    nbytes: int
    memory: Any
    kind: str
    device: int


@dataclass
class _Machine:
    """Everything that is allocated, and what was counted."""

    current: int = 0
    fault: cudaError_t = _OK
    allocations: dict[int, _Allocation] = field(default_factory=dict)
    streams: dict[int, cudaStream_t] = field(default_factory=dict)
    events: list[cudaEvent_t] = field(default_factory=list)
    graphs: list[Any] = field(default_factory=list)
    launches: int = 0

    def find(self, address: int, nbytes: int, kind: str) -> None:
        """Refuse memory that is not wholly inside one live allocation of that kind."""
        starts = sorted(self.allocations)
        place = bisect.bisect_right(starts, address) - 1
        if place >= 0:
            found = self.allocations[starts[place]]
            if found.kind == kind and address + nbytes <= found.address + found.nbytes:
                return
        raise RefusalError(_E.cudaErrorIllegalAddress)


machine = _Machine()


def left_over() -> list[str]:
    """What is still allocated."""
    names = [f"{allocation.nbytes} bytes of {allocation.kind} memory" for allocation in machine.allocations.values()]
    names += ["a stream"] * len(machine.streams) + ["an event"] * len(machine.events)
    return names + ["a graph"] * len(machine.graphs)


def reset() -> None:
    """Forget everything, a fault of the device included."""
    global machine
    machine = _Machine()


def read(address: int, nbytes: int) -> bytes:
    """Return device memory, for a kernel."""
    machine.find(address, nbytes, "device")
    return ctypes.string_at(address, nbytes)


def write(address: int, data: bytes) -> None:
    """Write device memory, for a kernel."""
    machine.find(address, len(data), "device")
    ctypes.memmove(address, data, len(data))


def enqueue(handle: int, work: Work) -> None:
    """Put a kernel on the stream of that number; ``KeyError`` if there is none on the current device."""
    stream = machine.streams[handle]
    if stream.device != machine.current:
        raise KeyError(handle)
    _put(stream, work)


def is_capturing(handle: int) -> bool:
    """Whether what is put on the stream of that number is recorded."""
    return machine.streams[handle].capturing is not None


def _put(stream: cudaStream_t, work: Work) -> None:
    (stream.pending if stream.capturing is None else stream.capturing).append(work)


def _checked(stream: Any) -> cudaStream_t:
    if not isinstance(stream, cudaStream_t) or not stream.alive or stream.device != machine.current:
        raise RefusalError(_E.cudaErrorInvalidResourceHandle)
    return stream


def _count() -> int:
    return int(os.environ.get("DCN_DEPLOY_STAND_IN_GPUS", "1"))


def _api(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function of the API: it returns (status, result) and fails while the device has a fault."""
    import functools

    @functools.wraps(function)
    def call(*arguments: Any) -> tuple[Any, ...]:
        if _count() < 1:
            status = _E.cudaErrorInsufficientDriver if _count() < 0 else _E.cudaErrorNoDevice
            return (status, None)
        if machine.fault:
            return (machine.fault, None)
        try:
            result = function(*arguments)
        except RefusalError as refusal:
            return (refusal.status, None)
        if result is None:
            return (_OK,)
        return (_OK, *result) if isinstance(result, tuple) else (_OK, result)

    return call


def cudaGetErrorName(error: cudaError_t) -> tuple[Any, bytes]:
    return _OK, error.name.encode()


def cudaGetErrorString(error: cudaError_t) -> tuple[Any, bytes]:
    return _OK, f"{error.name.removeprefix('cudaError')} (stand-in)".encode()


@_api
def cudaGetDeviceCount() -> int:
    return _count()


@_api
def cudaGetDeviceProperties(device: int) -> cudaDeviceProp:
    if not 0 <= device < _count():
        raise RefusalError(_E.cudaErrorInvalidDevice)
    return cudaDeviceProp(f"Stand-in {device}".encode(), *COMPUTE_CAPABILITY, TOTAL_MEMORY)


@_api
def cudaGetDevice() -> int:
    return machine.current


@_api
def cudaSetDevice(device: int) -> None:
    if not 0 <= device < _count():
        raise RefusalError(_E.cudaErrorInvalidDevice)
    machine.current = device


def _used() -> int:
    here = [a for a in machine.allocations.values() if a.kind == "device" and a.device == machine.current]
    return sum(allocation.nbytes for allocation in here)


@_api
def cudaMemGetInfo() -> tuple[int, int]:
    return TOTAL_MEMORY - _used(), TOTAL_MEMORY


def _allocate(size: int, kind: str) -> int:
    if size == 0:
        raise RefusalError(
            _E.cudaErrorInvalidValue
        )  # the real one gives a null pointer, which is of no use to TensorRT
    if kind == "device" and _used() + size > TOTAL_MEMORY:
        raise RefusalError(_E.cudaErrorMemoryAllocation)
    memory = (ctypes.c_uint8 * size)()
    ctypes.memset(memory, POISON, size)
    address = ctypes.addressof(memory)
    machine.allocations[address] = _Allocation(address, size, memory, kind, machine.current)
    return address


def _free(address: int, kind: str) -> None:
    found = machine.allocations.get(address)
    if found is None or found.kind != kind:
        raise RefusalError(_E.cudaErrorInvalidValue)
    ctypes.memset(found.memory, POISON, found.nbytes)
    del machine.allocations[address]


@_api
def cudaMalloc(size: int) -> int:
    return _allocate(size, "device")


@_api
def cudaFree(devPtr: int) -> None:
    _free(devPtr, "device")


@_api
def cudaHostAlloc(size: int, flags: int) -> int:
    if flags != cudaHostAllocDefault:
        raise RefusalError(_E.cudaErrorInvalidValue)
    return _allocate(size, "host")


@_api
def cudaFreeHost(ptr: int) -> None:
    _free(ptr, "host")


@_api
def cudaMemcpyAsync(dst: int, src: int, count: int, kind: cudaMemcpyKind, stream: cudaStream_t) -> None:
    _checked(stream)
    if kind is cudaMemcpyKind.cudaMemcpyHostToDevice:
        kinds = ("device", "host")
    elif kind is cudaMemcpyKind.cudaMemcpyDeviceToHost:
        kinds = ("host", "device")
    else:
        raise RefusalError(_E.cudaErrorInvalidValue)

    def check() -> None:
        for address, memory in zip((dst, src), kinds, strict=True):
            machine.find(address, count, memory)

    def copy() -> None:
        check()
        ctypes.memmove(dst, src, count)

    try:
        check()
    except RefusalError:
        raise RefusalError(_E.cudaErrorInvalidValue) from None
    _put(stream, copy)


@_api
def cudaStreamCreateWithFlags(flags: int) -> cudaStream_t:
    if flags != cudaStreamNonBlocking:
        raise RefusalError(_E.cudaErrorInvalidValue)
    stream = cudaStream_t(machine.current)
    machine.streams[int(stream)] = stream
    return stream


@_api
def cudaStreamDestroy(stream: cudaStream_t) -> None:
    _checked(stream).alive = False
    del machine.streams[int(stream)]


@_api
def cudaStreamSynchronize(stream: cudaStream_t) -> None:
    if _checked(stream).capturing is not None:
        stream.spoiled = True
        raise RefusalError(_E.cudaErrorStreamCaptureUnsupported)
    pending, stream.pending = stream.pending, []
    for work in pending:
        try:
            work()
        except RefusalError as refusal:
            machine.fault = refusal.status
            raise


@_api
def cudaEventCreate() -> cudaEvent_t:
    event = cudaEvent_t(machine.current)
    machine.events.append(event)
    return event


@_api
def cudaEventDestroy(event: cudaEvent_t) -> None:
    if not event.alive:
        raise RefusalError(_E.cudaErrorInvalidResourceHandle)
    event.alive = False
    machine.events.remove(event)


@_api
def cudaEventRecord(event: cudaEvent_t, stream: cudaStream_t) -> None:
    if not event.alive or event.device != _checked(stream).device:
        raise RefusalError(_E.cudaErrorInvalidResourceHandle)
    event.enqueued, event.recorded = True, None

    def record() -> None:
        event.recorded = time.perf_counter()

    _put(stream, record)


@_api
def cudaEventElapsedTime(start: cudaEvent_t, end: cudaEvent_t) -> float:
    for event in (start, end):
        if not event.alive or not event.enqueued:
            raise RefusalError(_E.cudaErrorInvalidResourceHandle)
        if event.recorded is None:
            raise RefusalError(_E.cudaErrorNotReady)
    return 1e3 * (float(end.recorded or 0) - float(start.recorded or 0))


@_api
def cudaStreamBeginCapture(stream: cudaStream_t, mode: cudaStreamCaptureMode) -> None:
    if not isinstance(mode, cudaStreamCaptureMode):
        raise TypeError(f"expected a cudaStreamCaptureMode, got {mode!r}")
    if _checked(stream).capturing is not None:
        raise RefusalError(_E.cudaErrorIllegalState)
    stream.capturing, stream.spoiled = [], False


@_api
def cudaStreamEndCapture(stream: cudaStream_t) -> cudaGraph_t:
    recorded, stream.capturing = _checked(stream).capturing, None
    if recorded is None:
        raise RefusalError(_E.cudaErrorIllegalState)
    if stream.spoiled:
        raise RefusalError(_E.cudaErrorStreamCaptureInvalidated)
    graph = cudaGraph_t(machine.current)
    graph.work = tuple(recorded)
    machine.graphs.append(graph)
    return graph


@_api
def cudaGraphInstantiate(graph: cudaGraph_t, flags: int) -> cudaGraphExec_t:
    if not graph.alive or flags != 0:
        raise RefusalError(_E.cudaErrorInvalidValue)
    executable = cudaGraphExec_t(machine.current)
    executable.work = graph.work
    machine.graphs.append(executable)
    return executable


@_api
def cudaGraphLaunch(graphExec: cudaGraphExec_t, stream: cudaStream_t) -> None:
    if not graphExec.alive:
        raise RefusalError(_E.cudaErrorInvalidValue)
    machine.launches += 1
    for work in graphExec.work:
        _put(_checked(stream), work)


def _destroy(graph: Any) -> None:
    if not graph.alive:
        raise RefusalError(_E.cudaErrorInvalidValue)
    graph.alive = False
    machine.graphs.remove(graph)


@_api
def cudaGraphDestroy(graph: cudaGraph_t) -> None:
    _destroy(graph)


@_api
def cudaGraphExecDestroy(graphExec: cudaGraphExec_t) -> None:
    _destroy(graphExec)
