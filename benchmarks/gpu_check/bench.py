"""Stage ``bench``: this project's kernels beside their peers over the benchmark suite, in one run, taking turns.

Each engine is captured once in a CUDA graph that goes through several sets of inputs, together larger than the
second-level cache, so that no input is found in the cache. An engine that a graph cannot record (torchvision's
operator, which launches on the default stream) is called for some of the sets instead, one after the other. The engines
take turns and are timed by CUDA events; a figure is the median over the rounds of the time over the number of sets.
Before each timing the GPU is kept busy until the host has enqueued all of it: no figure holds the time of a launch on
the host.

The method is checked. On every shape this project's kernel is timed a second time under another name, and the ratio of
the two must be 1 within 5 % in geometric mean. And what is compared with float64 is the result of the very work that is
timed, of other features than those it was recorded with: a graph that lacks a kernel cannot look right by what an
earlier run has left in memory.

ONNX Runtime's CUDA operator cannot be captured so; it is timed by the wall clock around a synchronised run, with the
inputs on the GPU, and its figures say so.
"""

from __future__ import annotations

import contextlib
import math
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
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
    Run,
    TensorSet,
    engines,
    forced,
    ours,
    sizes_of,
)
from benchmarks.gpu_check.native import How, Library, NativeError, tile_name
from benchmarks.gpu_check.stages import Failed, table

SCHEMA = "dcn_deploy.bench_gpu/1"
SEED = 20170317
ROUNDS = 25
TILE_ROUNDS = 9
#: Blocks that share a tile's sum, and the most blocks of a multiprocessor up to which that is tried.
SPLITS = (1, 2, 4, 8)
BLOCKS_OF_A_MULTIPROCESSOR = 4
SELF_TOLERANCE = 0.05
_MOST_SETS = 256
#: Sets of an engine that is called, not replayed: few, so that all their launches wait in the GPU's queue at once. Its
#: inputs are not in the cache either, since between two of its turns the others go through theirs.
QUEUED_SETS = 32
#: Clocks that the GPU is kept busy for before a timing, to begin with: 0.1 ms. More where the host is not done by then.
SLEEP_CLOCKS = 200_000
_MOST_CLOCKS = 1 << 27
#: Seconds of work before the first row, so that the clocks are up.
WARM_UP_SECONDS = 0.5
#: Seconds that a peer may take for its first call in a row: some try hundreds of kernels there.
PREPARATION_SECONDS = 12.0
_LATE = "no time was left"
GRAPH, QUEUE = "graph", "eager, queued"
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


@dataclass
class Timed:
    """Work that is timed.

    Attributes:
        enqueue: enqueues all of it and returns the result of the first set.
        method: how that is done: :data:`GRAPH` or :data:`QUEUE`.
        kept: one call for each set, and with it all that a recorded graph's pointers point into.
        clocks: for which the GPU is kept busy while the host enqueues.
        in_time: whether the host was done by then in every timing.
    """

    enqueue: Callable[[], Any]
    method: str
    kept: tuple[Run, ...]
    clocks: int = SLEEP_CLOCKS
    in_time: bool = True


def capture(runs: Sequence[Run]) -> Timed:
    """A CUDA graph that calls every one of ``runs`` once."""
    import torch

    kept = tuple(runs)
    # Engines choose algorithms and compile in their first calls, which a capture does not allow.
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            kept[0]()
        for run in kept:
            run()
    torch.cuda.current_stream().wait_stream(side)
    devices.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        # Held, so that no later call gets its memory.
        y = kept[0]()
        for run in kept[1:]:
            run()

    def replay() -> Any:
        graph.replay()
        return y

    return Timed(replay, GRAPH, kept)


def queue(runs: Sequence[Run]) -> Timed:
    """The calls of ``runs`` themselves, on the default stream."""
    kept = tuple(runs)

    def call() -> Any:
        y = kept[0]()
        for run in kept[1:]:
            run()
        return y

    return Timed(call, QUEUE, kept)


def replayed(work: Timed) -> Any:
    """The first set's result of the work as it is timed, with the opposite of its features.

    Whatever is still in memory from before belongs to the features as they were, and is wrong.
    """
    x = work.kept[0].x
    work.enqueue().fill_(math.nan)
    x.neg_()
    try:
        y = work.enqueue().clone()
        devices.synchronize()
    finally:
        x.neg_()
    return y


