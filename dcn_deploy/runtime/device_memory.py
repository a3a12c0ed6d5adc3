"""Memory, streams, events and graphs of an NVIDIA GPU, over whichever Python package reaches it.

The one place that owns device memory. Two packages can do the work: NVIDIA's ``cuda-bindings``, which comes as wheels,
and ``pycuda``, which is built from source with a CUDA toolkit; each has a module beside this one that implements
:class:`Binding`. What lies above (:class:`Device` and what it makes) is the same for both. Every object is used while
its device is current::

    device = open_device(0, "this example")
    with device.current():
        stream, memory, staging = device.stream(), device.buffer(4096), device.host_buffer(4096)
        stream.copy_to_device(memory, staging, 4096)
        stream.synchronize()

Objects are freed with ``free``; a second time does nothing. The garbage collector frees nothing: it could run while
another device is current, or after the driver is gone.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dcn_deploy.errors import (
    BackendError,
    InvalidArgumentError,
    MissingDependencyError,
    UnsupportedError,
    describe,
)

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class DeviceProperties:
    """What a GPU is.

    Attributes:
        name: the model's.
        compute_capability: (major, minor).
        total_memory: bytes.
    """

    name: str
    compute_capability: tuple[int, int]
    total_memory: int


class Binding(ABC):
    """What a Python package for CUDA must be able to do. Handles are the package's own objects.

    Every method raises :class:`BackendError` where CUDA refuses, with what CUDA calls it and what to do.
    """

    #: The package's name, as pip has it.
    package: str
    #: What has to be importable.
    module: str
    #: Whether it can record graphs; if not, capture, launch and destroy_graph are never called.
    has_graphs: bool

    @property
    @abstractmethod
    def version(self) -> str:
        """The package's version."""

    @abstractmethod
    def device_count(self) -> int:
        """Return the number of GPUs; raise if there is no driver."""

    @abstractmethod
    def properties(self, ordinal: int) -> DeviceProperties:
        """Describe a GPU."""

    @abstractmethod
    def enter(self, ordinal: int) -> Any:
        """Make a GPU current on this thread; return what :meth:`leave` needs."""

    @abstractmethod
    def leave(self, entered: Any) -> None:
        """Make current what was so before :meth:`enter`."""

    @abstractmethod
    def memory_info(self) -> tuple[int, int]:
        """Return (free, total) bytes of the current GPU."""

    @abstractmethod
    def allocate(self, nbytes: int) -> tuple[Any, int]:
        """Return (handle, address) of new device memory of at least one byte."""

    @abstractmethod
    def free(self, memory: Any) -> None:
        """Free device memory."""

    @abstractmethod
    def allocate_host(self, nbytes: int) -> tuple[Any, np.ndarray[Any, Any]]:
        """Return (handle, uint8 array) of new page-locked host memory of at least one byte."""

    @abstractmethod
    def free_host(self, memory: Any) -> None:
        """Free page-locked host memory."""

    @abstractmethod
    def create_stream(self) -> tuple[Any, int]:
        """Return (handle, number) of a new stream that does not wait for the default one."""

    @abstractmethod
    def destroy_stream(self, stream: Any) -> None:
        """Destroy a stream."""

    @abstractmethod
    def synchronize(self, stream: Any) -> None:
        """Wait until a stream's work is done."""

    @abstractmethod
    def copy_to_device(self, address: int, array: np.ndarray[Any, Any], stream: Any) -> None:
        """Enqueue a copy of a page-locked uint8 array to device memory."""

    @abstractmethod
    def copy_to_host(self, array: np.ndarray[Any, Any], address: int, stream: Any) -> None:
        """Enqueue a copy of device memory to a page-locked uint8 array."""

    @abstractmethod
    def create_event(self) -> Any:
        """Return a new event that can be timed."""

    @abstractmethod
    def destroy_event(self, event: Any) -> None:
        """Destroy an event."""

    @abstractmethod
    def record(self, event: Any, stream: Any) -> None:
        """Enqueue an event."""

    @abstractmethod
    def milliseconds(self, start: Any, end: Any) -> float:
        """Return the time between two recorded events whose work is done."""

    @abstractmethod
    def capture(self, stream: Any, work: Callable[[], None]) -> Any:
        """Record what ``work`` enqueues on a stream, instead of running it, and return a graph to launch."""

    @abstractmethod
    def launch(self, graph: Any, stream: Any) -> None:
        """Enqueue a recorded graph."""

    @abstractmethod
    def destroy_graph(self, graph: Any) -> None:
        """Destroy a graph."""


