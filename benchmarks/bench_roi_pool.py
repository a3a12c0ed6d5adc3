"""Time this project's RoI pooling on the CPU beside ONNX Runtime's RoiAlign, on the same boxes.

    python benchmarks/bench_roi_pool.py [--threads 1 2] [--rois N] [--output FILE]

1,000 boxes on a map of 256×50×84, one pixel of it for 16 of the image, 7×7 bins. ONNX Runtime has no deformable
pooling; its RoiAlign (mean, sampling ratio 2, half_pixel) is the same as ``aligned`` without offsets, and what a user
would otherwise pick. The method is that of ``bench_cpu.py`` (see ``contest.py``): engines take turns in one process,
none spins, every thread has a core of its own, and one engine runs under two names.

Before it is timed, each engine's result for the first boxes is compared with the float64 reference.

Prints a table of medians in milliseconds with ratios, and writes ``benchmarks/results/roi-pool-<processor>.json``
with commit, machine, command, versions and a hash of the kernel sources. A run with fewer boxes writes only where
``--output`` says.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# First: before torch, OpenVINO or NumPy start their threads.
import bench_cpu
import numpy as np
import record
from contest import Contender, method_for, time_in_turns
from engines import ENGINES, OURS, Array, Prepared, bound_session
from rich.console import Console
from rich.table import Table

from dcn_deploy.profiling import Method, describe_machine

SCHEMA = "dcn_deploy.bench_roi_pool/1"

#: The map: channels, height, width, and image pixels for each of its pixels.
MAP = (256, 50, 84)
STRIDE = 16
POOLED = 7
ROIS = 1000
#: How many RoIs are compared with the reference, which takes its time.
CHECKED_ROIS = 6
#: R-FCN: channels of Y, with 7×7 groups.
CLASSES = 21

PEER = "RoiAlign"
PLAIN, DEFORMABLE, PSROI, POSITION_SENSITIVE = (
    "aligned",
    "aligned, deformable",
    "psroi, deformable",
    "psroi, 7×7 groups",
)
SELF = f"{PLAIN} again"

#: The targets: by what factor of RoiAlign's time each may take at most, with 2 threads.
TARGETS = {PLAIN: 1.0, DEFORMABLE: 1.2}


@dataclass(frozen=True)
class Inputs:
    """Tensors of one run: maps of MAP and of CLASSES·7·7 channels, boxes, offsets and a mask for each bin."""

    X: Array
    X_groups: Array
    rois: Array
    offset: Array
    mask: Array

    @classmethod
    def random(cls, count: int, seed: int) -> Inputs:
        """Draw features from N(0, 1), offsets from N(0, 1), the mask from sigmoid(N(0, 1)), and boxes.

        Boxes have sides from 32 to 400 pixels, the logarithm uniform, a ratio around 1, and are cut at the image.
        """
        rng = np.random.default_rng(seed)
        _, height, width = MAP
        size = np.array([width, height]) * STRIDE
        sides = np.exp(rng.uniform(np.log(32), np.log(400), (count, 1)) + rng.normal(0, 0.3, (count, 2)))
        centres = rng.random((count, 2)) * size
        corners = np.concatenate([centres - sides / 2, centres + sides / 2], axis=1)
        boxes = np.clip(corners, 0, np.concatenate([size, size]))
        return cls(
            X=rng.standard_normal((1, *MAP), dtype=np.float32),
            X_groups=rng.standard_normal((1, CLASSES * POOLED**2, height, width), dtype=np.float32),
            rois=np.concatenate([np.zeros((count, 1)), boxes], axis=1).astype(np.float32),
            offset=rng.standard_normal((count, 2, POOLED, POOLED), dtype=np.float32),
            mask=1 / (1 + np.exp(-rng.standard_normal((count, 1, POOLED, POOLED), dtype=np.float32))),
        )


@dataclass(frozen=True)
class Engine:
    """One row of the table of engines.

    Attributes:
        description: what it is, for a reader of the results.
        inputs: names of the fields of Inputs that it gets.
        attributes: of the node, and of the reference.
        channels: of its output.
    """

    description: str
    inputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    channels: int = MAP[0]


_COMMON = {"output_size": [POOLED, POOLED], "spatial_scale": 1 / STRIDE, "gamma": float(np.float32(0.1))}
_ALIGNED = {**_COMMON, "variant": "aligned", "sampling_ratio": 2}
_PSROI = {**_COMMON, "variant": "psroi", "sample_per_part": 4}
_POSITION_SENSITIVE = {**_PSROI, "group_size": POOLED, "output_channels": CLASSES}

#: RoiAlign is described by what it must equal.
POOLINGS = {
    PEER: Engine("ONNX Runtime's own RoiAlign: avg, sampling ratio 2, half_pixel", ("X", "rois"), _ALIGNED),
    PLAIN: Engine("sampling ratio 2, without offsets", ("X", "rois"), _ALIGNED),
    DEFORMABLE: Engine("sampling ratio 2, offsets and mask", ("X", "rois", "offset", "mask"), _ALIGNED),
    PSROI: Engine("4 samples a part, offsets and mask", ("X", "rois", "offset", "mask"), _PSROI),
    POSITION_SENSITIVE: Engine(
        f"R-FCN: {CLASSES} classes of 7×7 groups, 4 samples a part, offsets",
        ("X_groups", "rois", "offset"),
        _POSITION_SENSITIVE,
        CLASSES,
    ),
}


def _feed(name: str, inputs: Inputs) -> dict[str, Array]:
    """What the engine gets, by the names of its node's inputs."""
    arrays = {key: getattr(inputs, key) for key in POOLINGS[name].inputs}
    if name == PEER:
        return {
            "X": inputs.X,
            "rois": np.ascontiguousarray(inputs.rois[:, 1:]),
            "batch_indices": inputs.rois[:, 0].astype(np.int64),
        }
    return {key.removesuffix("_groups"): array for key, array in arrays.items()}


