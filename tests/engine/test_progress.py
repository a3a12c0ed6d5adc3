"""Phases within phases as one fraction."""

from __future__ import annotations

from dcn_deploy.engine.progress import Progress


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
