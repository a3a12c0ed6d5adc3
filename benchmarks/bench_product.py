"""Time the inner product of the CPU's deformable convolution beside LIBXSMM's, on one core, with the caches warm.

    python benchmarks/bench_product.py [--output FILE]

Both multiply the same panel of samples with the same weights, for the shapes of usual layers; LIBXSMM compiles a
function for each shape while it runs, and takes the size of block that suits it best. What comes out says whether the
product would gain by a library of its own: the whole operator is measured by ``bench_cpu.py``.

Builds ``benchmarks/product`` in ``build/product``; LIBXSMM is the system's, or Debian's package unpacked into the
user's cache folder. Prints a table, and writes ``benchmarks/results/product-<processor>.json`` with commit, machine,
command, versions and a hash of the kernel sources.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import record
from rich.console import Console
from rich.table import Table

from dcn_deploy.profiling import describe_machine

SCHEMA = "dcn_deploy.bench_product/1"
BUILD = record.CHECKOUT / "build" / "product"
INSTRUCTION_SETS = ("avx512", "avx2")
#: What the program ends with where the processor lacks the instructions.
_LACKING = 2


def build() -> Path:
    """Build the native program and return its path.

    Raises:
        SystemExit: if that fails; the tools have said why.
    """
    # The one of the environment first.
    cmake = shutil.which(
        "cmake", path=os.pathsep.join([str(Path(sys.executable).parent), os.defpath, os.environ["PATH"]])
    )
    if cmake is None:
        raise SystemExit("error: expected cmake beside this Python or on PATH, found none")
    off = [f"-DDCN_DEPLOY_{part}=OFF" for part in ("ONNXRUNTIME", "CUDA")]
    source = ["-S", str(record.CHECKOUT), "-B", str(BUILD)]
    for command in (
        [cmake, *source, "-DDCN_DEPLOY_BUILD_BENCHMARKS=ON", "-DCMAKE_BUILD_TYPE=Release", *off],
        [cmake, "--build", str(BUILD), "--target", "dcn_deploy_product"],
    ):
        if subprocess.run(command, stdout=sys.stderr, check=False).returncode != 0:
            raise SystemExit(f"error: {' '.join(command)} failed")
    return BUILD / "benchmarks" / "product" / "dcn_deploy_product"


def parse_rows(text: str) -> list[dict[str, Any]]:
    """What the native program prints, one row a shape."""
    rows = []
    for line in text.splitlines():
        channels, depth, pixels, ours, theirs, block = line.split()
        rows.append(
            {
                "channels": int(channels),
                "depth": int(depth),
                "pixels": int(pixels),
                "operations_per_second": {"dcn_deploy": float(ours), "LIBXSMM": float(theirs)},
                "block": int(block),
            }
        )
    return rows


def run(program: Path, instruction_set: str) -> list[dict[str, Any]]:
    """Measure with one instruction set; no rows where the processor lacks it.

    Raises:
        SystemExit: if the program failed.
    """
    core = {max(os.sched_getaffinity(0))} if hasattr(os, "sched_setaffinity") else set()
    done = subprocess.run(
        [str(program), instruction_set],
        capture_output=True,
        text=True,
        preexec_fn=(lambda: os.sched_setaffinity(0, core)) if core else None,
        check=False,
    )
    if done.returncode == _LACKING:
        print(done.stderr.strip(), file=sys.stderr)
        return []
    if done.returncode != 0:
        raise SystemExit(f"error: {program.name} {instruction_set}: {done.stderr.strip()}")
    return parse_rows(done.stdout)


def ratio(row: dict[str, Any]) -> float:
    """By what factor our product is faster than LIBXSMM's."""
    rates = row["operations_per_second"]
    return float(rates["dcn_deploy"] / rates["LIBXSMM"])


def table(sets: dict[str, list[dict[str, Any]]]) -> Table:
    """Rates in GFLOP/s, one line a shape."""
    view = Table(title="product alone, one core, GFLOP/s", title_justify="left")
    for title in ("instructions", "M", "depth", "pixels", "dcn_deploy", "LIBXSMM", "ours / LIBXSMM"):
        view.add_column(title, justify="left" if title == "instructions" else "right")
    for name, rows in sets.items():
        for row in rows:
            rates = [f"{rate * 1e-9:.1f}" for rate in row["operations_per_second"].values()]
            view.add_row(name, *(str(row[key]) for key in ("channels", "depth", "pixels")), *rates, f"{ratio(row):.2f}")
    return view


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit status."""
    first, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=first, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, help="JSON file (default: benchmarks/results/product-<processor>.json)")
    options = parser.parse_args(arguments)
    machine = describe_machine()
    program = build()
    sets = {name: rows for name in INSTRUCTION_SETS if (rows := run(program, name))}
    Console(width=None if sys.stdout.isatty() else 120).print(table(sets))
    result = {
        "schema": SCHEMA,
        "machine": machine,
        "kernel_sources": {"device": "cpu", "sha256": record.kernel_hash("cpu")},
        "method": "best of 40 spells of 50 times 8 strips, caches warm, one core",
        "sets": sets,
    }
    path = options.output
    if path is None:
        path = record.RESULTS / f"product-{record.slug(machine['cpu'])}-{machine['usable_cpus']}-cores.json"
    record.write(result, path)
    print(f"wrote {path}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
