"""Count the instructions of one run of each engine under callgrind: a second opinion that no noise disturbs.

    python benchmarks/count_instructions.py [--shapes NAME ...] [--engines NAME ...] [--output FILE]

An instruction is not a unit of time: a wide vector does more in one, and a miss of the cache costs none. What the
counts show is how much work an engine does besides the product, and whether a change has added to it. Callgrind's
processor has AVX2 but no AVX-512, whatever the machine has. One thread; half a minute for each engine and shape.

Writes ``benchmarks/results/instructions.json`` if all shapes and engines were counted, or where ``--output`` says.
"""

from __future__ import annotations

import argparse
import gc
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import record
from engines import DENSE, ENGINES, OURS, Tensors
from rich.console import Console
from rich.table import Table

from dcn_deploy.models import SUITE
from dcn_deploy.profiling import describe_machine

SCHEMA = "dcn_deploy.count_instructions/1"
#: One where the product counts, one where sampling does.
SHAPES = ("cls_res3", "depthwise")
#: OpenVINO computes in threads that callgrind does not count for this process.
ENGINE_NAMES = (OURS, "onnxruntime", DENSE)
_SEED = 20170317
_CHILD = "--one"


def _switch(state: str) -> None:
    done = subprocess.run(
        ["callgrind_control", "-i", state, str(os.getpid())], capture_output=True, text=True, check=False
    )
    if "OK" not in done.stdout:
        raise SystemExit(f"error: expected callgrind to be switched {state}, got: {done.stdout}{done.stderr}")


def run_one(engine: str, shape_name: str) -> None:
    """Prepare an engine, run it once to warm up, and once more with counting switched on."""
    shape = next(shape for shape in SUITE if shape.name == shape_name)
    prepared = ENGINES[engine].prepare(shape, Tensors.random(shape, _SEED), 1)
    prepared.run(0)
    # A collection that falls into the counted run would be counted with it.
    gc.collect()
    gc.disable()
    _switch("on")
    prepared.run(0)
    _switch("off")


def count(engine: str, shape_name: str) -> int:
    """Instructions of one run.

    Raises:
        SystemExit: if the run under callgrind failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "counts"
        command = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={output}"]
        command += [sys.executable, str(Path(__file__).resolve()), _CHILD, engine, shape_name]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        found = re.search(r"Collected : (\d+)", done.stderr)
        if done.returncode != 0 or found is None or found[1] == "0":
            raise SystemExit(f"error: {engine} under callgrind: expected a count, got:\n{done.stderr[-2000:]}")
        return int(found[1])


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """Millions of instructions, one line an engine."""
    view = Table(title="instructions of one run, millions; 1 thread, AVX2", title_justify="left")
    view.add_column("engine")
    for row in rows:
        view.add_column(row["shape"], justify="right")
    for name in rows[0]["instructions"]:
        view.add_row(name, *(f"{row['instructions'][name] / 1e6:.1f}" for row in rows))
    return view


def main(arguments: Sequence[str] | None = None) -> int:
    """Count; return the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == [_CHILD]:
        run_one(*given[1:])
        return 0
    first, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=first, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="+", choices=[s.name for s in SUITE], default=list(SHAPES), metavar="NAME")
    parser.add_argument("--engines", nargs="+", choices=ENGINE_NAMES, default=list(ENGINE_NAMES), metavar="NAME")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(given)
    if shutil.which("valgrind") is None:
        print("error: expected valgrind, found none. Install it: apt-get install valgrind", file=sys.stderr)
        return 2
    names = [name for name in options.engines if ENGINES[name].missing() is None]
    rows = [{"shape": shape, "instructions": {name: count(name, shape) for name in names}} for shape in options.shapes]
    Console().print(table(rows))
    result = {
        "schema": SCHEMA,
        "machine": describe_machine(),
        "kernel_sources": {"device": "cpu", "sha256": record.kernel_hash("cpu")},
        "rows": rows,
    }
    path = options.output
    if path is None and options.shapes == list(SHAPES) and names == list(ENGINE_NAMES):
        path = record.RESULTS / "instructions.json"
    if path is not None:
        record.write(result, path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
