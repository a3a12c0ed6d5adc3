"""One core a thread, for as long as engines are compared.

A worker that sleeps between two runs wakes where it last was. Where that is the core of the thread that calls, both
share it for some milliseconds until the scheduler moves one, so that on short runs a second thread gains nothing, by
chance of where it was made. OpenVINO places its threads itself; these functions do the same for the other engines.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_THREADS = Path("/proc/self/task")


def _cores(threads: int) -> list[int]:
    """The core of each thread, that of the caller first; empty where there are too few, or no way to ask."""
    if not hasattr(os, "sched_setaffinity") or not _THREADS.is_dir():
        return []
    usable = sorted(os.sched_getaffinity(0))
    return usable[:threads] if threads <= len(usable) else []


def _ids() -> set[int]:
    return {int(path.name) for path in _THREADS.iterdir()}


@contextmanager
def workers_on_their_own_cores(threads: int) -> Iterator[None]:
    """Give each thread that the body starts a core, in turn, of those that the caller will not run on."""
    cores = _cores(threads)[1:]
    before = _ids() if cores else set()
    yield
    if cores:
        for index, thread in enumerate(sorted(_ids() - before)):
            # One that has ended since needs no core.
            with suppress(ProcessLookupError):
                os.sched_setaffinity(thread, {cores[index % len(cores)]})


@contextmanager
def caller_on_one_core(threads: int) -> Iterator[None]:
    """Keep the calling thread on the core that the workers leave to it."""
    cores = _cores(threads)
    usable = os.sched_getaffinity(0) if cores else set()
    if cores:
        os.sched_setaffinity(0, {cores[0]})
    try:
        yield
    finally:
        if cores:
            os.sched_setaffinity(0, usable)