def seconds_of(work: Timed) -> float:
    """Seconds on the GPU's clock of one set, once."""
    import torch

    while True:
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda._sleep(work.clocks)
        begin.record()
        work.enqueue()
        end.record()
        # If the GPU has come to the beginning before the host came to the end, it may have waited for the host.
        in_time = not begin.query()
        end.synchronize()
        if in_time or work.clocks >= _MOST_CLOCKS:
            work.in_time = work.in_time and in_time
            return float(begin.elapsed_time(end)) * 1e-3 / len(work.kept)
        work.clocks *= 2


def take_turns(works: dict[str, Timed], rounds: int) -> dict[str, list[float]]:
    """Seconds of one convolution, for each engine and round."""
    for work in works.values():
        work.enqueue()
    devices.synchronize()
    seconds: dict[str, list[float]] = {name: [] for name in works}
    names = list(works)
    for number in range(rounds if names else 0):
        # Another one begins each round, so that none always comes after the same other.
        for name in names[number % len(names) :] + names[: number % len(names)]:
            seconds[name].append(seconds_of(works[name]))
    return seconds


def warm_up(seconds: float = WARM_UP_SECONDS) -> None:
    """Keep the GPU busy until its clocks are up."""
    import torch

    a = torch.ones(4096, 4096, dtype=torch.float16, device=devices.DEVICE)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for _ in range(20):
            a @ a
        devices.synchronize()


class TooLongError(Exception):
    """A first call was not done in time."""


