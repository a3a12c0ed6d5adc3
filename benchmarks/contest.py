"""Engines that are checked, given cores and timed in turns: what the benchmarks on the CPU have in common."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from engines import Array, Prepared
from placement import caller_on_one_core, workers_on_their_own_cores

from dcn_deploy.profiling import Method, measure, summarize

#: Relative RMS error above which an engine does not compute the operator, so that its time means nothing.
WRONG = 1e-5

#: Seconds of untimed calls before a timed one. A worker that slept through the pause takes some milliseconds to be at
#: work again, more than a short run takes: with one untimed call, the timed one would still be run by one thread.
LEAD = 0.02


@dataclass(frozen=True)
class Contender:
    """An engine in a contest.

    Attributes:
        prepare: makes it ready to run.
        expected: what its output begins with, in float64; None for an engine that computes something else on purpose.
        places_threads: whether it gives its threads cores of their own by itself.
    """

    prepare: Callable[[], Prepared]
    expected: np.ndarray[Any, np.dtype[np.float64]] | None
    places_threads: bool = False


def method_for(seconds: float, *, lead: float = LEAD) -> Method:
    """How engines are measured that get so many seconds each."""
    return Method(seconds=seconds, fewest_runs=5, most_runs=100, warmup_seconds=seconds / 2, lead=lead)


def relative_rms_error(name: str, actual: Array, expected: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    """Compare the beginning of ``actual`` with ``expected``.

    Raises:
        SystemExit: if that is another operator's result.
    """
    actual = actual[: len(expected)]
    error = float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))
    if not error <= WRONG:
        raise SystemExit(
            f"error: {name}: expected a relative RMS error of at most {WRONG:g} against float64, got {error:.2e}. "
            "It computes something else, so timing it would mean nothing."
        )
    return error


def time_in_turns(contenders: Mapping[str, Contender], threads: int, method: Method) -> dict[str, dict[str, Any]]:
    """Run each engine once and check its result, then time them all.

    Returns:
        By name the summary of the times in seconds, whether they were ``stable`` before the first was taken, and
        ``relative_rms_error``, None for an engine without an expected result.

    Raises:
        SystemExit: if an engine's result is another operator's.
    """
    prepared: dict[str, Prepared] = {}
    errors: dict[str, float | None] = {}
    for name, contender in contenders.items():
        # The first run starts the threads that preparing did not.
        with contextlib.nullcontext() if contender.places_threads else workers_on_their_own_cores(threads):
            prepared[name] = contender.prepare()
            prepared[name].run(0)
        expected = contender.expected
        errors[name] = None if expected is None else relative_rms_error(name, prepared[name].output(), expected)
    with caller_on_one_core(threads):
        samples = measure({name: engine.run for name, engine in prepared.items()}, method)
    return {
        name: {**asdict(summarize(taken.seconds)), "stable": taken.stable, "relative_rms_error": errors[name]}
        for name, taken in samples.items()
    }
