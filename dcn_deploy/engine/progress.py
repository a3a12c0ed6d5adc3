"""TensorRT's progress reports as one number, and a way to stop it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dcn_deploy.runtime.tensorrt_api import Api

#: Called with (done, total, what is being done); what it raises stops the build.
Advance = Callable[[float, float | None, str | None], None]

#: Number of steps that a build counts as.
_TOTAL = 1000.0


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class Progress:
    """Phases that contain each other, as one fraction.

    Args:
        advance: where progress goes; None for nowhere.
    """

    def __init__(self, advance: Advance | None) -> None:
        self._advance = advance
        self._phases: dict[str, _Phase] = {}
        self._lock = threading.Lock()
        self._shown = 0.0
        #: What ``advance`` or a signal raised; the build is to be given up for it.
        self.stopped_by: BaseException | None = None

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase begins inside another one, or on its own."""
        with self._lock:
            self._phases[name] = _Phase(parent or None, max(steps, 1))
        self._show(name)

    def step(self, name: str, step: int) -> bool:
        """A step of a phase is done, counted from 0; return whether to go on."""
        with self._lock:
            phase = self._phases.get(name)
            if phase is not None:
                phase.done = step + 1
        self._show(name)
        return self.stopped_by is None

    def finish(self, name: str) -> None:
        """A phase is over."""
        with self._lock:
            self._phases.pop(name, None)

    def fraction(self) -> float:
        """How much of the whole is done, 0 to 1; it never decreases."""
        with self._lock:
            roots = [name for name, phase in self._phases.items() if phase.parent not in self._phases]
            self._shown = max([self._shown, *map(self._of, roots)])
            return self._shown

    def _of(self, name: str) -> float:
        phase = self._phases[name]
        inside = max((self._of(child) for child, other in self._phases.items() if other.parent == name), default=0.0)
        return min((phase.done + inside) / phase.steps, 1.0)

    def _show(self, text: str) -> None:
        if self._advance is None or self.stopped_by is not None:
            return
        try:
            self._advance(self.fraction() * _TOTAL, _TOTAL, text)
        except BaseException as error:
            # Through TensorRT's C++ it would not come out: kept, and raised again once TensorRT has returned.
            self.stopped_by = error


@contextmanager
def stopped_by_signal(progress: Progress) -> Iterator[None]:
    """Have Ctrl-C stop the build at TensorRT's next step, while the context lasts.

    Python handles the signal wherever its code runs next on the main thread, and during a build that may be the
    logger as well as the monitor: the bindings swallow what comes out of the former. So the handler that is there
    (Python's own, unless the application has another) is called, and what it raises is kept in ``stopped_by``.

    On other threads, which get no signals, and where Ctrl-C is ignored or ends the process, nothing is changed.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return

    def stop(number: int, frame: Any) -> None:
        try:
            before(number, frame)
        except BaseException as error:
            progress.stopped_by = progress.stopped_by or error

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def monitor(api: Api, progress: Progress) -> Any:
    """Return an ``IProgressMonitor`` that reports to ``progress``."""
    base: Any = api.trt.IProgressMonitor

    class Monitor(base):  # type: ignore[misc]
        def __init__(self) -> None:
            base.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            _safely(progress, lambda: progress.start(phase_name, parent_phase, num_steps))

        def step_complete(self, phase_name: str, step: int) -> bool:
            _safely(progress, lambda: progress.step(phase_name, step))
            return progress.stopped_by is None

        def phase_finish(self, phase_name: str) -> None:
            _safely(progress, lambda: progress.finish(phase_name))

    return Monitor()


def _safely(progress: Progress, call: Callable[[], object]) -> None:
    """Keep what is raised, which would not come out through TensorRT's C++."""
    try:
        call()
    except BaseException as error:
        progress.stopped_by = progress.stopped_by or error
