"""Time this project's CPU operator beside its peers and a dense convolution, over the benchmark suite.

    python benchmarks/bench_cpu.py [--threads 1 2] [--shapes NAME ...] [--engines NAME ...] [--output FILE]
    python benchmarks/bench_cpu.py --shape 1,64,56,56,64 --shape 2,96,40,60,128,kernel=5,stride=2,offset_group=2,v1
    python benchmarks/bench_cpu.py --random 30

Several engines in one process disturb each other: idle threads of one spin, and its data evicts the next one's. So
none may spin, every thread has a core of its own (see ``placement.py``), the engines take turns, and each measurement
comes after a pause and some untimed calls (see ``contest.py`` and ``dcn_deploy.profiling.measure``). The method is
checked on every shape: this project's operator runs a second time under another name, and the ratio of the two must be
1 within 5 % in geometric mean.

Before it is timed, each deformable engine's result is compared with that of ONNX Runtime's operator in float64.

Prints a table of medians in milliseconds with ratios, and writes ``benchmarks/results/cpu-<processor>.json`` with
commit, machine, command, versions and a hash of the kernel sources. A run over a part of the suite, or over other
shapes, writes only where ``--output`` says; one over random shapes writes ``cpu-random-<processor>.json``.

Shapes that are given are N,C,H,W,M, then any of kernel=, stride=, dilation=, group=, offset_group= and v1 (no mask).
Random ones are drawn anew from ``--seed``: they show how the figures carry over to shapes that nobody tuned for.
"""

from __future__ import annotations

import argparse
import functools
import math
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

# Before torch, OpenVINO or NumPy start their threads.
from dcn_deploy.profiling import let_idle_threads_sleep

let_idle_threads_sleep()

import numpy as np  # noqa: E402
import record  # noqa: E402
from contest import LEAD, Contender, method_for, time_in_turns  # noqa: E402
from engines import DENSE, ENGINES, OURS, PEERS, Tensors  # noqa: E402
from placement import workers_on_their_own_cores  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: E402
from rich.table import Table  # noqa: E402

from dcn_deploy.models import SUITE, ConvShape  # noqa: E402
from dcn_deploy.profiling import Method, describe_machine  # noqa: E402

SCHEMA = "dcn_deploy.bench_cpu/2"
SELF = f"{OURS} again"
SELF_TOLERANCE = 0.05
SEED = 20170317

#: The targets for this benchmark, as bounds on the ratios below.
GEOMETRIC_MEAN_TARGET = 1.5
SCALING_TARGET = 1.8


def dense_target(row: dict[str, Any]) -> float:
    """How much longer than the dense convolution the operator may take on the shape of a row of the result."""
    return 1.15 if row["parameters"]["c"] >= 128 else 1.4


def parse_shape(text: str) -> ConvShape:
    """One shape from the command line: ``N,C,H,W,M``, then ``kernel=3`` and the like, or ``v1``.

    Raises:
        argparse.ArgumentTypeError: if it is not such a text.
    """
    values: dict[str, int] = {"kernel": 3, "stride": 1, "dilation": 1, "group": 1, "offset_group": 1}
    sizes, mask = [], True
    try:
        for part in text.split(","):
            key, equals, value = part.partition("=")
            if equals:
                if key not in values:
                    raise ValueError(key)
                values[key] = int(value)
            elif part == "v1":
                mask = False
            else:
                sizes.append(int(part))
        n, c, h, w, m = sizes
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"expected N,C,H,W,M and then any of {', '.join(f'{key}=…' for key in values)}, v1; got '{text}' ({error})"
        ) from None
    if min(*sizes, *values.values()) < 1 or any(c % values[key] for key in ("group", "offset_group")):
        raise argparse.ArgumentTypeError(
            f"expected sizes of at least 1 and a number of channels that group and offset_group divide; got '{text}'"
        )
    if m % values["group"]:
        raise argparse.ArgumentTypeError(f"expected a number of outputs that group divides; got '{text}'")
    return ConvShape(name=text, n=n, c=c, h=h, w=w, m=m, mask=mask, **values)