@contextlib.contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Break off what takes longer, as far as it comes back to Python.

    Raises:
        TooLongError: after ``seconds``.
    """

    def stop(*_: Any) -> None:
        raise TooLongError

    begin = time.monotonic()
    # Only the main thread has signals. Elsewhere nothing is broken off, but it is told.
    has_signals = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGALRM, stop) if has_signals else None
    if has_signals:
        # Again and again, for where the first is caught.
        signal.setitimer(signal.ITIMER_REAL, max(1e-3, seconds), 5.0)
    try:
        yield
    finally:
        if has_signals:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
    if time.monotonic() - begin > seconds:
        raise TooLongError


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


def _tiles(library: Library, shape: Any, mode: Mode) -> list[tuple[str, tuple[int, int], int]]:
    """Algorithm, tile and number of blocks that share its sum, wherever more of them could be of use."""
    algorithm = "tensor" if mode.precision != "float32" else "simt"
    device = library.device()
    found = []
    for tile in library.tiles(algorithm):
        tiles = math.ceil(shape.n * math.prod(shape.output_shape[2:]) / tile[1])
        tiles *= math.ceil(shape.m / shape.group / tile[0]) * shape.group
        for splits in SPLITS:
            if splits == 1 or tiles * splits <= BLOCKS_OF_A_MULTIPROCESSOR * device["multiprocessors"]:
                found.append((algorithm, tile, splits))
    return found


@dataclass
class Frame:
    """What holds for all rows of a run.

    Attributes:
        library: the kernels.
        gpu: its published peaks, where they are known.
        cache_bytes: of the second-level cache.
        end: when the time is over, on the clock of ``time.monotonic``.
        preparation: seconds that a peer's first call in a row may take.
        now: gets what is done next, so that what breaks or hangs has a name.
        given_up: peers that are left out from now on, and why.
    """

    library: Library
    gpu: roofline.Gpu | None
    cache_bytes: int
    end: float = math.inf
    preparation: float = PREPARATION_SECONDS
    now: Callable[[str], None] = lambda what: None
    given_up: dict[str, str] = field(default_factory=dict)


def bench(shape: Any, mode: Mode, frame: Frame) -> dict[str, Any]:
    """Time every engine, and every tile, on one shape in one mode.

    Returns:
        One row of the result.
    """
    import torch

    set_precision(mode)
    how, library = mode.how, frame.library
    sets = count_of_sets(roofline.moved_bytes(shape, mode.precision), frame.cache_bytes)
    generator = torch.Generator(devices.DEVICE).manual_seed(SEED)
    tensors = [TensorSet.random(shape, getattr(torch, how.dtype), generator) for _ in range(sets)]
    # Of the opposite of the features, see replayed(): Y is linear in X but for its bias.
    bias = tensors[0].B.double().cpu().numpy().reshape(1, -1, 1, 1)
    expected = 2 * bias - exact(shape, tensors[0])
    works: dict[str, Timed] = {}
    errors: dict[str, float | None] = {}
    left_out: dict[str, str] = {}

    def first_call(engine: Engine) -> list[Run]:
        runs = [engine.prepare(shape, one, how) for one in (tensors if engine.captured else tensors[:QUEUED_SETS])]
        runs[0]()
        devices.synchronize()
        return runs

    def add(engine: Engine, into: dict[str, Timed]) -> None:
        why = frame.given_up.get(engine.name) or engine.missing(how)
        if why is None and time.monotonic() > frame.end:
            why = _LATE
        if why is not None:
            left_out[engine.name] = why
            return
        frame.now(f"{shape.name} {mode.precision} {mode.layout}: {engine.name}")
        try:
            with torch.inference_mode():
                with limit(frame.preparation) if engine.name in PEERS else contextlib.nullcontext():
                    runs = first_call(engine)
                work = capture(runs) if engine.captured else queue(runs)
                y = replayed(work).double().cpu().numpy()
                error = relative_rms(y, expected) if engine.deformable else None
                if error is not None and not error <= WRONG[mode.precision]:
                    left_out[engine.name] = f"computes something else: relative RMS error {error:.1e}"
                elif not np.isfinite(y).all():
                    left_out[engine.name] = "leaves its output as it was"
                else:
                    into[engine.name], errors[engine.name] = work, error
        except TooLongError:
            why = f"its first call on {shape.name} in {mode.precision}, {mode.layout} took over {frame.preparation:g} s"
            left_out[engine.name] = frame.given_up[engine.name] = why
            devices.synchronize()
        except Exception as error_of_engine:
            # A peer that refuses a type or a shape is no reason to time nothing.
            left_out[engine.name] = " ".join(f"{type(error_of_engine).__name__}: {error_of_engine}".split())[:300]
            devices.synchronize()

    for engine in engines(library, how):
        add(engine, works)
    frame.now(f"{shape.name} {mode.precision} {mode.layout}: timing")
    with torch.inference_mode():
        samples = take_turns(works, ROUNDS)
    plan = library.plan(sizes_of(shape), how)
    row: dict[str, Any] = {
        "shape": shape.name,
        "precision": mode.precision,
        "layout": mode.layout,
        "parameters": {**asdict(shape), "padding": shape.padding, "macs": shape.macs},
        "sets": sets,
        "chosen": {
            "algorithm": plan.algorithm,
            "tile": list(plan.tile),
            "splits": plan.splits,
            "estimated_clocks": plan.info["estimated_clocks"],
            "shared_bytes": plan.info["shared_bytes"],
        },
        "seconds": {
            name: {**figures(taken, errors[name]), **_how_timed(works[name])} for name, taken in samples.items()
        },
        "left_out": left_out,
    }
    if plan.algorithm != "direct" and time.monotonic() <= frame.end:
        by_tile: dict[str, Timed] = {}
        for tile in _tiles(library, shape, mode):
            name = f"{tile[0]} {tile_name(tile[1], tile[2])}"
            try:
                library.plan(sizes_of(shape), forced(how, tile))
            except NativeError:
                continue
            add(ours(library, name, tile=tile), by_tile)
        with torch.inference_mode():
            taken_by = take_turns(by_tile, TILE_ROUNDS)
        row["tiles"] = {name: statistics.median(taken) for name, taken in taken_by.items()}
    if frame.gpu is not None:
        floor = roofline.floor(shape, mode.precision, frame.gpu)
        row["roofline"] = {**asdict(floor), "seconds": floor.seconds, "binds": floor.binds, "gpu": frame.gpu.name}
    return row


def _how_timed(work: Timed) -> dict[str, Any]:
    """What a figure has to be read with."""
    said: dict[str, Any] = {"method": work.method, "sets": len(work.kept), "sleep_clocks": work.clocks}
    if not work.in_time:
        said["note"] = "holds the time of launches on the host"
    elif work.kept[0].note is not None:
        said["note"] = work.kept[0].note
    return said


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
    return {**figures(samples, error), "method": "wall clock, one set"}


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
    # What max() makes of a NaN depends on its place.
    return math.nan if not values or any(map(math.isnan, values)) else max(abs(value - 1) for value in values)


def _title(name: str, rows: Sequence[dict[str, Any]]) -> str:
    """An engine's name, with how it was timed if that was no graph, and what its figures have besides."""
    said: dict[str, None] = {}
    for row in rows:
        found = row["seconds"].get(name, {})
        said |= dict.fromkeys(word for word in (found.get("method", GRAPH), found.get("note")) if word)
    said.pop(GRAPH, None)
    return f"{name} ({'; '.join(said)})" if said else name


