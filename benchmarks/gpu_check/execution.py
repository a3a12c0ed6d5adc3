"""Stage ``execution``: what only a GPU can show. Streams at once, CUDA graphs, no allocation, sizes past 2^31."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

from benchmarks.gpu_check import checks
from benchmarks.gpu_check.devices import TorchDevice
from benchmarks.gpu_check.native import How, Library
from benchmarks.gpu_check.stages import Failed

#: One for each kind of kernel; large enough that several can run at once.
_CASE = "det_res4"
_HOWS = (
    How("float16", "nhwc", "nhwc", splits=1),
    How("float16", "nhwc", "nhwc", splits=4),
    How("float16", "nchw", "nchw"),
    How("bfloat16", "nhwc", "nhwc"),
    How("float32", "nhwc", "nhwc"),
    How("float32", "nchw", "nchw", allow_tf32=True),
    How("float16", "nhwc", "nhwc", algorithm="direct"),
)
_STREAMS = 4
_RUNS = 50
_LARGE = "sizes past 2^31"


def _prepared(device: TorchDevice, library: Library, how: How) -> tuple[Any, Any, Any, Any]:
    case = next(case for case in checks.suite_cases() if case.name == _CASE)
    problem = checks.Problem(device, case, checks.expected_conv)
    plan = library.plan(checks.sizes_of(case), how)
    packed = checks.pack(device, problem, plan, how.dtype)
    y = device.poisoned(checks.output_shape(case, how.y_layout), how.dtype)
    checks.launch(device, problem, plan, how, packed, ("float32", "float32"), y)
    device.synchronize()
    return problem, plan, packed, y


def _same(a: Any, b: Any) -> bool:
    import torch

    return bool(torch.equal(a.view(torch.uint8), b.view(torch.uint8)))


def _repeats(device: TorchDevice, library: Library, how: How) -> None:
    problem, plan, packed, first = _prepared(device, library, how)
    for _ in range(5):
        again = device.poisoned(first.shape, how.dtype)
        checks.launch(device, problem, plan, how, packed, ("float32", "float32"), again)
        device.synchronize()
        if not _same(first, again):
            raise Failed(f"{how}: expected the same bits in every run, got others")


def _streams(device: TorchDevice, library: Library, how: How) -> None:
    import torch

    problem, plan, packed, first = _prepared(device, library, how)
    streams = [torch.cuda.Stream() for _ in range(_STREAMS)]
    outputs = [device.poisoned(first.shape, how.dtype) for _ in range(_STREAMS * 4)]
    device.synchronize()
    for i, y in enumerate(outputs):
        with torch.cuda.stream(streams[i % _STREAMS]):
            checks.launch(device, problem, plan, how, packed, ("float32", "float32"), y)
    device.synchronize()
    wrong = sum(not _same(first, y) for y in outputs)
    if wrong:
        raise Failed(f"{how}: {wrong} of {len(outputs)} results on {_STREAMS} streams at once differ from that on one")


def _graph(device: TorchDevice, library: Library, how: How) -> None:
    import torch

    problem, plan, packed, first = _prepared(device, library, how)
    y = device.poisoned(first.shape, how.dtype)
    x = problem.tensor("X", how.dtype, how.x_layout)
    device.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        # The weights too, as where they are no constants.
        plan.pack(device.pointer(problem.tensor("W", how.dtype)), device.pointer(packed), device.stream())
        checks.launch(device, problem, plan, how, packed, ("float32", "float32"), y)
    for factor in (1.0, 2.0):
        x.mul_(factor)
        y.fill_(float("nan"))
        graph.replay()
        eager = device.poisoned(first.shape, how.dtype)
        checks.launch(device, problem, plan, how, packed, ("float32", "float32"), eager)
        device.synchronize()
        if not _same(y, eager):
            raise Failed(f"{how}: expected a replayed CUDA graph to give the bits of a plain call, got others")


def _no_allocation(device: TorchDevice, library: Library, how: How) -> None:
    import torch

    problem, plan, packed, y = _prepared(device, library, how)
    free, _ = torch.cuda.mem_get_info()
    for _ in range(_RUNS):
        checks.launch(device, problem, plan, how, packed, ("float32", "float32"), y)
    device.synchronize()
    now, _ = torch.cuda.mem_get_info()
    if now != free:
        raise Failed(f"{how}: expected no device memory to be taken in {_RUNS} runs, got {free - now} bytes")


def _past_2_31(device: TorchDevice, library: Library) -> str:
    """X and Y of more than 2^31 elements: the last image alone must give what it gives among the others."""
    import torch

    n, channels, extent = 9, 64, 2000
    free, _ = torch.cuda.mem_get_info()
    needed = 2 * (2 * n * channels * extent**2 + n * 27 * extent**2) + 2**31
    if free < needed:
        return f"sizes past 2^31 not tried ({needed / 2**30:.0f} GiB of memory needed, {free / 2**30:.0f} free)"
    generator = torch.Generator("cuda").manual_seed(checks.SEED)

    def draw(*shape: int) -> Any:
        return torch.empty(shape, dtype=torch.float16, device="cuda").normal_(generator=generator)

    x, w = draw(n, extent, extent, channels), draw(channels, channels, 3, 3)
    offset, mask = draw(n, 18, extent, extent), draw(n, 9, extent, extent)
    sizes = {"in_channels": channels, "in_h": extent, "in_w": extent, "out_channels": channels}
    sizes |= {
        f"{name}_{axis}": value for name, value in (("kernel", 3), ("stride", 1), ("dilation", 1)) for axis in "hw"
    }
    sizes |= {f"pad_{side}": 1 for side in ("top", "left", "bottom", "right")} | {"group": 1, "offset_group": 1}
    how = How("float16", "nhwc", "nhwc")
    outputs = []
    for first, count in ((0, n), (n - 1, 1)):
        plan = library.plan({"batch": count, **sizes}, how)
        packed = device.scratch(plan.info["packed_bytes"])
        plan.pack(w.data_ptr(), packed.data_ptr(), device.stream())
        y = torch.full((count, extent, extent, channels), float("nan"), dtype=torch.float16, device="cuda")
        pointers = {"x": x[first:].data_ptr(), "offset": offset[first:].data_ptr(), "bias": None}
        pointers |= {"mask": mask[first:].data_ptr(), "y": y.data_ptr()}
        plan.run(pointers, packed.data_ptr(), device.stream(), dtypes=("float16", "float16"))
        device.synchronize()
        outputs.append(y[-1].clone())
        del y
    # On the GPU: the host takes seconds for 2^28 elements.
    among, alone = (y.float() for y in outputs)
    norms = [torch.linalg.vector_norm(y, dtype=torch.float64).item() for y in (among - alone, alone)]
    error = norms[0] / norms[1]
    # A NaN on either side makes the error one.
    if not error <= checks.BARS["float16"]:
        raise Failed(
            f"image {n - 1} of a map of {x.numel()} elements: relative RMS error {error:.2e} against itself alone"
        )
    return f"sizes past 2^31 right ({x.numel() / 2**31:.2f} · 2^31 elements)"


def check(
    library: Library,
    left: float,
    *,
    now: Callable[[str], None] = lambda what: None,
    clock: Callable[[], float] = time.monotonic,
) -> str:
    """Run all of it on the GPU; what is wrong with one kernel does not hide another.

    Args:
        library: the kernels.
        left: seconds; what would begin after them is not tried.
        now: gets what is done next, so that what breaks or hangs has a name.
        clock: seconds from any start.

    Raises:
        Failed: with everything that is wrong, and what there was no time for.
    """
    device, end = TorchDevice(), clock() + left
    parts: list[tuple[str, Callable[[], object]]] = [
        (f"{how}: {part.__name__.strip('_')}", functools.partial(part, device, library, how))
        for how in _HOWS
        for part in (_repeats, _streams, _graph, _no_allocation)
    ]
    parts.append((_LARGE, functools.partial(_past_2_31, device, library)))
    wrong: list[str] = []
    large = ""
    for name, part in parts:
        if clock() > end:
            wrong.append(f"{name} and what comes after it: no time was left of {left:.0f} s")
            break
        now(name)
        try:
            large = str(part())
        except Failed as error:
            wrong.append(str(error))
        except Exception as error:
            wrong.append(f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:500]}")
            trouble = device.trouble()
            if trouble is not None:
                wrong.append(f"after that the GPU does nothing more, and nothing more was tried: {trouble}")
                break
    if wrong:
        raise Failed("\n".join(wrong))
    return (
        f"{len(_HOWS)} kernels: same bits in every run, on {_STREAMS} streams at once and in a replayed CUDA graph; no "
        f"memory taken; {large}"
    )