class DeviceBuffer:
    """Device memory.

    Attributes:
        nbytes: size that was asked for; at least one byte is allocated, since TensorRT takes no null address.
    """

    def __init__(self, binding: Binding, nbytes: int) -> None:
        self._binding = binding
        self._memory, self._address = binding.allocate(max(nbytes, 1))
        self.nbytes = nbytes

    @property
    def address(self) -> int:
        """Where it is on the GPU."""
        _require_alive(self._memory, "device memory")
        return self._address

    def free(self) -> None:
        """Give it back; addresses of it become invalid."""
        memory, self._memory = self._memory, None
        if memory is not None:
            self._binding.free(memory)


class HostBuffer:
    """Page-locked memory of the host, which copies to and from the GPU need to be asynchronous.

    Attributes:
        nbytes: size that was asked for.
    """

    def __init__(self, binding: Binding, nbytes: int) -> None:
        self._binding = binding
        self._memory, self._array = binding.allocate_host(max(nbytes, 1))
        self.nbytes = nbytes

    def array(self, nbytes: int) -> np.ndarray[Any, Any]:
        """Return its first bytes as a writable uint8 array, without a copy."""
        _require_alive(self._memory, "page-locked memory")
        return self._array[:nbytes]

    def free(self) -> None:
        """Give it back; arrays of it must not be touched any more."""
        memory, self._memory = self._memory, None
        if memory is not None:
            del self._array
            self._binding.free_host(memory)


class Event:
    """A point in a stream's work."""

    def __init__(self, binding: Binding) -> None:
        self._binding = binding
        self._event = binding.create_event()

    def record(self, stream: Stream) -> None:
        """Enqueue it after what the stream holds."""
        _require_alive(self._event, "event")
        self._binding.record(self._event, stream.raw)

    def seconds_since(self, start: Event) -> float:
        """Return the time from ``start``; both must be recorded and their stream synchronised."""
        _require_alive(self._event, "event")
        return self._binding.milliseconds(start._event, self._event) * 1e-3

    def free(self) -> None:
        """Destroy it."""
        event, self._event = self._event, None
        if event is not None:
            self._binding.destroy_event(event)


class Graph:
    """Work that was recorded once and can be launched again as a whole."""

    def __init__(self, binding: Binding, graph: Any) -> None:
        self._binding = binding
        self._graph = graph

    def launch(self, stream: Stream) -> None:
        """Enqueue it."""
        _require_alive(self._graph, "graph")
        self._binding.launch(self._graph, stream.raw)

    def free(self) -> None:
        """Destroy it."""
        graph, self._graph = self._graph, None
        if graph is not None:
            self._binding.destroy_graph(graph)


class Stream:
    """Work that the GPU does in order, while the host goes on."""

    def __init__(self, binding: Binding) -> None:
        self._binding = binding
        self._stream, self._number = binding.create_stream()

    @property
    def raw(self) -> Any:
        """The package's own object."""
        _require_alive(self._stream, "stream")
        return self._stream

    @property
    def handle(self) -> int:
        """The number that TensorRT takes."""
        _require_alive(self._stream, "stream")
        return self._number

    def copy_to_device(self, target: DeviceBuffer, source: HostBuffer, nbytes: int) -> None:
        """Enqueue a copy of the first bytes; ``source`` must not be written before the stream is synchronised."""
        if nbytes:
            self._binding.copy_to_device(target.address, source.array(nbytes), self.raw)

    def copy_to_host(self, target: HostBuffer, source: DeviceBuffer, nbytes: int) -> None:
        """Enqueue a copy of the first bytes; ``target`` holds them once the stream is synchronised."""
        if nbytes:
            self._binding.copy_to_host(target.array(nbytes), source.address, self.raw)

    def capture(self, work: Callable[[], None]) -> Graph:
        """Record what ``work`` enqueues here, without running it.

        Raises:
            UnsupportedError: if the package at hand cannot record; see :meth:`Device.require_graphs`.
            BackendError: if something in it cannot be recorded.
        """
        return Graph(self._binding, self._binding.capture(self.raw, work))

    def synchronize(self) -> None:
        """Wait until everything is done."""
        self._binding.synchronize(self.raw)

    def free(self) -> None:
        """Destroy it."""
        stream, self._stream = self._stream, None
        if stream is not None:
            self._binding.destroy_stream(stream)


