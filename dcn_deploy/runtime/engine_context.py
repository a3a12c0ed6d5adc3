"""One execution context of an engine with one profile, its memory, its stream, and how a run goes.

A run copies the inputs to page-locked memory and from there to the GPU, enqueues the network, copies the outputs back
and waits. Buffers stay where they are until a larger tensor comes. Events around the network alone tell what it took
without the copies.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dcn_deploy.errors import BackendError, UnsupportedError
from dcn_deploy.runtime.engine_tensors import EngineTensor

if TYPE_CHECKING:
    import numpy as np

    from dcn_deploy.runtime.device_memory import Device, DeviceBuffer, Graph, HostBuffer
    from dcn_deploy.runtime.tensorrt_api import Api, Messages


@dataclass
class _Place:
    """Where one tensor is: on the GPU, and its twin on the host."""

    device: DeviceBuffer
    host: HostBuffer

    def free(self) -> None:
        self.device.free()
        self.host.free()


class EngineContext:
    """Runs one profile of an engine. Its device must be current whenever it is used.

    Args:
        api: the package.
        context: an ``IExecutionContext``, fresh; this object owns it.
        device: the GPU.
        tensors: of the engine.
        profile: index of the profile; None if there is only one.
        graph: whether to record the network's work and replay it.

    Attributes:
        seconds: what the network took in the last run, without copies; None before the first.

    Raises:
        BackendError: if TensorRT refuses the profile.
    """

    def __init__(
        self,
        api: Api,
        context: Any,
        device: Device,
        tensors: Sequence[EngineTensor],
        profile: int | None,
        *,
        graph: bool,
    ) -> None:
        self.seconds: float | None = None
        self._api = api
        self._context = context
        self._device = device
        self._inputs = [tensor for tensor in tensors if tensor.is_input]
        self._outputs = [tensor for tensor in tensors if not tensor.is_input]
        self._wants_graph = graph
        self._graph: Graph | None = None
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._sizes: dict[str, tuple[int, ...]] = {}
        self._places: dict[str, _Place] = {}
        self._allocators: dict[str, Any] = {}
        self._stream = device.stream()
        self._start, self._end = device.event(), device.event()
        try:
            if profile is not None:
                self._select(profile)
        except BaseException:
            self.free()
            raise

    def run(self, feed: Mapping[str, np.ndarray[Any, Any]], outputs: Sequence[str]) -> dict[str, np.ndarray[Any, Any]]:
        """Run once and return copies of the wanted outputs.

        Args:
            feed: one array for each input, of its element type and with a shape of the profile.
            outputs: names.

        Raises:
            BackendError: if TensorRT or CUDA fails; the message says what they said.
            UnsupportedError: if a graph is wanted of a network whose outputs depend on the inputs' values.
        """
        self._set_shapes({tensor.name: feed[tensor.name].shape for tensor in self._inputs})
        for tensor in self._inputs:
            array, place = feed[tensor.name], self._places[tensor.name]
            # In C order whatever the array's own is, without a copy in between.
            _view(place.host, tensor.dtype, array.shape)[...] = array
            self._stream.copy_to_device(place.device, place.host, array.nbytes)
        self._start.record(self._stream)
        self._enqueue()
        self._end.record(self._stream)
        known = [name for name in outputs if name not in self._allocators]
        for name in known:
            place = self._places[name]
            self._stream.copy_to_host(place.host, place.device, self._nbytes(name))
        self._stream.synchronize()
        self.seconds = self._end.seconds_since(self._start)
        if self._wants_graph and self._graph is None:
            # After a run, not before: TensorRT puts off work to the first one with new shapes.
            self._graph = self._stream.capture(self._execute)
        dtypes = {tensor.name: tensor.dtype for tensor in self._outputs}
        results = {name: _view(self._places[name].host, dtypes[name], self._sizes[name]).copy() for name in known}
        for name in outputs:
            if name in self._allocators:
                results[name] = self._fetch(name, dtypes[name])
        return {name: results[name] for name in outputs}

    def free(self) -> None:
        """Give everything back."""
        # A GPU with a fault refuses this too; what matters then is the error that told of the fault.
        with contextlib.suppress(BackendError):
            self._stream.synchronize()
        allocators = [allocator.free for allocator in self._allocators.values()]
        places = [place.free for place in self._places.values()]
        graph = [self._graph.free] if self._graph is not None else []
        # Before the memory that it knows of.
        self._context = None
        for free in (*graph, *allocators, *places, self._start.free, self._end.free, self._stream.free):
            with contextlib.suppress(BackendError):
                free()
        self._graph = None
        self._places, self._allocators = {}, {}

    def _select(self, profile: int) -> None:
        what = f"profile {profile} of the engine cannot be used"
        with self._refusing(what) as messages:
            if not self._context.set_optimization_profile_async(profile, self._stream.handle):
                raise self._api.error(what, messages)
        self._stream.synchronize()

    def _enqueue(self) -> None:
        if self._graph is not None:
            self._graph.launch(self._stream)
        else:
            self._execute()

    def _execute(self) -> None:
        with self._refusing("the engine failed while running") as messages:
            if not self._context.execute_async_v3(self._stream.handle):
                raise self._api.error("the engine failed while running", messages)

    def _set_shapes(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Tell TensorRT the inputs' shapes where they changed, and make room for every tensor."""
        if shapes == self._shapes:
            return
        # Only once all is in order: a failure half-way must not be taken for done by the next run.
        self._shapes = {}
        self._drop_graph()
        with self._refusing("it refuses the shapes of the inputs") as messages:
            for tensor in self._inputs:
                if not self._context.set_input_shape(tensor.name, shapes[tensor.name]):
                    raise self._api.error(
                        f"it refuses the shape {shapes[tensor.name]} of input '{tensor.name}'", messages
                    )
                self._make_room(tensor, shapes[tensor.name])
            open_ = self._context.infer_shapes()
            if open_:
                raise self._api.error(f"the shapes of {', '.join(open_)} are not settled by the inputs'", messages)
        for tensor in self._outputs:
            shape = tuple(self._context.get_tensor_shape(tensor.name))
            if -1 in shape:
                self._allocate_late(tensor)
            else:
                self._make_room(tensor, shape)
        self._shapes = shapes

    def _make_room(self, tensor: EngineTensor, shape: tuple[int, ...]) -> None:
        self._sizes[tensor.name] = shape
        nbytes = _nbytes(tensor.dtype, shape)
        place = self._places.get(tensor.name)
        if place is not None and place.device.nbytes >= nbytes:
            return
        if place is not None:
            del self._places[tensor.name]
            place.free()
        device = self._device.buffer(nbytes)
        try:
            self._places[tensor.name] = _Place(device, self._device.host_buffer(nbytes))
        except BaseException:
            device.free()
            raise
        if not self._context.set_tensor_address(tensor.name, device.address):
            raise BackendError(f"{self._api.title}: it refuses the memory of '{tensor.name}' at {device.address:#x}.")

    def _nbytes(self, name: str) -> int:
        tensor = next(tensor for tensor in self._outputs if tensor.name == name)
        return _nbytes(tensor.dtype, self._sizes[name])

    def _allocate_late(self, tensor: EngineTensor) -> None:
        """Let TensorRT ask for an output's memory once it knows the size, which the inputs' values decide."""
        if self._wants_graph:
            raise UnsupportedError(
                f"cuda_graph: expected outputs whose shapes follow from those of the inputs, got '{tensor.name}', "
                "whose shape depends on the inputs' values. Leave cuda_graph off."
            )
        if tensor.name not in self._allocators:
            allocator = _output_allocator(self._api.trt, self._device)
            if not self._context.set_output_allocator(tensor.name, allocator):
                raise BackendError(f"{self._api.title}: it refuses an allocator for output '{tensor.name}'.")
            self._allocators[tensor.name] = allocator

    def _fetch(self, name: str, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
        """Copy an output back whose size has only become known."""
        allocator = self._allocators[name]
        if allocator.buffer is None or allocator.shape is None:
            raise BackendError(f"{self._api.title}: it has not told the shape of output '{name}'.")
        nbytes = _nbytes(dtype, allocator.shape)
        host = self._device.host_buffer(nbytes)
        try:
            self._stream.copy_to_host(host, allocator.buffer, nbytes)
            self._stream.synchronize()
            return _view(host, dtype, allocator.shape).copy()
        finally:
            host.free()

    def _drop_graph(self) -> None:
        if self._graph is not None:
            graph, self._graph = self._graph, None
            graph.free()

    @contextlib.contextmanager
    def _refusing(self, what: str) -> Iterator[Messages]:
        """Collect what TensorRT says; turn what its bindings raise into an error that holds it."""
        with self._api.listening() as messages:
            try:
                yield messages
            except RuntimeError as error:
                if isinstance(error, BackendError):
                    raise
                raise self._api.error(f"{what} ({error})", messages) from error


def _output_allocator(trt: Any, device: Device) -> Any:
    """Return an ``IOutputAllocator`` with ``buffer`` and ``shape`` of what it was last asked for."""

    class OutputAllocator(trt.IOutputAllocator):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)
            self.buffer: DeviceBuffer | None = None
            self.shape: tuple[int, ...] | None = None

        def reallocate_output(self, tensor_name: str, memory: int, size: int, alignment: int) -> int:
            # Called from within TensorRT, which takes a null address for "no memory left" and lets nothing through.
            try:
                if self.buffer is None or self.buffer.nbytes < size:
                    self.free()
                    self.buffer = device.buffer(size)
                return self.buffer.address
            except BackendError:
                return 0

        def reallocate_output_async(self, tensor_name: str, memory: int, size: int, alignment: int, stream: int) -> int:
            return self.reallocate_output(tensor_name, memory, size, alignment)

        def notify_shape(self, tensor_name: str, shape: Sequence[int]) -> None:
            self.shape = tuple(shape)

        def free(self) -> None:
            buffer, self.buffer = self.buffer, None
            if buffer is not None:
                buffer.free()

    return OutputAllocator()


def _nbytes(dtype: np.dtype[Any], shape: Sequence[int]) -> int:
    count = 1
    for extent in shape:
        count *= extent
    return count * dtype.itemsize


def _view(host: HostBuffer, dtype: np.dtype[Any], shape: Sequence[int]) -> np.ndarray[Any, Any]:
    """Return page-locked memory as an array of that type and shape."""
    return host.array(_nbytes(dtype, shape)).view(dtype).reshape(shape)
