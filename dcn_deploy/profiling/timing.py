"""Timing several engines in one process so that they do not disturb each other.

Idle worker threads of one engine spin and its data evicts the next one's. So the caller turns spinning off, and
here every measurement comes after a pause, is not the first call after it, and the engines take turns in an order that
rotates from round to round, which spreads drift of the clock rate over all of them.
"""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from dcn_deploy.errors import InvalidArgumentError, describe

#: Runs one engine; gets the number of the round, to choose the input by.
Call = Callable[[int], object]


def let_idle_threads_sleep() -> None:
    """Ask OpenMP runtimes that are loaded from now on (PyTorch's, OpenVINO's) not to spin while idle.

    They read the environment once, so this has to come before ``import torch``. What the user has set stays.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("KMP_BLOCKTIME", "0")


@dataclass(frozen=True)
class Method:
    """How to measure.

    Attributes:
        runs: timed runs of each engine; None for as many as fit into ``seconds``.
        seconds: time for each engine, untimed calls and pauses included; None for no limit. At least
            ``fewest_runs`` are made unless ``runs`` is less.
        warmup: calls before; None for as many as it takes until the median of the last ``window`` differs from that
            of the ``window`` before by at most ``tolerance``.
        pause: seconds of sleep before each measurement.
        window: see ``warmup``.
        tolerance: see ``warmup``.
        warmup_seconds: the warm-up ends after this time in any case.
        fewest_runs: see ``seconds``.
        most_runs: bound on the runs that fit into ``seconds``.
        alone: a call that takes longer than this many seconds is timed without another one before it: what it
            gains from warm caches is some milliseconds.
        lead: seconds of untimed calls before the timed one, at least one call. More than 0 for runs of a few
            milliseconds on several threads: a worker that slept through the pause takes about as long to be at work
            again.
    """

    runs: int | None = None
    seconds: float | None = 5.0
    warmup: int | None = None
    pause: float = 0.01
    window: int = 5
    tolerance: float = 0.02
    warmup_seconds: float = 5.0
    fewest_runs: int = 5
    most_runs: int = 1000
    alone: float = 0.5
    lead: float = 0.0

    def __post_init__(self) -> None:
        for name, smallest in (("runs", 1), ("seconds", 0.0), ("warmup", 0), ("pause", 0.0), ("lead", 0.0)):
            value = getattr(self, name)
            if value is not None and not value >= smallest:
                raise InvalidArgumentError(describe(name, expected=f"at least {smallest}", actual=value))
        if self.runs is None and self.seconds is None:
            raise InvalidArgumentError(describe("runs and seconds", expected="at least one", actual="None for both"))


@dataclass(frozen=True)
class Samples:
    """What was measured of one engine.

    Attributes:
        seconds: duration of each timed call, in order.
        warmup: number of calls before the first round.
        stable: whether the warm-up ended because the times were stable; None if their number was given.
        device_seconds: what each timed call took on the GPU, without copies; empty where that is not measured.
    """

    seconds: tuple[float, ...]
    warmup: int
    stable: bool | None
    device_seconds: tuple[float, ...] = ()


def measure(
    calls: Mapping[str, Call],
    method: Method | None = None,
    *,
    device_seconds: Mapping[str, Callable[[], float | None]] | None = None,
    clock: Callable[[], int] = time.perf_counter_ns,
    sleep: Callable[[float], None] = time.sleep,
    progress: Callable[[int, int | None, str], None] | None = None,
) -> dict[str, Samples]:
    """Time each engine, in rounds in which every engine has one turn.

    Args:
        calls: the engines by name. In one round all get the same number.
        method: None for the defaults.
        device_seconds: for some of the engines, a function that tells what the last call took on the GPU.
        clock: nanoseconds.
        sleep: takes seconds.
        progress: called as ``progress(rounds done, rounds in all or None, what is being done)``.

    Returns:
        The samples by name, equally many of each.
    """
    method = method or Method()
    report = progress or (lambda done, total, text: None)
    names = list(calls)
    samples: dict[str, list[float]] = {name: [] for name in names}
    on_device: dict[str, list[float | None]] = {name: [] for name in names}
    ask = device_seconds or {}
    warm: dict[str, tuple[int, bool | None]] = {}
    with _no_garbage_collection():
        for name in names:
            report(0, method.runs, f"warming up {name}")
            warm[name] = _warm_up(calls[name], method, clock)
        begin = clock()
        for number in _rounds(method, len(names), lambda: (clock() - begin) * 1e-9):
            shift = number % len(names) if names else 0
            for name in names[shift:] + names[:shift]:
                report(number, method.runs, f"timing {name}")
                samples[name].append(_time_one(calls[name], number, samples[name], method, clock, sleep))
                on_device[name].append(ask[name]() if name in ask else None)
    return {name: Samples(tuple(samples[name]), *warm[name], _all_or_none(on_device[name])) for name in names}


def _all_or_none(values: Sequence[float | None]) -> tuple[float, ...]:
    known = tuple(value for value in values if value is not None)
    return known if len(known) == len(values) else ()


def _rounds(method: Method, engines: int, elapsed: Callable[[], float]) -> Iterator[int]:
    most = method.runs if method.runs is not None else method.most_runs
    for number in range(most):
        enough = number >= min(method.fewest_runs, most)
        if enough and method.seconds is not None and elapsed() >= method.seconds * engines:
            return
        yield number


def _time_one(
    call: Call,
    number: int,
    before: list[float],
    method: Method,
    clock: Callable[[], int],
    sleep: Callable[[float], None],
) -> float:
    sleep(method.pause)
    if not before or before[-1] <= method.alone:
        begin = clock()
        call(number)
        while (clock() - begin) * 1e-9 < method.lead:
            call(number)
    start = clock()
    call(number)
    return (clock() - start) * 1e-9


def _warm_up(call: Call, method: Method, clock: Callable[[], int]) -> tuple[int, bool | None]:
    """Call until the times are stable; return the number of calls and whether they were."""
    if method.warmup is not None:
        for number in range(method.warmup):
            call(number)
        return method.warmup, None
    durations: list[float] = []
    begin = clock()
    while not durations or (clock() - begin) * 1e-9 < method.warmup_seconds:
        start = clock()
        call(len(durations))
        durations.append((clock() - start) * 1e-9)
        if len(durations) >= 2 * method.window:
            last = statistics.median(durations[-method.window :])
            previous = statistics.median(durations[-2 * method.window : -method.window])
            if abs(last - previous) <= method.tolerance * previous:
                return len(durations), True
    return len(durations), False


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