def _model(name: str, feed: Mapping[str, Array], output_shape: Sequence[int]) -> bytes:
    from onnx import helper

    from dcn_deploy.schema import DEFORM_ROI_POOL2D, DOMAIN

    if name == PEER:
        op_type, domain = "RoiAlign", ""
        attributes: dict[str, Any] = {
            "mode": "avg",
            "sampling_ratio": 2,
            "output_height": POOLED,
            "output_width": POOLED,
            "spatial_scale": 1 / STRIDE,
            "coordinate_transformation_mode": "half_pixel",
        }
    else:
        op_type, domain, attributes = DEFORM_ROI_POOL2D.op_type, DOMAIN, dict(POOLINGS[name].attributes)
    node = helper.make_node(op_type, list(feed), ["Y"], name="pool", domain=domain, **attributes)
    graph = helper.make_graph(
        [node],
        "pool",
        [
            helper.make_tensor_value_info(key, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for key, array in feed.items()
        ],
        [helper.make_tensor_value_info("Y", helper.np_dtype_to_tensor_dtype(np.dtype(np.float32)), output_shape)],
    )
    # The last version of RoiAlign that every ONNX Runtime has.
    opsets = [helper.make_opsetid("", 16), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())


def prepare(name: str, inputs: Inputs, threads: int) -> Prepared:
    """Make an engine ready to run on ``inputs`` with so many threads."""
    feed = _feed(name, inputs)
    shape = (len(inputs.rois), POOLINGS[name].channels, POOLED, POOLED)
    return bound_session(_model(name, feed, shape), feed, shape, threads, ours=name != PEER)


@functools.cache
def _exact(name: str, count: int, seed: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The first RoIs' result in float64."""
    from dcn_deploy.ops import reference

    inputs = Inputs.random(count, seed)
    feed = {key.removesuffix("_groups"): getattr(inputs, key) for key in POOLINGS[name].inputs}
    for key in ("rois", "offset", "mask"):
        if key in feed:
            feed[key] = feed[key][:CHECKED_ROIS]
    return reference.deform_roi_pool(**feed, **POOLINGS[name].attributes)


def bench(count: int, threads: int, method: Method) -> dict[str, Any]:
    """Time every engine, taking turns.

    Returns:
        One row of the result: numbers of RoIs and threads, and the figures by engine.
    """
    inputs = Inputs.random(count, bench_cpu.SEED)
    contenders = {
        name: Contender(functools.partial(prepare, pooling, inputs, threads), _exact(pooling, count, bench_cpu.SEED))
        for name, pooling in [*zip(POOLINGS, POOLINGS, strict=True), (SELF, PLAIN)]
    }
    figures = time_in_turns(contenders, threads, method)
    return {"rois": count, "threads": threads, "seconds": figures}


def ratios(row: dict[str, Any]) -> dict[str, float]:
    """By engine, its time in units of RoiAlign's; ``self``: the same engine twice."""
    medians = {name: float(figures["median"]) for name, figures in row["seconds"].items()}
    return {
        **{name: medians[name] / medians[PEER] for name in POOLINGS if name != PEER},
        "self": medians[SELF] / medians[PLAIN],
    }


def verdicts(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The targets, each with what was measured, as sentences."""
    lines = []
    for row in rows:
        said = ratios(row)
        where = f"{row['threads']} thread{'s' if row['threads'] != 1 else ''}"
        for name, target in TARGETS.items():
            judged = f" (target {target}: {'reached' if said[name] <= target else 'missed'})"
            lines.append(
                f"{where}: {name}: {said[name]:.3f}× the time of ONNX Runtime's RoiAlign"
                + (judged if row["threads"] == 2 else "")
            )
        holds = abs(said["self"] - 1) <= bench_cpu.SELF_TOLERANCE
        lines.append(
            f"{where}: against itself {said['self']:.3f}: the method "
            + ("holds" if holds else f"does NOT hold within {bench_cpu.SELF_TOLERANCE:.0%}, so do these figures not")
        )
    return lines


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """Medians in milliseconds and ratios, one line an engine."""
    view = Table(title=f"{rows[0]['rois']} RoIs: median, ms", title_justify="left")
    view.add_column("engine", no_wrap=True)
    for row in rows:
        threads = f"{row['threads']} thread{'s' if row['threads'] != 1 else ''}"
        view.add_column(threads, justify="right")
        view.add_column("/ RoiAlign", justify="right")
    for name in rows[0]["seconds"]:
        cells = []
        for row in rows:
            median = row["seconds"][name]["median"]
            cells += [f"{median * 1e3:.2f}", f"{median / row['seconds'][PEER]['median']:.3f}"]
        view.add_row(name, *cells)
    return view


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    first, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=first, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], metavar="N", help="default: 1 2")
    parser.add_argument("--rois", type=int, default=ROIS, metavar="N", help=f"number of boxes (default: {ROIS})")
    parser.add_argument("--seconds", type=float, default=10.0, help="time for each engine (default: 10)")
    parser.add_argument("--output", type=Path, help="JSON file (default: benchmarks/results/roi-pool-<processor>.json)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit status: 1 if the method's check of itself failed."""
    options = parse(arguments)
    errors, results = Console(stderr=True, soft_wrap=True), Console()
    if not results.is_terminal:
        results = Console(width=140)
    if (why := ENGINES[OURS].missing()) is not None:
        errors.print(f"error: {why}", highlight=False)
        return 2
    begin = time.monotonic()
    machine = describe_machine()
    load = (machine["load_average"] or [0.0])[0]
    if load > 0.5:
        errors.print(f"warning: the machine is busy (load average {load:.1f}): these figures will be noisy")
    method = method_for(options.seconds)
    rows = [bench(options.rois, threads, method) for threads in options.threads]
    results.print(table(rows))
    for line in verdicts(rows):
        results.print(line, highlight=False, soft_wrap=True)
    result = {
        "schema": SCHEMA,
        "machine": machine,
        "kernel_sources": {"device": "cpu", "sha256": record.kernel_hash("cpu")},
        "method": {
            **asdict(method),
            "seed": bench_cpu.SEED,
            "map": MAP,
            "stride": STRIDE,
            "pooled": POOLED,
            "boxes": "sides 32 to 400 pixels, log-uniform",
            "offsets": "N(0, 1), gamma 0.1",
        },
        "engines": {name: engine.description for name, engine in POOLINGS.items()},
        "ratios": {str(row["threads"]): ratios(row) for row in rows},
        "rows": rows,
        "total_seconds": round(time.monotonic() - begin, 1),
    }
    path = options.output
    if path is None and options.rois == ROIS:
        path = record.RESULTS / f"roi-pool-{record.slug(machine['cpu'])}-{machine['usable_cpus']}-cores.json"
    if path is not None:
        record.write(result, path)
        errors.print(f"wrote {path}", highlight=False)
    return 0 if all(abs(ratios(row)["self"] - 1) <= bench_cpu.SELF_TOLERANCE for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
