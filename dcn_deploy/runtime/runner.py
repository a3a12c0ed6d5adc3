"""The interface every runtime is driven through."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar

from dcn_deploy.boxes import Boxes
from dcn_deploy.errors import UnsupportedError

if TYPE_CHECKING:
    import numpy as np
    from typing_extensions import Self


@dataclass(frozen=True)
class TensorSpec:
    """Name, element type and shape of one input or output.

    ``shape`` holds an int for a fixed extent, a str for a named dynamic one, None for an unknown one;
    it is itself None where even the rank is unknown. ``dtype`` is a NumPy dtype (``ml_dtypes.bfloat16``
    for bfloat16), None where the model leaves it open, as a PyTorch network does. ``boxes`` says what the
    regions of interest in an input must fit, where somebody found out that it holds some. ``example`` is a shape
    that is good to run it with, where not every extent of a free axis is.
    """

    name: str
    dtype: np.dtype[Any] | None
    shape: tuple[int | str | None, ...] | None
    boxes: Boxes | None = None
    example: tuple[int, ...] | None = None


@dataclass(frozen=True)
class NodeTime:
    """What one node of the graph took, over the runs that were recorded.

    Attributes:
        name: the node's name; the runtime's own where the graph gives it none.
        op_type: what the runtime executed, which an optimiser may have fused or renamed.
        domain: domain of the model's node of that name, "" for the ONNX standard and for nodes that only the
            optimiser made.
        metadata: ``metadata_props`` of the model's node of that name.
        durations: seconds of each execution, in order.
    """

    name: str
    op_type: str
    domain: str
    metadata: Mapping[str, str]
    durations: tuple[float, ...]


@dataclass(frozen=True)
class RunnerOptions:
    """What can be asked of any runtime; one that has no such notion ignores the field.

    Attributes:
        threads: number of threads inside one operator; None leaves the runtime's default.
        spinning: whether idle worker threads may busy-wait. Turn off when several engines are timed in
            one process, since spinning threads disturb the others.
        profile: record the time of every node, where the runtime can; see :meth:`Runner.node_times`.
        keep_intermediates: make every intermediate tensor of the graph an output.
        device: ordinal of the GPU, for the runtimes that run on one.
        allow_tf32: whether float32 products may be rounded to TF32 on a GPU. Off, float32 is exact to its own rounding.
        cuda_graph: record the work of a run on a GPU once and replay it: less time on the host. ONNX Runtime wants the
            shapes of the first run in every other; TensorRT records anew where they change.
        progress: called as ``progress(done, total, node)`` before each node and once at the end of a run, by
            the runtimes slow enough to need it (``reference``).
    """

    threads: int | None = None
    spinning: bool = True
    profile: bool = False
    keep_intermediates: bool = False
    device: int = 0
    allow_tf32: bool = False
    cuda_graph: bool = False
    progress: Callable[[int, int, str], None] | None = None


class Runner(ABC):
    """One model in one runtime: ``activate``, ``infer`` any number of times, ``close``.

    Also a context manager that activates on entry and closes on exit. The constructor only stores what it
    is given; loading, compiling and allocating happen in :meth:`activate`.
    """

    #: The backend's name, as on the command line.
    backend: ClassVar[str]

    @property
    def tf32(self) -> bool:
        """Whether float32 products may be rounded to TF32 (active runner only)."""
        return False

    @abstractmethod
    def activate(self) -> None:
        """Load the model and make it ready. Calling it on an active runner does nothing.

        Raises:
            BackendError: if the runtime refuses the model.
            MissingDependencyError: if the runtime is not installed.
        """

    @abstractmethod
    def infer(
        self, feed: Mapping[str, np.ndarray[Any, Any]], outputs: Sequence[str] | None = None
    ) -> dict[str, np.ndarray[Any, Any]]:
        """Run once.

        Args:
            feed: one array for each input, by name.
            outputs: names of the wanted outputs; None for all.

        Raises:
            InvalidArgumentError: for a missing or unknown name, a wrong element type or shape.
            BackendError: if the runtime fails, or the runner is not active.
        """

    @abstractmethod
    def close(self) -> None:
        """Free what :meth:`activate` took. Calling it twice does nothing."""

    @property
    @abstractmethod
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What :meth:`infer` takes, in the model's order (active runner only)."""

    @property
    @abstractmethod
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What :meth:`infer` gives, in the model's order (active runner only)."""

    @property
    def device_seconds(self) -> float | None:
        """What the last run took on the GPU, without the copies to it and from it; None where that is not measured."""
        return None

    @property
    def notes(self) -> tuple[str, ...]:
        """What one must know to judge what this runner gives, in whole sentences (active runner only)."""
        return ()

    def replicate(self, **changes: Any) -> Runner:
        """Return an inactive runner of the same model in the same runtime with other options.

        Args:
            **changes: fields of :class:`RunnerOptions` to replace.

        Raises:
            UnsupportedError: if this kind of runner cannot be built again.
        """
        raise UnsupportedError(f"{type(self).__name__} cannot be built a second time with other options.")

    def node_times(self, skip: int = 0) -> tuple[NodeTime, ...]:
        """Return what each node took since :meth:`activate`, in order of execution, and end the recording.

        Args:
            skip: number of runs at the beginning to leave out (warm-up).

        Returns:
            One entry a node; empty where the runtime measures no nodes.

        Raises:
            BackendError: if the runner is not active, or was not created with ``RunnerOptions(profile=True)``.
        """
        return ()

    def __enter__(self) -> Self:
        self.activate()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
