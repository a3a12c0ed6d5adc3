"""While engines are compared, workers and caller run on cores of their own."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from types import ModuleType

import pytest
from benchmark_programs import load

_two_cores = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs two cores"
)


@pytest.fixture(scope="module")
def placement() -> ModuleType:
    return load("placement")


class _Worker:
    def __init__(self) -> None:
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._end.wait, daemon=True)
        self._thread.start()
        assert self._thread.native_id is not None
        self.id = self._thread.native_id

    def stop(self) -> None:
        self._end.set()
        self._thread.join()


@pytest.fixture
def old_worker() -> Iterator[_Worker]:
    worker = _Worker()
    yield worker
    worker.stop()


@_two_cores
def test_new_threads_leave_the_callers_core(placement: ModuleType, old_worker: _Worker) -> None:
    usable = os.sched_getaffinity(0)
    with placement.workers_on_their_own_cores(2):
        worker = _Worker()
    try:
        assert os.sched_getaffinity(worker.id) == {sorted(usable)[1]}
        assert os.sched_getaffinity(old_worker.id) == usable
        with placement.caller_on_one_core(2):
            assert os.sched_getaffinity(0) == {min(usable)}
        assert os.sched_getaffinity(0) == usable
    finally:
        worker.stop()


@_two_cores
def test_the_caller_is_free_again_after_an_error(placement: ModuleType) -> None:
    usable = os.sched_getaffinity(0)
    with pytest.raises(RuntimeError), placement.caller_on_one_core(1):
        raise RuntimeError
    assert os.sched_getaffinity(0) == usable


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="threads cannot be placed here")
def test_more_threads_than_cores_are_left_alone(placement: ModuleType) -> None:
    usable = os.sched_getaffinity(0)
    too_many = len(usable) + 1
    with placement.workers_on_their_own_cores(too_many), placement.caller_on_one_core(too_many):
        worker = _Worker()
        assert os.sched_getaffinity(0) == usable
    try:
        assert os.sched_getaffinity(worker.id) == usable
    finally:
        worker.stop()