def print_rows(rows: Sequence[dict[str, Any]], say: Callable[[str], None]) -> None:
    """Medians in microseconds, one line a shape, a table a mode."""
    for mode in MODES:
        mine = [row for row in rows if (row["precision"], row["layout"]) == (mode.precision, mode.layout)]
        if not mine:
            continue
        names = list(dict.fromkeys(name for row in mine for name in row["seconds"] if name != SELF))
        titles = [_title(name, mine) for name in names]
        lines = [[f"{mode.precision} {mode.layout}, µs", "kernel", *titles, "/ dense", "of roofline"]]
        for row in mine:
            said = ratios(row)
            values = [median(row, name) for name in names]
            dense, fraction = said["times_dense"], said["fraction_of_roofline"]
            lines.append(
                [
                    row["shape"],
                    f"{row['chosen']['algorithm']} {tile_name(row['chosen']['tile'], row['chosen']['splits'])}",
                    *("-" if value is None else f"{value * 1e6:.1f}" for value in values),
                    "-" if dense is None else f"{dense:.2f}",
                    "-" if fraction is None else f"{fraction:.0%}",
                ]
            )
        for line in table(lines, left=2):
            say(line)
        say("")


@dataclass
class Found:
    """What a run has found so far.

    Attributes:
        rows: as :func:`bench` gives them.
        late: rows that there was no time for.
        broken: rows that broke, and how.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


def run(
    shapes: Sequence[Any],
    frame: Frame,
    found: Found,
    *,
    modes: Sequence[Mode] = MODES,
    say: Callable[[str], None] = print,
    after: Callable[[], None] = lambda: None,
) -> None:
    """Time everything that the time allows; a row that breaks does not hide the others.

    Args:
        shapes: of the suite.
        frame: what holds for all rows.
        found: is added to.
        modes: in order.
        say: prints a line of progress.
        after: called after each row.
    """
    begin = time.monotonic()
    warm_up()
    no_onnxruntime = onnxruntime_missing()
    for mode in modes:
        for shape in shapes:
            name = f"{shape.name} {mode.precision} {mode.layout}"
            if time.monotonic() > frame.end:
                found.late.append(name)
                continue
            try:
                row = bench(shape, mode, frame)
            except Exception as error:
                found.broken.append(f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:500]}")
                trouble = devices.trouble()
                if trouble is not None:
                    found.broken.append(f"after that the GPU does nothing more, and nothing more was tried: {trouble}")
                    after()
                    return
            else:
                why = [row["left_out"].get(engine) for engine in (OURS, SELF)]
                if _LATE in why:
                    found.late.append(name)
                    continue
                if why[0] is not None:
                    found.broken.append(f"{name}: {OURS}: {why[0]}")
                if mode.layout == "nchw" and mode.precision in ("float16", "float32"):
                    _add_onnxruntime(row, shape, mode, no_onnxruntime)
                found.rows.append(row)
            after()
            _free_memory()
        say(f"   {mode.precision} {mode.layout} done after {time.monotonic() - begin:.0f} s")


def _free_memory() -> None:
    """The graphs' own pools of memory go with them."""
    import torch

    torch.cuda.empty_cache()


def _add_onnxruntime(row: dict[str, Any], shape: Any, mode: Mode, missing: str | None) -> None:
    if missing is not None:
        row["left_out"]["onnxruntime"] = missing
        return
    try:
        row["seconds"]["onnxruntime"] = bench_onnxruntime(shape, mode.precision)
    except Exception as error:
        # Its exceptions are classes of its own.
        row["left_out"]["onnxruntime"] = " ".join(str(error).split())[:300]


def conclude(found: Found) -> str:
    """What the rows say in one line.

    Raises:
        Failed: if there are none, if one broke, or if the method does not hold.
    """
    if not found.rows and not found.broken:
        raise Failed(f"no rows: there was no time for any, {len(found.late)} were left out")
    wrong = [*found.broken]
    if not found.rows:
        wrong.insert(0, "no rows: every one that was tried broke")
    away = self_check(summarise(found.rows))
    if found.rows and math.isnan(away):
        wrong.append(f"the same kernel timed twice: in some mode no row has both {OURS!r} and {SELF!r}")
    elif away > SELF_TOLERANCE:
        wrong.append(
            f"the same kernel timed twice: expected a ratio of 1 within {SELF_TOLERANCE:.0%} in geometric mean, got "
            f"{away:.1%} away from it. These figures do not hold"
        )
    if wrong:
        raise Failed("\n".join(wrong))
    unfinished = f"; {len(found.late)} rows left out for want of time" if found.late else ""
    return f"{len(found.rows)} rows; the same kernel timed twice agrees within {away:.1%}{unfinished}"
