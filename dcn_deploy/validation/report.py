"""What a validation found, for people (rich tables) and for programs (JSON)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dcn_deploy.validation.comparison import Comparison, Element
from dcn_deploy.validation.tolerances import Limit

if TYPE_CHECKING:
    from rich.console import RenderableType

    from dcn_deploy.validation.layers import Divergence

#: Version of what :meth:`Report.to_json` gives; raised when a field changes its meaning or goes.
JSON_VERSION = 1


@dataclass(frozen=True)
class OutputResult:
    """One output of one candidate over all feeds.

    Attributes:
        output: its name.
        limit: what it had to keep.
        worst: the comparison of the worst feed.
        worst_feed: that feed's name.
        feeds: number of feeds.
        failed_feeds: names of the feeds on which it failed.
        reason: why it failed on the worst feed; empty if it passed on all.
    """

    output: str
    limit: Limit
    worst: Comparison
    worst_feed: str
    feeds: int
    failed_feeds: tuple[str, ...]
    reason: str

    @property
    def passed(self) -> bool:
        """Whether the output kept its limit on every feed."""
        return not self.failed_feeds

    def to_json(self) -> dict[str, Any]:
        """Return every field as a JSON value."""
        return {
            "output": self.output,
            "passed": self.passed,
            "reason": self.reason,
            "limit": {
                "relative_rms": self.limit.relative_rms,
                "absolute": self.limit.absolute,
                "differing": self.limit.differing,
                "origin": self.limit.origin,
            },
            "feeds": self.feeds,
            "failed_feeds": list(self.failed_feeds),
            "worst_feed": self.worst_feed,
            "worst": self.worst.to_json(),
        }


@dataclass(frozen=True)
class CandidateResult:
    """One candidate: a model in a runtime.

    Attributes:
        name: what the report calls it.
        backend: the runtime's name.
        outputs: one result for each output that was compared.
        not_compared: outputs that only one side has.
    """

    name: str
    backend: str
    outputs: tuple[OutputResult, ...]
    not_compared: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every compared output passed."""
        return all(output.passed for output in self.outputs)

    def to_json(self) -> dict[str, Any]:
        """Return every field as a JSON value."""
        return {
            "name": self.name,
            "backend": self.backend,
            "passed": self.passed,
            "outputs": [output.to_json() for output in self.outputs],
            "not_compared": list(self.not_compared),
        }


@dataclass(frozen=True)
class Report:
    """A whole validation.

    Attributes:
        model: what was validated.
        oracle: what it was compared with.
        feeds: what both were fed with.
        feed_count: number of feeds.
        candidates: one result for each runtime.
        layers: where each candidate parts from the reference, if that was asked for.
        notes: what a reader must know about how the comparison was made.
    """

    model: str
    oracle: str
    feeds: str
    feed_count: int
    candidates: tuple[CandidateResult, ...]
    layers: tuple[Divergence, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every candidate passed."""
        return all(candidate.passed for candidate in self.candidates)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values; figures that are not finite are null."""
        return {
            "version": JSON_VERSION,
            "passed": self.passed,
            "model": self.model,
            "oracle": self.oracle,
            "feeds": {"description": self.feeds, "count": self.feed_count},
            "candidates": [candidate.to_json() for candidate in self.candidates],
            "layers": [divergence.to_json() for divergence in self.layers],
            "notes": list(self.notes),
        }

    def to_table(self) -> RenderableType:
        """Return a rich table of all outputs, the reasons of failures, and the tables of layers."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(title=Text(f"{self.model} against {self.oracle}"), title_justify="left")
        table.add_column("backend")
        table.add_column("output", overflow="fold")
        table.add_column("shape")
        for column in ("max abs", "rel. RMS", "limit", "cosine"):
            table.add_column(column, justify="right")
        table.add_column("worst element", overflow="fold")
        table.add_column("")
        for candidate in self.candidates:
            for output in candidate.outputs:
                table.add_row(*_cells(candidate, output))
        parts: list[RenderableType] = [table]
        parts.append(
            Text(f"Fed with {self.feeds}." + (" Figures are of the worst feed." if self.feed_count > 1 else ""))
        )
        parts.extend(Text(line, style="red") for line in self._failures())
        parts.extend(Text(f"Note: {note}") for note in self.notes)
        parts.extend(divergence.to_table() for divergence in self.layers)
        verdict = "PASSED" if self.passed else "FAILED"
        parts.append(Text(verdict, style="bold green" if self.passed else "bold red"))
        return Group(*parts)

    def _failures(self) -> Iterator[str]:
        for candidate in self.candidates:
            for output in candidate.outputs:
                if output.passed:
                    continue
                where = f"on {output.worst_feed}"
                if output.feeds > 1:
                    where = f"on {len(output.failed_feeds)} of {output.feeds} feeds, worst: {output.worst_feed}"
                yield f"{candidate.name}, output '{output.output}': {output.reason} ({where})."
            if candidate.not_compared:
                missing = ", ".join(candidate.not_compared)
                yield f"{candidate.name}: not compared, since only one side has it: {missing}."


def _cells(candidate: CandidateResult, output: OutputResult) -> list[RenderableType]:
    from rich.text import Text

    worst = output.worst
    shape = "×".join(map(str, worst.shape)) or "scalar"
    verdict = Text("pass", style="green") if output.passed else Text("FAIL", style="bold red")
    if worst.exact and not worst.problem:
        distance = f"{worst.differing} differ"
        limit = f"{output.limit.differing:.3g} of all" if output.limit.differing else "none"
    else:
        distance, limit = figure(worst.relative_rms), figure(output.limit.relative_rms)
    cells = [
        candidate.name,
        output.output,
        f"{shape} {worst.dtype}",
        figure(worst.max_abs),
        distance,
        limit,
        cosine_text(worst.cosine),
        element_text(worst.nonfinite[0] if worst.nonfinite else worst.worst),
    ]
    return [*map(Text, cells), verdict]


def figure(value: float) -> str:
    """Return an error as text of three digits; a dash where there is none."""
    if math.isnan(value):
        return "–"
    return "0" if value == 0 else f"{value:.2e}"


def cosine_text(value: float) -> str:
    """Return a cosine as text: one minus it where it is so near 1 that its digits would all be nines."""
    if math.isnan(value):
        return "–"
    if value == 1.0:
        return "1"
    return f"1 − {1.0 - value:.1e}" if value > 0.999 else f"{value:.4f}"


def element_text(element: Element | None) -> str:
    """Return ``[index] actual for expected``; a dash where there is no element."""
    if element is None:
        return "–"
    actual, expected = (
        f"{value:.7g}" if isinstance(value, float) else str(value) for value in (element.actual, element.expected)
    )
    return f"{list(element.index)} {actual} for {expected}"
