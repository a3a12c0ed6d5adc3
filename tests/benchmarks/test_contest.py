"""Engines that are checked before they are timed, each thread of theirs on a core of its own."""

from __future__ import annotations

import os
import threading
from types import ModuleType
from typing import Any

import benchmark_programs
import numpy as np
import pytest


@pytest.fixture(scope="module")
def contest() -> ModuleType:
    return benchmark_programs.load("contest")


def _contender(contest: ModuleType, output: Any, expected: Any, **others: Any) -> Any:
    prepared = contest.Prepared(lambda _: None, lambda: output)
    return contest.Contender(lambda: prepared, expected, **others)


def test_an_engine_that_computes_something_else_is_not_timed(contest: ModuleType) -> None:
    expected, timed = np.ones((2, 3, 4)), []
    prepared = contest.Prepared(timed.append, lambda: np.full((9, 3, 4), 1.01))
    wrong = contest.Contender(lambda: prepared, expected)
    with pytest.raises(SystemExit, match=r"openvino: expected a relative RMS error of at most 1e-05.*got 1\.00e-02"):
        contest.time_in_turns({"openvino": wrong}, 1, contest.method_for(0.01))
    assert timed == [0], "run once, for the check"


def test_nan_is_something_else(contest: ModuleType) -> None:
    with pytest.raises(SystemExit, match="got nan"):
        contest.relative_rms_error("ours", np.full(3, np.nan), np.ones(3))


def test_figures_of_each_engine(contest: ModuleType) -> None:
    expected = np.ones((2, 3))
    # The first rows are compared; an engine that computes something else on purpose has nothing to be compared with.
    engines = {
        "right": _contender(contest, np.ones((9, 3)), expected),
        "dense": _contender(contest, np.zeros((9, 3)), None),
    }
    figures = contest.time_in_turns(engines, 1, contest.method_for(0.02, lead=0.0))
    assert figures["right"]["relative_rms_error"] == 0.0
    assert figures["dense"]["relative_rms_error"] is None
    assert figures["right"]["median"] > 0
    assert figures["right"]["count"] == figures["dense"]["count"] >= 5


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
@pytest.mark.parametrize("places_threads", [False, True])
def test_threads_of_the_first_run_get_cores_of_their_own(contest: ModuleType, places_threads: bool) -> None:
    usable, end = sorted(os.sched_getaffinity(0)), threading.Event()
    workers: list[int] = []
    callers: list[set[int]] = []

    def run(_: int) -> None:
        callers.append(os.sched_getaffinity(0))
        if not workers:
            begun = threading.Event()

            def work() -> None:
                workers.append(threading.get_native_id())
                begun.set()
                end.wait()

            threading.Thread(target=work).start()
            begun.wait()

    prepared = contest.Prepared(run, lambda: np.ones(1))
    contender = contest.Contender(lambda: prepared, None, places_threads)
    try:
        contest.time_in_turns({"ours": contender}, 2, contest.method_for(0.01, lead=0.0))
        assert os.sched_getaffinity(workers[0]) == (set(usable) if places_threads else {usable[1]})
        assert callers[-1] == {usable[0]}
    finally:
        end.set()
    assert os.sched_getaffinity(0) == set(usable)
