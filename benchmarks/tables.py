"""Turn the results in ``benchmarks/results`` into the Markdown tables of the documentation.

    python benchmarks/tables.py                     print them
    python benchmarks/tables.py --write FILE.md     put them between the two marks in FILE.md

The marks are the lines ``<!-- begin: benchmark tables -->`` and ``<!-- end: benchmark tables -->``. A result whose
kernels have changed since it was measured is marked stale.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bench_cpu
import bench_product
import bench_roi_pool
import record
from engines import ENGINES

_BEGIN, _END = "<!-- begin: benchmark tables -->", "<!-- end: benchmark tables -->"


def _cells(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _factor(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _heading(path: Path, result: dict[str, Any], what: str = "Medians in milliseconds, float32.") -> list[str]:
    """What a result was measured on."""
    machine = result["machine"]
    state = " **Stale: the kernels have changed since.**" if record.is_stale(result) else ""
    packages = ", ".join(f"{name} {version}" for name, version in sorted(machine["packages"].items()))
    return [
        f"{machine['cpu']}, {machine['usable_cpus']} cores, {machine['date'][:10]}, commit "
        f"{(machine['commit'] or 'unknown')[:12]} ([{path.name}](../benchmarks/results/{path.name})).{state}",
        "",
        f"{what} {packages}.",
        "",
    ]


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


_FLOORS = ["product's floor", "sampling's floor", "reached"]


def _floors(row: dict[str, Any], rate: float) -> list[str]:
    """Both floors in milliseconds, and how much of their sum this project's operator reaches."""
    floors = bench_cpu.floors(row, rate)
    ours = bench_cpu.median(row, bench_cpu.OURS)
    reached = "–" if ours is None else f"{sum(floors.values()) / ours:.0%}"
    return [f"{floors['product'] * 1e3:.2f}", f"{floors['sampling'] * 1e3:.2f}", reached]


def convolutions(path: Path, result: dict[str, Any]) -> str:
    """The tables of a result of ``bench_cpu.py``: one for each number of threads."""
    lines = _heading(path, result)
    for threads in sorted({row["threads"] for row in result["rows"]}):
        rows = [row for row in result["rows"] if row["threads"] == threads]
        names = [name for name in ENGINES if any(name in row["seconds"] for row in rows)]
        rate = result["operations_per_second"][str(threads)]
        titles = [*names, "best peer / ours", "ours / dense", *(_FLOORS if rate else [])]
        lines += [_cells(_threads(threads), *titles), "|" + "---|" + "---:|" * len(titles)]
        for row in rows:
            said = bench_cpu.ratios(row)
            medians = [bench_cpu.median(row, name) for name in names]
            lines.append(
                _cells(
                    f"`{row['shape']}`",
                    *("–" if value is None else f"{value * 1e3:.2f}" for value in medians),
                    _factor(said["faster_than_best_peer"]),
                    _factor(said["times_dense"]),
                    *(_floors(row, rate) if rate else []),
                )
            )
        means = result["summary"]["by_threads"][str(threads)]["geometric_means"]
        last = (_factor(means.get(key)) for key in ("faster_than_best_peer", "times_dense"))
        lines += [_cells("geometric mean", *("" for _ in names), *last, *("" for _ in titles[len(names) + 2 :])), ""]
    return "\n".join(lines)


def roi_pooling(path: Path, result: dict[str, Any]) -> str:
    """The table of a result of ``bench_roi_pool.py``."""
    rows = result["rows"]
    titles = [title for row in rows for title in (_threads(row["threads"]), "/ RoiAlign")]
    lines = [
        *_heading(path, result),
        _cells(f"{rows[0]['rois']} RoIs", *titles),
        "|" + "---|" + "---:|" * len(titles),
    ]
    for name in result["engines"]:
        cells = []
        for row in rows:
            seconds = row["seconds"][name]["median"]
            cells += [f"{seconds * 1e3:.2f}", _factor(seconds / row["seconds"][bench_roi_pool.PEER]["median"])]
        lines.append(_cells(name, *cells))
    return "\n".join([*lines, ""])


def products(path: Path, result: dict[str, Any]) -> str:
    """The table of a result of ``bench_product.py``."""
    titles = ["M", "depth", "pixels", "dcn_deploy", "LIBXSMM", "ours / LIBXSMM"]
    lines = [*_heading(path, result, "The product alone on one core, GFLOP/s, caches warm.")]
    lines += [_cells("instructions", *titles), "|" + "---|" + "---:|" * len(titles)]
    for name, rows in result["sets"].items():
        for row in rows:
            sizes = [str(row[key]) for key in ("channels", "depth", "pixels")]
            rates = [f"{rate * 1e-9:.1f}" for rate in row["operations_per_second"].values()]
            lines.append(_cells(name, *sizes, *rates, _factor(bench_product.ratio(row))))
    return "\n".join([*lines, ""])


#: By the schema of a result.
_TABLES = {
    bench_cpu.SCHEMA: convolutions,
    bench_product.SCHEMA: products,
    bench_roi_pool.SCHEMA: roi_pooling,
}


def markdown(path: Path, result: dict[str, Any]) -> str:
    """The tables of one result; empty if it is none of a benchmark program."""
    tables = _TABLES.get(result.get("schema", ""))
    return "" if tables is None else tables(path, result)


def insert(document: str, text: str) -> str:
    """``document`` with ``text`` between its two marks.

    Raises:
        ValueError: if it does not have exactly one pair of marks.
    """
    pattern = re.compile(rf"{re.escape(_BEGIN)}\n.*?{re.escape(_END)}", re.DOTALL)
    if len(pattern.findall(document)) != 1:
        raise ValueError(f"expected one pair of lines '{_BEGIN}' and '{_END}' in the document")
    return pattern.sub(lambda _: f"{_BEGIN}\n\n{text}\n{_END}", document)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables or write them into a document; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, metavar="FILE.md")
    options = parser.parse_args(arguments)
    text = "\n".join(filter(None, (markdown(path, result) for path, result in record.read_all())))
    if options.write is None:
        print(text)
    else:
        options.write.write_text(insert(options.write.read_text(encoding="utf-8"), text), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
