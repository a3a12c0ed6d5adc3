"""Profiling of runners: latency side by side, then memory and node times of each on its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcn_deploy.errors import BackendError, InvalidArgumentError, describe
from dcn_deploy.profiling.deformable import DeformableShare, deformable_share
from dcn_deploy.profiling.machine import describe_machine
from dcn_deploy.profiling.memory import PeakMemory, peak_memory
from dcn_deploy.profiling.report import Report, Row, SelfCheck
from dcn_deploy.profiling.statistics import summarize
from dcn_deploy.profiling.timing import Call, Method, Samples, measure
from dcn_deploy.runtime.backends import BACKENDS
from dcn_deploy.runtime.runner import Runner

if TYPE_CHECKING:
    import numpy as np

    Feed = Mapping[str, np.ndarray[Any, Any]]

# Runs of the session that records node times: before they count, at least, at most, and the time in seconds after
# which no more than the least are made.
_NODE_WARMUP, _NODE_FEWEST, _NODE_MOST, _NODE_SECONDS = 3, 3, 30, 2.0


def profile(
    runners: Sequence[Runner] | Mapping[str, Runner],
    feeds: Sequence[Feed],
    *,
    method: Method | None = None,
    memory: bool = True,
    nodes: bool = True,
    self_check: bool = False,
    recipes: Mapping[str, Callable[[], Runner]] | None = None,
    progress: Callable[[int, int | None, str], None] | None = None,
) -> Report:
    """Measure engines side by side.

    Each runner is built again (:meth:`Runner.replicate`) with spinning off if there are several, so the given
    ones need not be active and are left as they are.

    Args:
        runners: the engines; as a mapping with the names to report. Names of a sequence are the backends', made
            different by a number.
        feeds: one or more inputs; round r uses feed r modulo their number.
        method: how to time; None for the defaults.
        memory: measure peak memory, each engine in a process of its own.
        nodes: record node times, in a session of its own since recording slows the engine down.
        self_check: also time the first engine against itself under a second name.
        recipes: for an engine that cannot be pickled, a function that can and that makes it; by name. For the
            memory only.
        progress: called as ``progress(done, total or None, what is being done)``.

    Raises:
        InvalidArgumentError: if there is no runner or no feed, or a feed does not fit.
        BackendError: if an engine fails.
    """
    named = dict(runners) if isinstance(runners, Mapping) else _names(runners)
    if not named or not feeds:
        raise InvalidArgumentError(
            describe(
                "profile(runners, feeds)",
                expected="at least one of each",
                actual=f"{len(named)} runners and {len(feeds)} feeds",
            )
        )
    method = method or Method()
    report = progress or (lambda done, total, text: None)
    samples, check, remarks = _time(named, feeds, method, self_check, report)
    rows = []
    for name, runner in named.items():
        notes = list(remarks[name])
        report(0, None, f"memory of {name}")
        peak = _memory(runner, feeds[0], (recipes or {}).get(name), notes) if memory else None
        report(0, None, f"nodes of {name}")
        share = _nodes(runner, feeds) if nodes else None
        if share is not None and not share.nodes:
            notes.append("no deformable node was found in what the runtime executed.")
        rows.append(_row(name, runner, feeds[0], samples[name], peak, share, tuple(notes)))
    shapes = {name: list(array.shape) for name, array in feeds[0].items()}
    return Report(tuple(rows), method, describe_machine(), shapes, check)


def _names(runners: Sequence[Runner]) -> dict[str, Runner]:
    names: dict[str, Runner] = {}
    for runner in runners:
        name, number = runner.backend, 2
        while name in names:
            name, number = f"{runner.backend} ({number})", number + 1
        names[name] = runner
    return names


def _time(
    named: Mapping[str, Runner],
    feeds: Sequence[Feed],
    method: Method,
    self_check: bool,
    report: Callable[[int, int | None, str], None],
) -> tuple[dict[str, Samples], SelfCheck | None, dict[str, tuple[str, ...]]]:
    first = next(iter(named))
    twin = f"{first} (again)"
    while twin in named:
        twin += "'"
    timed = dict(named) | ({twin: named[first]} if self_check else {})
    changes: dict[str, Any] = {"profile": False, "keep_intermediates": False, "progress": None}
    if len(timed) > 1:
        changes["spinning"] = False
    with ExitStack() as stack:
        calls: dict[str, Call] = {}
        device_seconds: dict[str, Callable[[], float | None]] = {}
        notes: dict[str, tuple[str, ...]] = {}
        for name, runner in timed.items():
            report(0, None, f"loading {name}")
            engine = stack.enter_context(runner.replicate(**changes))
            calls[name], device_seconds[name] = _call(engine, feeds), _asking(engine)
            notes[name] = engine.notes
        samples = measure(calls, method, device_seconds=device_seconds, progress=report)
    if not self_check:
        return samples, None, notes
    again = summarize(samples.pop(twin).seconds).median
    return samples, SelfCheck(first, again / summarize(samples[first].seconds).median), notes


def _call(runner: Runner, feeds: Sequence[Feed]) -> Call:
    return lambda number: runner.infer(feeds[number % len(feeds)])


def _asking(runner: Runner) -> Callable[[], float | None]:
    return lambda: runner.device_seconds


def _memory(runner: Runner, feed: Feed, recipe: Callable[[], Runner] | None, notes: list[str]) -> PeakMemory | None:
    row = BACKENDS.get(runner.backend)
    packages = () if row is None else (*row.packages, *row.uses, row.module)
    options = getattr(runner, "options", None)
    try:
        return peak_memory(
            recipe or runner.replicate(profile=False, keep_intermediates=False, progress=None),
            feed,
            packages=packages,
            gpu=options.device if row is not None and row.on_gpu and options is not None else None,
        )
    except BackendError as error:
        notes.append(str(error))
        return None


def _nodes(runner: Runner, feeds: Sequence[Feed]) -> DeformableShare | None:
    with runner.replicate(profile=True, keep_intermediates=False, progress=None) as recorder:
        # A runtime that records nothing must not be run for it: it may be the slow one.
        if type(recorder).node_times is Runner.node_times:
            return None
        begin, runs = time.monotonic(), -_NODE_WARMUP
        while runs < _NODE_FEWEST or (runs < _NODE_MOST and time.monotonic() - begin < _NODE_SECONDS):
            recorder.infer(feeds[runs % len(feeds)])
            runs += 1
        times = recorder.node_times(skip=_NODE_WARMUP)
    return deformable_share(times, runs) if times else None


def _row(
    name: str,
    runner: Runner,
    feed: Feed,
    samples: Samples,
    memory: PeakMemory | None,
    deformable: DeformableShare | None,
    notes: tuple[str, ...],
) -> Row:
    first = next(iter(feed.values()), None)
    options = getattr(runner, "options", None)
    return Row(
        name=name,
        backend=runner.backend,
        model=_model(getattr(runner, "model", None)),
        batch=int(first.shape[0]) if first is not None and first.ndim else 1,
        threads=None if options is None else options.threads,
        latency=summarize(samples.seconds),
        samples=samples.seconds,
        device=summarize(samples.device_seconds) if samples.device_seconds else None,
        device_samples=samples.device_seconds,
        warmup=samples.warmup,
        stable=samples.stable,
        memory=memory,
        deformable=deformable,
        notes=notes,
    )


def _model(model: object) -> str:
    if isinstance(model, str | Path):
        return str(model)
    return "" if model is None else type(model).__qualname__
