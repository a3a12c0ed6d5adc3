"""What the tests agreed on with each oracle: counted while they run, told at the end of the run.

An oracle is an implementation, or a result worked out by hand, that an operator is held against. A test that has
held a number of cases against one says so by the fixture ``agreed``:

    agreed("DeformConv2d", "float64 reference", "ONNX Runtime's DeformConv", cases=25)

It counts once the test has passed. The counts travel with each test's report, so they arrive from the workers of
pytest-xdist as well. ``--oracles-json FILE`` writes the table to a file.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

_PROPERTY = "dcn_deploy.agreed"

Agreed = Callable[..., None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("dcn_deploy").addoption(
        "--oracles-json",
        type=Path,
        default=os.environ.get("DCN_DEPLOY_ORACLES_JSON"),
        help="file for the number of cases on which each oracle agreed (default: $DCN_DEPLOY_ORACLES_JSON, or none)",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_Counts(config), "dcn_deploy_oracle_counts")


@pytest.fixture
def agreed(request: pytest.FixtureRequest) -> Agreed:
    """``agreed(operator, ours, oracle, cases=1)``: so many more cases on which our implementation met the oracle."""

    def note(operator: str, ours: str, oracle: str, cases: int = 1) -> None:
        request.node.user_properties.append((_PROPERTY, [operator, oracle, ours, cases]))

    return note


class _Counts:
    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._cases: Counter[tuple[str, str, str]] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" or not report.passed:
            return
        for name, value in report.user_properties:
            if name == _PROPERTY:
                operator, oracle, ours, cases = value  # type: ignore[misc]
                self._cases[operator, oracle, ours] += cases

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        rows = [(*key, cases) for key, cases in sorted(self._cases.items())]
        path: Path | None = self._config.getoption("--oracles-json")
        if path is not None:
            names = ("operator", "oracle", "ours", "cases")
            table = {"schema": "dcn_deploy.oracles/1", "agreed": [dict(zip(names, row, strict=True)) for row in rows]}
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(table, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        if rows:
            terminalreporter.section("oracles: cases agreed on")
            for line in _lines(rows):
                terminalreporter.write_line(line)


def _lines(rows: list[tuple[str, str, str, int]]) -> list[str]:
    """The table in columns as wide as they need to be."""
    cells = [("operator", "oracle", "held against it", "cases"), *((*row[:3], f"{row[3]:,}") for row in rows)]
    widths = [max(len(row[place]) for row in cells) for place in range(4)]
    return [
        "  ".join([*(text.ljust(width) for text, width in zip(row[:3], widths, strict=False)), row[3].rjust(widths[3])])
        for row in cells
    ]
