"""Draw the newest result of ``bench_cpu.py`` over the suite: each engine's time over that of the dense convolution.

python benchmarks/chart.py [--threads N] [RESULT.json] OUTPUT.svg
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bench_cpu
import record
from engines import DENSE, ENGINES


def suite_result(paths: Sequence[Path]) -> dict[str, Any]:
    """The newest of the results that is one over the whole suite.

    Raises:
        SystemExit: if there is none.
    """
    suite = {shape.name for shape in bench_cpu.SUITE}
    results = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    whole = [r for r in results if r.get("schema") == bench_cpu.SCHEMA and {w["shape"] for w in r["rows"]} >= suite]
    if not whole:
        raise SystemExit("error: expected a result over the whole suite, found none. Run make bench-cpu first.")
    return max(whole, key=lambda result: str(result["machine"]["date"]))


def multiples(result: dict[str, Any], threads: int) -> dict[str, dict[str, float]]:
    """By engine and shape: its median over that of the dense convolution."""
    found: dict[str, dict[str, float]] = {}
    for row in result["rows"]:
        dense = bench_cpu.median(row, DENSE)
        if row["threads"] != threads or dense is None:
            continue
        for name in ENGINES:
            seconds = bench_cpu.median(row, name)
            if seconds is not None and name != DENSE:
                found.setdefault(name, {})[row["shape"]] = seconds / dense
    return found


def draw(result: dict[str, Any], threads: int, path: Path) -> None:
    """Write the chart as SVG."""
    import matplotlib

    matplotlib.use("svg")
    # The same bytes for the same figures.
    matplotlib.rcParams["svg.hashsalt"] = "dcn_deploy"
    from matplotlib import pyplot

    by_engine = multiples(result, threads)
    shapes = list(dict.fromkeys(shape for values in by_engine.values() for shape in values))
    figure, axes = pyplot.subplots(figsize=(11, 4.2), layout="constrained")
    width = 0.8 / max(len(by_engine), 1)
    for i, (name, values) in enumerate(by_engine.items()):
        places = [shapes.index(shape) + (i + 0.5) * width - 0.4 for shape in values]
        axes.bar(places, list(values.values()), width, label=name)
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    axes.set_xticks(range(len(shapes)), shapes, rotation=30, ha="right")
    axes.set_ylabel("time / dense convolution")
    axes.set_title(f"{result['machine']['cpu']}, {threads} thread{'s' if threads > 1 else ''}; lower is better")
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the chart; return the exit status."""
    first, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=first, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="of the rows to draw (default: 2)")
    parser.add_argument("result", type=Path, nargs="?", help="default: the newest in benchmarks/results")
    parser.add_argument("output", type=Path)
    options = parser.parse_args(arguments)
    paths = [options.result] if options.result is not None else sorted(record.RESULTS.glob("*.json"))
    draw(suite_result(paths), options.threads, options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