class Device:
    """One GPU.

    Attributes:
        ordinal: its number.
        properties: what it is.
    """

    def __init__(self, binding: Binding, ordinal: int) -> None:
        self._binding = binding
        self.ordinal = ordinal
        self.properties = binding.properties(ordinal)

    @property
    def package(self) -> str:
        """The package that reaches it, with its version."""
        return f"{self._binding.package} {self._binding.version}"

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make it the current GPU of this thread, and afterwards the one before."""
        entered = self._binding.enter(self.ordinal)
        try:
            yield
        finally:
            self._binding.leave(entered)

    def require_graphs(self) -> None:
        """Refuse a package that cannot record graphs.

        Raises:
            UnsupportedError: naming the one that can.
        """
        if not self._binding.has_graphs:
            raise UnsupportedError(
                describe(
                    "cuda_graph",
                    expected="the package cuda-bindings, which can record graphs",
                    actual=self.package,
                    remedy=f"Install it: {_HOW_TO_INSTALL}; or leave cuda_graph off.",
                )
            )

    def memory_in_use(self) -> int:
        """Return the bytes in use on it, by every process, while it is current."""
        free, total = self._binding.memory_info()
        return total - free

    def buffer(self, nbytes: int) -> DeviceBuffer:
        """Allocate device memory."""
        return DeviceBuffer(self._binding, nbytes)

    def host_buffer(self, nbytes: int) -> HostBuffer:
        """Allocate page-locked memory of the host."""
        return HostBuffer(self._binding, nbytes)

    def stream(self) -> Stream:
        """Create a stream."""
        return Stream(self._binding)

    def event(self) -> Event:
        """Create an event that can be timed."""
        return Event(self._binding)


def _require_alive(handle: Any, what: str) -> None:
    if handle is None:
        raise BackendError(describe(what, expected="one that is in use", actual="one that was freed"))


# The modules that implement Binding, in the order in which they are tried: (module, class).
_BINDINGS = (
    ("dcn_deploy.runtime.cuda_bindings", "CudaBindings"),
    ("dcn_deploy.runtime.pycuda", "PyCuda"),
)

_HOW_TO_INSTALL = "pip install cuda-bindings"


def find_binding(purpose: str) -> Binding:
    """Return the first package for CUDA that can be imported.

    Args:
        purpose: what needs it, as the subject of a sentence.

    Raises:
        MissingDependencyError: if there is none.
    """
    reasons = []
    for module, name in _BINDINGS:
        kind = getattr(importlib.import_module(module), name)
        try:
            binding: Binding = kind()
        except ImportError as error:
            reasons.append(f"{kind.package}: {error}")
            continue
        return binding
    raise MissingDependencyError(
        f"{purpose} needs the package 'cuda-bindings' or 'pycuda', neither of which can be imported "
        f"({'; '.join(reasons)}). Install it: {_HOW_TO_INSTALL}"
    )


def open_device(ordinal: int, purpose: str) -> Device:
    """Return a GPU by its number.

    Raises:
        MissingDependencyError: if no package for CUDA is installed.
        BackendError: if there is no driver, or no GPU.
        InvalidArgumentError: if there is no GPU of that number.
    """
    binding = find_binding(purpose)
    count = binding.device_count()
    if count == 0:
        raise BackendError(describe(purpose, expected="an NVIDIA GPU", actual="none that the driver finds"))
    if not 0 <= ordinal < count:
        raise InvalidArgumentError(
            describe(
                "device",
                expected=f"the number of a GPU, from 0 to {count - 1}",
                actual=ordinal,
                remedy="'nvidia-smi' lists them; CUDA_VISIBLE_DEVICES hides some.",
            )
        )
    return Device(binding, ordinal)


def what_is_missing() -> tuple[str, str] | None:
    """Return (what is missing, what to do about it) where no GPU can be reached from Python; None where one can."""
    remedy = "install NVIDIA's driver on a machine with an NVIDIA GPU, or use the backend 'onnxruntime'"
    try:
        binding = find_binding("this backend")
    except MissingDependencyError as error:
        return str(error).removeprefix("this backend needs ").partition(" Install it: ")[0].rstrip("."), _HOW_TO_INSTALL
    try:
        count = binding.device_count()
    except BackendError as error:
        # Its own remedy is for those who have a driver.
        reason = str(error).removeprefix("CUDA: ").partition(". ")[0]
        return f"no usable NVIDIA driver ({reason})", remedy
    return ("the NVIDIA driver finds no GPU", remedy) if count == 0 else None
