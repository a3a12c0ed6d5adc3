"""Stage ``bench``: this project's kernels beside their peers over the benchmark suite, in one run, taking turns.

Each engine is captured once in a CUDA graph that goes through several sets of inputs, together larger than the
second-level cache: no launch waits for Python, and no input is found in the cache. The graphs are replayed in turns and
timed by CUDA events; a figure is the median over the rounds of the time of a graph over its number of sets. The method
is checked on every shape: this project's kernel is timed a second time under another name, and the ratio of the two
must be 1 within 5 % in geometric mean. Before it is timed, each deformable engine's result is compared with float64.

ONNX Runtime's CUDA operator cannot be captured so; it is timed by the wall clock around a synchronised run, with the
inputs on the GPU, and its figures say so.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from benchmarks.gpu_check import devices, roofline
from benchmarks.gpu_check.devices import relative_rms
from benchmarks.gpu_check.engines import (
    DENSE,
    MIXED,
    OURS,
    PEERS,
    SELF,
    Engine,
    TensorSet,
    engines,
    forced,
    ours,
    sizes_of,
)
from benchmarks.gpu_check.native import How, Library, NativeError
from benchmarks.gpu_check.stages import table

SCHEMA = "dcn_deploy.bench_gpu/1"
SEED = 20170317
ROUNDS = 25
TILE_ROUNDS = 9
SELF_TOLERANCE = 0.05
_MOST_SETS = 256
#: Relative RMS error above which an engine does not compute the operator, so that its time means nothing. Peers with
#: half-precision coordinates are far above this project's bars.
WRONG = {"float32": 1e-4, "tf32": 1e-2, "float16": 5e-2, "bfloat16": 2e-1}

#: The targets, as bounds on geometric means; see :func:`summarise`.
TORCHVISION_TARGET = {"float16": 5.0, "bfloat16": 5.0, "tf32": 2.0, "float32": 2.0}
DEFORMOPS_TARGET = 1.5
NCHW_TARGET = 1.25


def dense_target(channels: int) -> float:
    """How much longer than the dense convolution the operator may take, in float16 and bfloat16, NHWC."""
    return 1.5 if channels >= 256 else 2.5


@dataclass(frozen=True)
class Mode:
    """A precision and a layout."""

    precision: str
    layout: str

    @property
    def how(self) -> How:
        """As the library is asked for it."""
        dtype = "float32" if self.precision in ("tf32", "float32") else self.precision
        return How(dtype, self.layout, self.layout, self.precision == "tf32")


#: What the targets are about comes first, for where the time runs out.
MODES = tuple(Mode(p, layout) for p in ("float16", "tf32", "bfloat16", "float32") for layout in ("nhwc", "nchw"))


def geometric_mean(values: Iterable[float]) -> float:
    """NaN for no values."""
    logs = [math.log(value) for value in values]
    return math.exp(math.fsum(logs) / len(logs)) if logs else math.nan


def count_of_sets(bytes_of_set: int, cache_bytes: int) -> int:
    """Sets of inputs that do not fit into the second-level cache together, twice over; at least 3."""
    return max(3, min(_MOST_SETS, math.ceil(2 * cache_bytes / max(1, bytes_of_set))))


def set_precision(mode: Mode) -> None:
    """Let PyTorch's convolutions use TF32 where the mode says so, and its reductions float32 sums always."""
    import torch

    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = mode.precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = mode.precision == "tf32"
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False


def capture(runs: Sequence[Callable[[], Any]]) -> Callable[[], None]:
    """A CUDA graph that calls every one of ``runs`` once; returns its replay."""
    import torch

    # Engines choose algorithms and compile in their first calls, which a capture does not allow.
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            runs[0]()
        for run in runs:
            run()
    torch.cuda.current_stream().wait_stream(side)
    devices.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for run in runs:
            run()
    return graph.replay