def random_shapes(count: int, seed: int) -> list[ConvShape]:
    """Shapes such as networks have, each dimension drawn on its own; at most 3·10⁹ multiplications each."""
    rng = np.random.default_rng(seed)
    shapes: list[ConvShape] = []
    while len(shapes) < count:
        group = int(rng.choice([1, 1, 1, 1, 1, 2, 4]))
        offset_group = int(rng.choice([1, 1, 1, 2, 4, 8]))
        unit = 16 if max(group, offset_group) < 8 else 32
        c, m = (unit * int(2 ** rng.uniform(0, np.log2(640 / unit))) for _ in range(2))
        h, w = (int(2 ** rng.uniform(2.6, 7.6)) for _ in range(2))
        text = f"{rng.choice([1, 1, 1, 2, 4])},{c},{h},{w},{m}"
        text += f",kernel={rng.choice([1, 3, 3, 3, 3, 3, 5, 7])},stride={rng.choice([1, 1, 1, 2])}"
        text += f",dilation={rng.choice([1, 1, 1, 1, 2, 4])},group={group},offset_group={offset_group}"
        shape = parse_shape(text + ("" if rng.random() < 0.75 else ",v1"))
        if shape.macs <= 3e9:
            shapes.append(shape)
    return shapes


def sampled(shape: ConvShape) -> int:
    """Values that are sampled: one for every input channel, tap and output pixel."""
    return shape.n * shape.c * shape.kernel**2 * shape.out_h * shape.out_w


def operations_per_second(threads: int) -> float | None:
    """Multiplications and additions that the best matrix product at hand gets done; None without PyTorch."""
    if ENGINES[DENSE].missing() is not None:
        return None
    import torch

    torch.set_num_threads(threads)
    size = 768
    a, b = torch.ones(size, size), torch.ones(size, size)
    best = math.inf
    for _ in range(40):
        begin = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - begin)
    return 2 * size**3 / best


def floors(row: dict[str, Any], rate: float) -> dict[str, float]:
    """The seconds that the product, and that sampling, would take at ``rate`` operations per second.

    Sampling takes four multiplications and additions (and as many loads) a value. Both use the same units of the
    processor, so a kernel that does nothing else takes their sum.
    """
    parameters = row["parameters"]
    return {"product": 2 * parameters["macs"] / rate, "sampling": 8 * parameters["sampled"] / rate}


def geometric_mean(values: Iterable[float]) -> float:
    """NaN for no values."""
    logs = [math.log(value) for value in values]
    return math.exp(math.fsum(logs) / len(logs)) if logs else math.nan


@functools.cache
def exact(shape: ConvShape) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    """The result in float64 by ONNX Runtime's operator; None where that is not available."""
    if ENGINES["onnxruntime"].missing() is not None:
        return None
    tensors = Tensors.random(shape, SEED)
    import onnxruntime
    from onnx import TensorProto, helper

    arrays = {"X": tensors.X, "W": tensors.W, "offset": tensors.offset, "B": tensors.B}
    if tensors.mask is not None:
        arrays["mask"] = tensors.mask
    node = helper.make_node(
        "DeformConv",
        list(arrays),
        ["Y"],
        kernel_shape=[shape.kernel] * 2,
        strides=[shape.stride] * 2,
        pads=[shape.padding] * 4,
        dilations=[shape.dilation] * 2,
        group=shape.group,
        offset_group=shape.offset_group,
    )
    infos = [helper.make_tensor_value_info(n, TensorProto.DOUBLE, a.shape) for n, a in arrays.items()]
    output = helper.make_tensor_value_info("Y", TensorProto.DOUBLE, shape.output_shape)
    graph = helper.make_graph([node], "exact", infos, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {name: array.astype(np.float64) for name, array in arrays.items()})
    return np.asarray(y)


def bench(shape: ConvShape, names: Sequence[str], threads: int, method: Method, self_check: bool) -> dict[str, Any]:
    """Time every engine on one shape, taking turns.

    Returns:
        One row of the result: the shape, the number of threads, and the figures by engine.
    """
    tensors = Tensors.random(shape, SEED)
    contenders = {}
    for name in [*names, SELF] if self_check and OURS in names else names:
        engine = ENGINES[OURS if name == SELF else name]
        contenders[name] = Contender(
            functools.partial(engine.prepare, shape, tensors, threads),
            exact(shape) if engine.deformable else None,
            engine.places_threads,
        )
    figures = time_in_turns(contenders, threads, method)
    return {
        "shape": shape.name,
        "threads": threads,
        "parameters": {**asdict(shape), "padding": shape.padding, "macs": shape.macs, "sampled": sampled(shape)},
        "seconds": figures,
    }


def median(row: dict[str, Any], name: str) -> float | None:
    """Median in seconds; None if the engine was not timed on this row."""
    figures = row["seconds"].get(name)
    return None if figures is None else float(figures["median"])


def _ratio(upper: float | None, lower: float | None) -> float | None:
    return None if upper is None or lower is None else upper / lower


