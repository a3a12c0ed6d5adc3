"""Phases within phases as one fraction."""

from __future__ import annotations

import signal
import threading

import pytest

from dcn_deploy.engine.progress import Progress, stopped_by_signal


def test_phases_add_up_and_never_go_back() -> None:
    seen: list[float] = []
    progress = Progress(lambda done, total, text: seen.append(round(done / (total or 1), 3)))
    progress.start("build", None, 2)
    progress.start("first", "build", 4)
    assert progress.step("first", 1)
    progress.finish("first")
    progress.step("build", 0)
    progress.start("second", "build", 2)
    progress.start("inner", "second", 2)
    progress.step("inner", 0)
    progress.finish("inner")
    progress.step("build", 1)
    assert seen == [0.0, 0.0, 0.25, 0.5, 0.5, 0.5, 0.625, 1.0]


def test_what_the_callback_raises_ends_the_build() -> None:
    def stop(done: float, total: float | None, text: str | None) -> None:
        raise KeyboardInterrupt

    progress = Progress(stop)
    progress.start("build", None, 2)
    assert not progress.step("build", 0)
    assert isinstance(progress.stopped_by, KeyboardInterrupt)


def test_a_step_of_no_known_phase_is_ignored() -> None:
    progress = Progress(None)
    assert progress.step("never begun", 3)
    assert progress.fraction() == 0


def test_ctrl_c_is_kept_for_the_end_and_the_handler_comes_back() -> None:
    progress = Progress(None)
    before = signal.getsignal(signal.SIGINT)
    with stopped_by_signal(progress):
        signal.raise_signal(signal.SIGINT)
        assert isinstance(progress.stopped_by, KeyboardInterrupt)
        assert not progress.step("build", 0)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("raises", [False, True])
def test_a_handler_of_the_application_decides(raises: bool) -> None:
    seen: list[int] = []

    def handle(number: int, frame: object) -> None:
        seen.append(number)
        if raises:
            raise TimeoutError

    progress = Progress(None)
    before = signal.signal(signal.SIGINT, handle)
    try:
        with stopped_by_signal(progress):
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is handle
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [signal.SIGINT]
    assert isinstance(progress.stopped_by, TimeoutError if raises else type(None))


def test_other_threads_leave_the_handler_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def build() -> None:
        with stopped_by_signal(Progress(None)):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=build)
    thread.start()
    thread.join()
    assert seen == [before]
