"""A stage in a process of its own: an error that the GPU does not recover from, or a hang, costs that stage alone.

The process writes what it has found into a file as it goes, and into another what it does right now. Both outlive it.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu_check import programs
from benchmarks.gpu_check.stages import Failed, Missing

CHECKOUT = Path(__file__).resolve().parents[2]
#: Seconds, and part of its time, before its end at which a stage begins nothing more: it is killed at the end.
_MARGIN, _PART = 8.0, 0.15
_LAST_LINES = 25


class Report:
    """What a stage has found so far, in files.

    Attributes:
        found: ready for JSON; whoever changes it calls :meth:`save`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._now: int | None = None
        self.found: dict[str, Any] = {}

    def now(self, what: str) -> None:
        """Say what is done next. Cheap enough for every launch."""
        if self._now is None:
            self._now = os.open(_now_path(self._path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        # Of one length, so that nothing is left of a longer one before.
        os.pwrite(self._now, what.encode()[:500].ljust(500), 0)

    def save(self, status: str = "unfinished", detail: str = "") -> None:
        """Write everything, in one step."""
        unfinished = self._path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps({"status": status, "detail": detail, "found": self.found}), encoding="utf-8")
        unfinished.replace(self._path)


def _now_path(path: Path) -> Path:
    return path.with_suffix(".now")


def inside(path: Path, until: float, work: Callable[[Report, float], str]) -> int:
    """Do a stage's work in this process.

    Args:
        path: of the report.
        until: when nothing more is to be begun, on the clock of the day.
        work: gets the report and the seconds that are left; returns what it found in one line, or raises Missing or
            Failed.

    Returns:
        The exit status: 0 whenever the report is complete.
    """
    report = Report(path)
    report.save()
    try:
        status, detail = "passed", work(report, until - time.time())
    except Missing as error:
        status, detail = "missing", str(error)
    except Failed as error:
        status, detail = "failed", str(error)
    except Exception as error:
        print(traceback.format_exc(), flush=True)
        status, detail = "failed", f"{type(error).__name__}: {error}"
    report.save(status, detail)
    return 0


@dataclass
class Ended:
    """What has become of a stage in a process of its own."""

    status: str
    detail: str
    found: dict[str, Any] = field(default_factory=dict)

    def conclude(self) -> str:
        """What it found in one line.

        Raises:
            Missing, Failed: as the stage did.
        """
        if self.status == "missing":
            raise Missing(self.detail)
        if self.status != "passed":
            raise Failed(self.detail)
        return self.detail


def margin(left: float) -> float:
    """Seconds before its end at which a stage with ``left`` seconds begins nothing more."""
    return min(_MARGIN, _PART * left)


def run(command: Callable[[float], Sequence[str]], path: Path, left: float, say: Callable[[str], None]) -> Ended:
    """Run a stage in a process of its own, and take what it has found however it ends.

    Args:
        command: gets when the stage is to begin nothing more, on the clock of the day.
        path: of the report.
        left: seconds, after which it is killed.
        say: prints its lines while it runs.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for old in (path, _now_path(path)):
        old.unlink(missing_ok=True)
    try:
        status, output, errors = programs.run(command(time.time() + left - margin(left)), left, cwd=CHECKOUT, show=say)
        said = (output + errors).strip().splitlines()[-_LAST_LINES:]
        broke = f"it ended with status {status}"
    except programs.TooSlowError as error:
        status, said, broke = -1, [], str(error)
    report = {"status": "unfinished", "detail": "", "found": {}}
    if path.is_file():
        report = json.loads(path.read_text(encoding="utf-8"))
    ended = Ended(report["status"], report["detail"], report["found"])
    if ended.status == "unfinished":
        where = (
            _now_path(path).read_text(encoding="utf-8", errors="replace").strip() if _now_path(path).is_file() else ""
        )
        lines = [broke, *([f"It was at: {where}"] if where else []), *said]
        return Ended("failed", "\n".join(lines), ended.found)
    if status != 0 and ended.status == "passed":
        return Ended("failed", "\n".join([f"{ended.detail}; but then {broke}", *said]), ended.found)
    return ended


def command(name: str, path: Path, until: float, more: Sequence[str]) -> list[str]:
    """The call of this program that does a stage's work inside. A crash shows where it was."""
    call = [sys.executable, "-X", "faulthandler", "-m", "benchmarks.gpu_check"]
    return [*call, "--inside-stage", name, f"{until:.1f}", str(path), *more]