def ratios(row: dict[str, Any]) -> dict[str, float | None]:
    """What a row says: over 1 is good in ``faster_than_best_peer``, under the target in ``times_dense``."""
    ours = median(row, OURS)
    peers = [seconds for name in PEERS if (seconds := median(row, name)) is not None]
    return {
        **{f"faster_than_{name}": _ratio(median(row, name), ours) for name in PEERS},
        "faster_than_best_peer": _ratio(min(peers, default=None), ours),
        "times_dense": _ratio(ours, median(row, DENSE)),
        "self": _ratio(median(row, SELF), ours),
    }


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Geometric means and verdicts, by number of threads, and the scaling between the numbers of threads."""
    by_threads: dict[str, Any] = {}
    for threads in sorted({row["threads"] for row in rows}):
        named = {row["shape"]: ratios(row) for row in rows if row["threads"] == threads}
        targets = {row["shape"]: dense_target(row) for row in rows if row["threads"] == threads}
        keys = next(iter(named.values())).keys()
        present = {key: {s: r[key] for s, r in named.items() if r[key] is not None} for key in keys}
        best, dense, itself = (present[key] for key in ("faster_than_best_peer", "times_dense", "self"))
        by_threads[str(threads)] = {
            "geometric_means": {key: geometric_mean(v.values()) for key, v in present.items() if v},  # type: ignore[arg-type]
            "slower_than_best_peer": {s: r for s, r in best.items() if r is not None and r < 1},
            "above_dense_target": {s: r for s, r in dense.items() if r is not None and r > targets[s]},
            "self_worst": max(itself.values(), key=lambda r: abs(math.log(r or 1)), default=None),
        }
    ours = {(row["shape"], row["threads"]): median(row, OURS) for row in rows}
    scaling = {
        shape: _ratio(ours[shape, 1], ours[shape, 2]) for shape, threads in ours if threads == 2 and (shape, 1) in ours
    }
    known = {shape: factor for shape, factor in scaling.items() if factor is not None}
    return {
        "by_threads": by_threads,
        "scaling_1_to_2_threads": {"geometric_mean": geometric_mean(known.values()), "by_shape": known}
        if known
        else None,
    }


def _milliseconds(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds * 1e3:.2f}" if seconds < 0.1 else f"{seconds * 1e3:.1f}"


def _factor(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.2f}"


def table(rows: Sequence[dict[str, Any]], summary: dict[str, Any], threads: int) -> Table:
    """Medians in milliseconds, one line a shape."""
    mine = [row for row in rows if row["threads"] == threads]
    names = [name for name in ENGINES if any(name in row["seconds"] for row in mine)]
    view = Table(title=f"{threads} thread{'s' if threads > 1 else ''}: median, ms", title_justify="left")
    view.add_column("shape", no_wrap=True)
    for name in names:
        view.add_column(name, justify="right")
    for title in ("best peer / ours", "ours / dense", "self"):
        view.add_column(title, justify="right")
    for row in mine:
        said = ratios(row)
        best, dense = said["faster_than_best_peer"], said["times_dense"]
        view.add_row(
            row["shape"],
            *(_milliseconds(median(row, name)) for name in names),
            f"[red]{_factor(best)}[/]" if best is not None and best < 1 else _factor(best),
            f"[red]{_factor(dense)}[/]" if dense is not None and dense > dense_target(row) else _factor(dense),
            _factor(said["self"]),
        )
    means = summary["by_threads"][str(threads)]["geometric_means"]
    view.add_section()
    last = (means.get(key) for key in ("faster_than_best_peer", "times_dense", "self"))
    view.add_row("geometric mean", *("" for _ in names), *(_factor(value) for value in last))
    return view


def verdicts(summary: dict[str, Any]) -> list[str]:
    """The targets, each with what was measured, as sentences."""
    lines = []
    for threads, figures in summary["by_threads"].items():
        means = figures["geometric_means"]
        where = f"{threads} thread{'s' if threads != '1' else ''}"
        if (mean := means.get("faster_than_best_peer")) is not None:
            slower = figures["slower_than_best_peer"]
            reached = "reached" if mean >= GEOMETRIC_MEAN_TARGET else "missed"
            lines.append(
                f"{where}: {mean:.2f}× as fast as the fastest peer in geometric mean (target "
                f"{GEOMETRIC_MEAN_TARGET}: {reached}); slower on {len(slower)} shapes (target 0)"
                + (": " + ", ".join(f"{s} {r:.2f}×" for s, r in slower.items()) if slower else "")
            )
        if (mean := means.get("times_dense")) is not None:
            above = figures["above_dense_target"]
            lines.append(
                f"{where}: {mean:.2f}× the time of a dense convolution in geometric mean; above the target (1.15 for "
                f"C ≥ 128, 1.4 for C = 64) on {len(above)} shapes"
            )
        if (mean := means.get("self")) is not None:
            holds = abs(mean - 1) <= SELF_TOLERANCE
            lines.append(
                f"{where}: against itself {mean:.3f} in geometric mean, worst {figures['self_worst']:.3f}: the method "
                + ("holds" if holds else f"does NOT hold within {SELF_TOLERANCE:.0%}, so do these figures not")
            )
    if (scaling := summary["scaling_1_to_2_threads"]) is not None:
        mean = scaling["geometric_mean"]
        reached = "reached" if mean >= SCALING_TARGET else "missed"
        lines.append(f"1 → 2 threads: {mean:.2f}× as fast in geometric mean (target {SCALING_TARGET}: {reached})")
    return lines


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    first, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=first, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], metavar="N", help="default: 1 2")
    parser.add_argument("--shapes", nargs="+", choices=[s.name for s in SUITE], metavar="NAME", help="default: all")
    parser.add_argument("--shape", type=parse_shape, action="append", metavar="SPEC", help="another shape, see above")
    parser.add_argument("--random", type=int, default=0, metavar="COUNT", help="so many random shapes instead")
    parser.add_argument("--seed", type=int, default=SEED, help=f"for --random (default: {SEED})")
    parser.add_argument("--engines", nargs="+", choices=list(ENGINES), metavar="NAME", help="default: all there are")
    parser.add_argument("--seconds", type=float, default=1.0, help="time for each engine and shape (default: 1.0)")
    parser.add_argument(
        "--lead", type=float, default=LEAD, help=f"seconds of untimed calls before a timed one (default: {LEAD})"
    )
    parser.add_argument("--output", type=Path, help="JSON file (default: benchmarks/results/cpu-<processor>.json)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit status: 1 if the method's check of itself failed."""
    options = parse(arguments)
    errors, results = Console(stderr=True, soft_wrap=True), Console()
    if not results.is_terminal:
        results = Console(width=140)
    begin = time.monotonic()
    machine = describe_machine()
    wanted = options.engines or list(ENGINES)
    missing = {name: why for name in wanted if (why := ENGINES[name].missing()) is not None}
    names = [name for name in wanted if name not in missing]
    for name, why in missing.items():
        errors.print(f"leaving out {name}: {why}", highlight=False)
    if OURS in missing:
        return 2
    load = (machine["load_average"] or [0.0])[0]
    if load > 0.5:
        errors.print(f"warning: the machine is busy (load average {load:.1f}): these figures will be noisy")
    shapes = [shape for shape in SUITE if shape.name in (options.shapes or [])]
    shapes += [*(options.shape or []), *random_shapes(options.random, options.seed)]
    whole_suite = not shapes
    if whole_suite:
        shapes = list(SUITE)
    rates = {}
    for threads in options.threads:
        # This is also where PyTorch starts the threads that the dense convolution runs on.
        with workers_on_their_own_cores(threads):
            rates[str(threads)] = operations_per_second(threads)
    method = method_for(options.seconds, lead=options.lead)
    rows = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress:
        task = progress.add_task("", total=len(shapes) * len(options.threads))
        for threads in options.threads:
            for shape in shapes:
                progress.update(task, description=f"{shape.name}, {threads} threads")
                # The bar is drawn by a thread of its own, which would disturb the measurement.
                progress.stop()
                rows.append(bench(shape, names, threads, method, self_check=True))
                if errors.is_terminal:
                    progress.start()
                progress.advance(task)
    summary = summarise(rows)
    for threads in options.threads:
        results.print(table(rows, summary, threads))
    for line in verdicts(summary):
        results.print(line, highlight=False, soft_wrap=True)
    result = {
        "schema": SCHEMA,
        "machine": machine,
        "kernel_sources": {"device": "cpu", "sha256": record.kernel_hash("cpu")},
        "operations_per_second": rates,
        "method": {**asdict(method), "seed": SEED, "offsets": "N(0, 2²) pixels"},
        "engines": {name: ENGINES[name].description for name in names},
        "left_out": missing,
        "summary": summary,
        "rows": rows,
        "total_seconds": round(time.monotonic() - begin, 1),
    }
    path = options.output
    only_random = len(shapes) == options.random
    if path is None and (whole_suite or only_random) and options.engines is None:
        kind = "cpu" if whole_suite else "cpu-random"
        path = record.RESULTS / f"{kind}-{record.slug(machine['cpu'])}-{machine['usable_cpus']}-cores.json"
    if path is not None:
        record.write(result, path)
        errors.print(f"wrote {path}", highlight=False)
    means = [figures["geometric_means"].get("self", 1.0) for figures in summary["by_threads"].values()]
    return 0 if all(abs(mean - 1) <= SELF_TOLERANCE for mean in means) else 1


if __name__ == "__main__":
    sys.exit(main())