def take_turns(replays: dict[str, Callable[[], None]], sets: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of one convolution, for each engine and round."""
    import torch

    for replay in replays.values():
        replay()
    devices.synchronize()
    seconds: dict[str, list[float]] = {name: [] for name in replays}
    names = list(replays)
    for number in range(rounds):
        # Another one begins each round, so that none always comes after the same other.
        for name in names[number % len(names) :] + names[: number % len(names)]:
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            replays[name]()
            end.record()
            end.synchronize()
            seconds[name].append(begin.elapsed_time(end) * 1e-3 / sets)
    return seconds


def figures(samples: Sequence[float], error: float | None) -> dict[str, Any]:
    """What a list of seconds says."""
    ordered = sorted(samples)
    return {
        "median": statistics.median(ordered),
        "minimum": ordered[0],
        "maximum": ordered[-1],
        "p90": ordered[min(len(ordered) - 1, math.ceil(0.9 * len(ordered)) - 1)],
        "count": len(ordered),
        "relative_rms_error": error,
    }


def exact(shape: Any, tensors: TensorSet) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The result in float64 of a set."""
    import torch

    from dcn_deploy.ops.deform_conv2d_vectorized import forward
    from dcn_deploy.ops.geometry import Geometry

    geometry = Geometry([shape.stride] * 2, [shape.padding] * 4, [shape.dilation] * 2, shape.group, shape.offset_group)
    x, w, offset, b = (t.double() for t in (tensors.X, tensors.W, tensors.offset, tensors.B))
    with torch.inference_mode():
        y = forward(x, w, offset, b, None if tensors.mask is None else tensors.mask.double(), geometry)
    result: np.ndarray[Any, np.dtype[np.float64]] = y.cpu().numpy()
    return result


def _tiles(library: Library, mode: Mode) -> list[tuple[str, tuple[int, int]]]:
    algorithms = ["tensor"] if mode.precision != "float32" else ["simt"]
    return [(algorithm, tile) for algorithm in algorithms for tile in library.tiles(algorithm)]


def bench(shape: Any, mode: Mode, library: Library, gpu: roofline.Gpu | None, cache_bytes: int) -> dict[str, Any]:
    """Time every engine, and every tile, on one shape in one mode.

    Returns:
        One row of the result.
    """
    import torch

    set_precision(mode)
    how = mode.how
    sets = count_of_sets(roofline.moved_bytes(shape, mode.precision), cache_bytes)
    generator = torch.Generator(devices.DEVICE).manual_seed(SEED)
    tensors = [TensorSet.random(shape, getattr(torch, how.dtype), generator) for _ in range(sets)]
    expected = exact(shape, tensors[0])
    replays: dict[str, Callable[[], None]] = {}
    errors: dict[str, float | None] = {}
    left_out: dict[str, str] = {}

    def add(engine: Engine, into: dict[str, Callable[[], None]]) -> None:
        why = engine.missing(how)
        if why is not None:
            left_out[engine.name] = why
            return
        try:
            with torch.inference_mode():
                runs = [engine.prepare(shape, one, how) for one in tensors]
                y = runs[0]()
                devices.synchronize()
                error = relative_rms(y.double().cpu().numpy(), expected) if engine.deformable else None
                if error is not None and not error <= WRONG[mode.precision]:
                    left_out[engine.name] = f"computes something else: relative RMS error {error:.1e}"
                    return
                into[engine.name] = capture(runs)
                errors[engine.name] = error
        except (RuntimeError, ImportError, TypeError, ValueError, NotImplementedError) as error_of_engine:
            # A peer that refuses a type or a shape is no reason to time nothing.
            left_out[engine.name] = " ".join(f"{type(error_of_engine).__name__}: {error_of_engine}".split())[:300]
            devices.synchronize()

    for engine in engines(library, how):
        add(engine, replays)
    samples = take_turns(replays, sets, ROUNDS)
    plan = library.plan(sizes_of(shape), how)
    row: dict[str, Any] = {
        "shape": shape.name,
        "precision": mode.precision,
        "layout": mode.layout,
        "parameters": {**asdict(shape), "padding": shape.padding, "macs": shape.macs},
        "sets": sets,
        "chosen": {"algorithm": plan.algorithm, "tile": list(plan.tile), "shared_bytes": plan.info["shared_bytes"]},
        "seconds": {name: figures(taken, errors[name]) for name, taken in samples.items()},
        "left_out": left_out,
    }
    if plan.algorithm != "direct":
        by_tile: dict[str, Callable[[], None]] = {}
        for algorithm, tile in _tiles(library, mode):
            name = f"{algorithm} {tile[0]}x{tile[1]}"
            try:
                library.plan(sizes_of(shape), forced(how, (algorithm, tile)))
            except NativeError:
                continue
            add(ours(library, name, tile=(algorithm, tile)), by_tile)
        row["tiles"] = {
            name: statistics.median(taken) for name, taken in take_turns(by_tile, sets, TILE_ROUNDS).items()
        }
    if gpu is not None:
        floor = roofline.floor(shape, mode.precision, gpu)
        row["roofline"] = {**asdict(floor), "seconds": floor.seconds, "binds": floor.binds, "gpu": gpu.name}
    return row


def onnxruntime_missing() -> str | None:
    """Why ONNX Runtime's CUDA operator cannot be timed; None if it can."""
    try:
        import onnxruntime
    except ImportError:
        return "onnxruntime is not installed"
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return f"onnxruntime {onnxruntime.__version__} has no CUDA provider"
    try:
        import onnx  # noqa: F401
    except ImportError:
        return "onnx, which writes its model, is not installed"
    return None


def bench_onnxruntime(shape: Any, precision: str) -> dict[str, Any]:
    """Time ONNX Runtime's own DeformConv on the GPU, by the wall clock."""
    import onnxruntime
    import torch
    from onnx import TensorProto, helper

    dtype, element = {
        "float16": (torch.float16, TensorProto.FLOAT16),
        "float32": (torch.float32, TensorProto.FLOAT),
    }[precision]
    tensors = TensorSet.random(shape, dtype, torch.Generator(devices.DEVICE).manual_seed(SEED))
    arrays = {"X": tensors.X, "W": tensors.W, "offset": tensors.offset, "B": tensors.B, "mask": tensors.mask}
    arrays = {name: tensor for name, tensor in arrays.items() if tensor is not None}
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
    infos = [helper.make_tensor_value_info(name, element, tuple(tensor.shape)) for name, tensor in arrays.items()]
    output = helper.make_tensor_value_info("Y", element, shape.output_shape)
    graph = helper.make_graph([node], "peer", infos, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    options = onnxruntime.SessionOptions()
    # A node that falls back to the CPU would be timed as the GPU's.
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CUDAExecutionProvider"])
    y = torch.empty(shape.output_shape, dtype=dtype, device=devices.DEVICE)
    binding = session.io_binding()
    numpy_type = np.float16 if precision == "float16" else np.float32
    for name, tensor in arrays.items():
        binding.bind_input(name, "cuda", 0, numpy_type, tuple(tensor.shape), tensor.data_ptr())
    binding.bind_output("Y", "cuda", 0, numpy_type, shape.output_shape, y.data_ptr())
    samples = []
    for number in range(ROUNDS + 5):
        devices.synchronize()
        begin = time.perf_counter()
        session.run_with_iobinding(binding)
        devices.synchronize()
        if number >= 5:
            samples.append(time.perf_counter() - begin)
    error = relative_rms(y.double().cpu().numpy(), exact(shape, tensors))
    return {**figures(samples, error), "by": "wall clock, one set"}


def median(row: dict[str, Any], name: str) -> float | None:
    """Median in seconds; None if the engine was not timed on this row."""
    found = row["seconds"].get(name)
    return None if found is None else float(found["median"])


def _ratio(upper: float | None, lower: float | None) -> float | None:
    return None if upper is None or lower is None else upper / lower


def ratios(row: dict[str, Any]) -> dict[str, float | None]:
    """What a row says: how much faster than peers, how many times the dense convolution and the roofline's floor."""
    mine = median(row, OURS)
    floor = row.get("roofline", {}).get("seconds")
    return {
        **{f"faster_than_{name}": _ratio(median(row, name), mine) for name in PEERS},
        "times_dense": _ratio(mine, median(row, DENSE)),
        "self": _ratio(median(row, SELF), mine),
        "mixed": _ratio(median(row, MIXED), mine),
        "fraction_of_roofline": _ratio(floor, mine),
    }


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Geometric means by precision and layout, the dense convolution's also by number of channels; NCHW over NHWC."""
    by_mode: dict[str, Any] = {}
    for mode in MODES:
        mine = [row for row in rows if (row["precision"], row["layout"]) == (mode.precision, mode.layout)]
        if not mine:
            continue
        said = [ratios(row) for row in mine]
        means = {}
        for key in said[0]:
            values = [one[key] for one in said if one[key] is not None]
            if values:
                means[key] = geometric_mean(values)  # type: ignore[arg-type]
        by_width = {
            name: [
                r["times_dense"]
                for row, r in zip(mine, said, strict=True)
                if wide(row["parameters"]["c"]) and row["parameters"]["group"] == 1 and r["times_dense"] is not None
            ]
            for name, wide in (("c_256_and_more", lambda c: c >= 256), ("c_64", lambda c: c == 64))
        }
        by_mode[f"{mode.precision} {mode.layout}"] = {
            "shapes": len(mine),
            "geometric_means": means,
            "times_dense": {name: geometric_mean(values) for name, values in by_width.items() if values},
        }
    nchw: dict[str, float] = {}
    for precision in roofline.PRECISIONS:
        times = {(row["shape"], row["layout"]): median(row, OURS) for row in rows if row["precision"] == precision}
        both = [
            _ratio(value, times.get((shape, "nhwc"))) for (shape, layout), value in times.items() if layout == "nchw"
        ]
        known = [value for value in both if value is not None]
        if known:
            nchw[precision] = geometric_mean(known)
    return {"by_mode": by_mode, "nchw_over_nhwc": nchw}


def verdicts(summary: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """(what, target, measured, reached or missed) for every target that the rows speak of."""
    lines = []

    def judge(what: str, bound: str, target: float, value: float | None, good: bool | None = None) -> None:
        if value is not None:
            reached = (value >= target if bound == "≥" else value <= target) if good is None else good
            lines.append((what, f"{bound} {target:g}", f"{value:.2f}", "reached" if reached else "missed"))

    for name, found in summary["by_mode"].items():
        precision, layout = name.split()
        means = found["geometric_means"]
        judge(f"{name}: × torchvision", "≥", TORCHVISION_TARGET[precision], means.get("faster_than_torchvision"))
        if precision in ("float16", "bfloat16"):
            judge(f"{name}: × deformops", "≥", DEFORMOPS_TARGET, means.get("faster_than_deformops"))
            if layout == "nhwc":
                dense = found["times_dense"]
                judge(f"{name}: / dense, C ≥ 256", "≤", dense_target(256), dense.get("c_256_and_more"))
                judge(f"{name}: / dense, C = 64", "≤", dense_target(64), dense.get("c_64"))
    for precision, value in summary["nchw_over_nhwc"].items():
        judge(f"{precision}: NCHW / NHWC", "≤", NCHW_TARGET, value)
    return lines


def self_check(summary: dict[str, Any]) -> float:
    """How far the same engine, timed twice, is from itself, at worst over the modes."""
    values = [found["geometric_means"].get("self", math.nan) for found in summary["by_mode"].values()]
    return max((abs(value - 1) for value in values), default=math.nan)


def print_rows(rows: Sequence[dict[str, Any]], say: Callable[[str], None]) -> None:
    """Medians in microseconds, one line a shape, a table a mode."""
    for mode in MODES:
        mine = [row for row in rows if (row["precision"], row["layout"]) == (mode.precision, mode.layout)]
        if not mine:
            continue
        names = list(dict.fromkeys(name for row in mine for name in row["seconds"] if name != SELF))
        lines = [[f"{mode.precision} {mode.layout}, µs", "kernel", *names, "/ dense", "of roofline"]]
        for row in mine:
            said = ratios(row)
            values = [median(row, name) for name in names]
            dense, fraction = said["times_dense"], said["fraction_of_roofline"]
            lines.append(
                [
                    row["shape"],
                    f"{row['chosen']['algorithm']} {row['chosen']['tile'][0]}x{row['chosen']['tile'][1]}",
                    *("-" if value is None else f"{value * 1e6:.1f}" for value in values),
                    "-" if dense is None else f"{dense:.2f}",
                    "-" if fraction is None else f"{fraction:.0%}",
                ]
            )
        for line in table(lines, left=2):
            say(line)
        say("")


def run(
    shapes: Sequence[Any],
    library: Library,
    gpu_name: str,
    left: float,
    *,
    modes: Sequence[Mode] = MODES,
    say: Callable[[str], None] = print,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Time everything that the time allows.

    Returns:
        The rows, and what was left out for want of time.
    """
    import torch

    begin = time.monotonic()
    cache_bytes = int(torch.cuda.get_device_properties(0).L2_cache_size)
    rows: list[dict[str, Any]] = []
    late: list[str] = []
    gpu = roofline.gpu_called(gpu_name)
    no_onnxruntime = onnxruntime_missing()
    for mode in modes:
        for shape in shapes:
            if time.monotonic() - begin > left:
                late.append(f"{shape.name} {mode.precision} {mode.layout}")
                continue
            row = bench(shape, mode, library, gpu, cache_bytes)
            if mode.layout == "nchw" and mode.precision in ("float16", "float32"):
                if no_onnxruntime is not None:
                    row["left_out"]["onnxruntime"] = no_onnxruntime
                else:
                    try:
                        row["seconds"]["onnxruntime"] = bench_onnxruntime(shape, mode.precision)
                    except Exception as error:
                        # Its exceptions are classes of its own.
                        row["left_out"]["onnxruntime"] = " ".join(str(error).split())[:300]
            rows.append(row)
            # The graphs' own pools of memory go with them.
            torch.cuda.empty_cache()
        say(f"   {mode.precision} {mode.layout} done after {time.monotonic() - begin:.0f} s")
    return rows, late
