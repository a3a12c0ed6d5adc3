"""Stages that run one after the other, each whatever became of the one before."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["passed", "failed", "missing"]

#: Exit statuses: everything passed; something failed; something could not be tried.
EXIT_PASSED, EXIT_FAILED, EXIT_MISSING = 0, 1, 2


class Missing(Exception):  # noqa: N818
    """What a stage needs is not on this machine; the message names it and the remedy."""


class Failed(Exception):  # noqa: N818
    """A stage found something wrong; the message says what."""


@dataclass(frozen=True)
class Stage:
    """One part of the check.

    Attributes:
        name: as on the command line.
        summary: what it does, in a few words.
        run: gets the remaining seconds; returns what it found in one line, or raises Missing or Failed.
    """

    name: str
    summary: str
    run: Callable[[float], str]


@dataclass
class Outcome:
    """What became of a stage."""

    stage: str
    status: Status
    seconds: float
    detail: str
    lines: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Ready for ``json.dumps``."""
        return {"stage": self.stage, "status": self.status, "seconds": round(self.seconds, 2), "detail": self.detail}


def run_stages(
    stages: Sequence[Stage],
    *,
    budget: float,
    say: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
    after: Callable[[Sequence[Outcome]], None] = lambda outcomes: None,
) -> list[Outcome]:
    """Run every stage; none hides another.

    Args:
        stages: in order.
        budget: seconds for all together. A stage is told what is left; one that would begin after it is left out.
        say: prints a line of progress.
        clock: seconds from any start.
        after: gets the outcomes so far after each stage.
    """
    begin = clock()
    outcomes: list[Outcome] = []
    for stage in stages:
        left = budget - (clock() - begin)
        if left <= 0:
            outcomes.append(Outcome(stage.name, "missing", 0.0, f"no time was left of {budget:.0f} s"))
            continue
        say(f"== {stage.name}: {stage.summary}")
        started = clock()
        status: Status
        try:
            detail = stage.run(left)
            status = "passed"
        except Missing as error:
            status, detail = "missing", str(error)
        except Failed as error:
            status, detail = "failed", str(error)
        except Exception as error:
            # A fault of this program, or of what it calls: told in full, and the next stage still runs.
            say(traceback.format_exc())
            status, detail = "failed", f"{type(error).__name__}: {error}"
        outcomes.append(Outcome(stage.name, status, clock() - started, detail))
        say(f"   {stage.name} {status}: {detail}")
        after(outcomes)
    return outcomes


def exit_status(outcomes: Sequence[Outcome]) -> int:
    """1 if a stage failed, else 2 if one could not be tried, else 0."""
    statuses = {outcome.status for outcome in outcomes}
    if "failed" in statuses:
        return EXIT_FAILED
    return EXIT_MISSING if "missing" in statuses else EXIT_PASSED


def table(rows: Sequence[Sequence[str]], *, left: int = 1) -> list[str]:
    """Lines of a plain table; the first ``left`` columns are aligned to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
