"""The work of the stages that launch kernels, as each does it in a process of its own (see ``child``)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.gpu_check import build, machine
from benchmarks.gpu_check.child import Report
from benchmarks.gpu_check.native import Library
from benchmarks.gpu_check.stages import Failed, Missing


@dataclass(frozen=True)
class Options:
    """What the command line says to the stages.

    Attributes:
        shapes: names of the suite's shapes to time; None for all.
        preparation: seconds that a peer may take for its first call in a row; None for the benchmark's own limit.
    """

    shapes: Sequence[str] | None = None
    preparation: float | None = None


def library() -> Library:
    """The library that the stage ``build`` has made.

    Raises:
        Missing: if it has not.
    """
    if not build.LIBRARY.is_file():
        raise Missing(f"{build.LIBRARY.name} is not built. Run the stage build first")
    return Library(build.LIBRARY)


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


def tests(report: Report, left: float, options: Options) -> str:
    """Every kernel against the float64 reference."""
    begin = time.monotonic()
    from benchmarks.gpu_check import checks
    from benchmarks.gpu_check.devices import TorchDevice

    kernels, device = library(), TorchDevice()
    tally = checks.Tally(now=report.now)

    def save() -> None:
        report.found = tally.to_json()
        report.save()

    with tally.trying("the reference", device):
        say(f"   {checks.check_reference(device)}")
    left -= time.monotonic() - begin
    checks.check_all(device, kernels, kernels.device(), left=left, tally=tally, after=save)
    save()
    late = [] if tally.late is None else [tally.late]
    if tally.failures:
        raise Failed(
            "\n".join([f"{len(tally.failures)} failures over {tally.launches} results:", *tally.failures, *late])
        )
    worst = ", ".join(f"{name} {value:.0%}" for name, (value, _) in tally.worst.items())
    said = (
        f"{tally.launches} results of {len(tally.kernels)} kernels right; largest errors as a part of their bars: "
        f"{worst}; {tally.left_out} requests that this GPU has no room for"
    )
    if late:
        raise Failed("\n".join([*late, said]))
    return said


def execution(report: Report, left: float, options: Options) -> str:
    """Streams, CUDA graphs, memory, large sizes."""
    begin = time.monotonic()
    from benchmarks.gpu_check import execution as stage

    kernels = library()
    return stage.check(kernels, left - (time.monotonic() - begin), now=report.now)


def bench(report: Report, left: float, options: Options) -> str:
    """Beside the peers, over the suite."""
    end = time.monotonic() + left
    import torch

    from benchmarks.gpu_check import bench as stage
    from benchmarks.gpu_check import roofline
    from dcn_deploy.models.suite import SUITE

    properties = torch.cuda.get_device_properties(0)
    frame = stage.Frame(
        library(),
        roofline.gpu_called(properties.name),
        int(properties.L2_cache_size),
        end,
        stage.PREPARATION_SECONDS if options.preparation is None else options.preparation,
        report.now,
    )
    found = stage.Found()

    def save() -> None:
        report.found = {
            "rows": found.rows,
            "late": found.late,
            "broken": found.broken,
            "given_up": frame.given_up,
        }
        report.save()

    shapes = [shape for shape in SUITE if options.shapes is None or shape.name in options.shapes]
    try:
        stage.run(shapes, frame, found, say=say, after=save)
    finally:
        save()
    return stage.conclude(found)


#: By stage; each gets the report, the seconds that are left, and the command line's options.
WORK: dict[str, Callable[[Report, float, Options], str]] = {"tests": tests, "execution": execution, "bench": bench}


def work(name: str, options: Options) -> Callable[[Report, float], str]:
    """The work of a stage for ``child.inside``.

    Raises:
        Missing: the work does, without a GPU that PyTorch can use.
    """

    def run(report: Report, left: float) -> str:
        begin = time.monotonic()
        machine.require_gpu(machine.find_gpu())
        return WORK[name](report, left - (time.monotonic() - begin), options)

    return run
