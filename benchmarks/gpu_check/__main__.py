"""Build, prove and time the CUDA kernels on the GPU of this machine.

    python -m benchmarks.gpu_check [STAGE ...] [--output FILE] [--shapes NAME ...] [--budget SECONDS]

Stages: build, tests, execution, plugin, engine, sanitizer, bench, ncu; all of them unless some are named. Each runs
whatever became of the one before; a stage that needs the library builds on what an earlier call has built. Exit status:
0 all passed, 1 something failed, 2 something could not be tried (no GPU, say). A run of all stages writes
``benchmarks/results/gpu-<name>.json``; otherwise only ``--output`` writes.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.gpu_check import build, machine, sanitizer
from benchmarks.gpu_check.native import Library
from benchmarks.gpu_check.stages import Failed, Missing, Stage, exit_status, run_stages, table

#: Seconds for everything: under nine minutes, the end of the last stage included.
BUDGET = 525.0
#: What each stage is sure of. Together they are the budget; what one leaves goes to the one after it.
LIMITS = {
    "build": 95.0,
    "tests": 100.0,
    "execution": 30.0,
    "plugin": 55.0,
    "engine": 45.0,
    "sanitizer": 75.0,
    "bench": 100.0,
    "ncu": 25.0,
}
NAMES = tuple(LIMITS)


def allowance(name: str, left: float, wanted: Sequence[str]) -> float:
    """Seconds that a stage may take of what is left: all but what the later ones are sure of; half its own at least."""
    later = [other for other in NAMES[NAMES.index(name) + 1 :] if other in wanted]
    return min(left, max(left - sum(LIMITS[other] for other in later), LIMITS[name] / 2))


class Check:
    """What the stages hand on to each other."""

    def __init__(self, wanted: Sequence[str], shapes: Sequence[str] | None, say: Callable[[str], None]) -> None:
        self._wanted = wanted
        self.gpu = machine.find_gpu()
        self.say = say
        self._shapes = shapes
        self.rows: list[dict[str, Any]] = []
        self.late: list[str] = []
        self.summary: dict[str, Any] = {}
        self.tests: dict[str, Any] = {}
        self.engines: dict[str, Any] = {}
        self.counters: list[dict[str, Any]] = []

    def stages(self) -> list[Stage]:
        """Every stage, in order."""
        summaries = {
            "build": (self._build, "the kernels for this GPU"),
            "tests": (self._tests, "every kernel against the float64 reference"),
            "execution": (self._execution, "streams, CUDA graphs, memory, large sizes"),
            "plugin": (self._plugin, "TensorRT's plugins, driven without TensorRT, against the float64 reference"),
            "engine": (self._engine, "engines of the demonstration, where TensorRT or TensorRT-RTX is installed"),
            "sanitizer": (self._sanitizer, "compute-sanitizer: " + ", ".join(sanitizer.TOOLS)),
            "bench": (self._bench, "beside the peers, over the suite"),
            "ncu": (self._ncu, "the hardware's counters on the two shapes farthest from the dense convolution"),
        }
        return [
            Stage(name, summary, functools.partial(self._limited, name, run))
            for name, (run, summary) in summaries.items()
        ]

    def _limited(self, name: str, run: Callable[[float], str], left: float) -> str:
        # Where there is no GPU, the compiler has the time of all the others.
        return run(left if self.gpu is None else allowance(name, left, self._wanted))

    def library(self) -> Library:
        """The library that the stage ``build`` has made.

        Raises:
            Missing: if it has not.
        """
        if not build.LIBRARY.is_file():
            raise Missing(f"{build.LIBRARY.name} is not built. Run the stage build first")
        return Library(build.LIBRARY)

    def shapes(self) -> list[Any]:
        """The shapes to time."""
        from dcn_deploy.models.suite import SUITE

        return [shape for shape in SUITE if self._shapes is None or shape.name in self._shapes]

    def _build(self, left: float) -> str:
        return build.build(self.gpu, left)

    def _tests(self, left: float) -> str:
        machine.require_gpu(self.gpu)
        from benchmarks.gpu_check import checks
        from benchmarks.gpu_check.devices import TorchDevice

        library, device = self.library(), TorchDevice()
        self.say(f"   {checks.check_reference(device)}")
        tally = checks.check_all(device, library, library.device(), left=left)
        self.tests = {
            "results": tally.launches,
            "left_out": tally.left_out,
            "failures": tally.failures,
            "kernels": sorted(tally.kernels),
            "worst": {name: {"of_bar": value, "where": where} for name, (value, where) in tally.worst.items()},
        }
        if tally.failures:
            raise Failed("\n".join([f"{len(tally.failures)} of {tally.launches} results are wrong:", *tally.failures]))
        worst = ", ".join(f"{name} {value:.0%}" for name, (value, _) in tally.worst.items())
        return (
            f"{tally.launches} results of {len(tally.kernels)} kernels right; largest errors as a part of their bars: "
            f"{worst}; {tally.left_out} requests that this GPU has no room for"
        )

    def _execution(self, left: float) -> str:
        machine.require_gpu(self.gpu)
        from benchmarks.gpu_check import execution

        return execution.check(self.library())

    def _plugin(self, left: float) -> str:
        machine.require_gpu(self.gpu)
        from benchmarks.gpu_check import plugin

        return plugin.check(self.gpu, left)

    def _engine(self, left: float) -> str:
        gpu = machine.require_gpu(self.gpu)
        from benchmarks.gpu_check import engine

        detail, self.engines = engine.check(gpu, build.FOLDER / "engines", left, self.say)
        return detail

    def _sanitizer(self, left: float) -> str:
        machine.require_gpu(self.gpu)
        self.library()
        return sanitizer.check(left)

    def _bench(self, left: float) -> str:
        gpu = machine.require_gpu(self.gpu)
        from benchmarks.gpu_check import bench

        self.rows, self.late = bench.run(self.shapes(), self.library(), gpu.name, left, say=self.say)
        self.summary = bench.summarise(self.rows)
        away = bench.self_check(self.summary)
        if not away <= bench.SELF_TOLERANCE:
            raise Failed(
                f"the same kernel timed twice: expected a ratio of 1 within {bench.SELF_TOLERANCE:.0%} in geometric "
                f"mean, got {away:.1%} away from it. These figures do not hold"
            )
        unfinished = f"; {len(self.late)} rows left out for want of time" if self.late else ""
        return f"{len(self.rows)} rows; the same kernel timed twice agrees within {away:.1%}{unfinished}"

    def _ncu(self, left: float) -> str:
        machine.require_gpu(self.gpu)
        self.library()
        from benchmarks.gpu_check import counters

        wanted = counters.slowest(self.rows)
        if not wanted:
            wanted = [
                (shape.name, "float16", "nhwc") for shape in self.shapes() if shape.name in ("det_res4", "center_64")
            ]
        self.counters = counters.profile(wanted, left)
        return f"counters of {', '.join(row['shape'] for row in self.counters)}"

    def result(self, outcomes: Sequence[Any], arguments: Sequence[str]) -> dict[str, Any]:
        """Everything, ready for JSON."""
        from benchmarks.gpu_check import bench

        assert self.gpu is not None
        described = machine.describe(self.gpu, arguments)
        return {
            "schema": bench.SCHEMA,
            "kernel_sources": described.pop("kernel_sources"),
            "machine": described,
            "method": {"rounds": bench.ROUNDS, "timer": "CUDA events around a replayed CUDA graph", "seed": bench.SEED},
            "stages": [outcome.to_json() for outcome in outcomes],
            "tests": self.tests,
            "engines": self.engines,
            "summary": self.summary,
            "rows": self.rows,
            "left_out_for_time": self.late,
            "ncu": self.counters,
        }


def _inside_sanitizer() -> int:
    from benchmarks.gpu_check import checks
    from benchmarks.gpu_check.devices import TorchDevice

    library = Library(build.LIBRARY)
    tally = checks.check_all(TorchDevice(), library, library.device(), left=1e9, reduced=True)
    for failure in tally.failures:
        print(failure)
    return 1 if tally.failures else 0


def _inside_profiler(name: str, precision: str, layout: str) -> int:
    import torch

    from benchmarks.gpu_check import bench, engines
    from dcn_deploy.models.suite import SUITE

    shape = next(shape for shape in SUITE if shape.name == name)
    mode = bench.Mode(precision, layout)
    generator = torch.Generator("cuda").manual_seed(bench.SEED)
    tensors = engines.TensorSet.random(shape, getattr(torch, mode.how.dtype), generator)
    run = engines.ours(Library(build.LIBRARY)).prepare(shape, tensors, mode.how)
    for _ in range(4):
        run()
    torch.cuda.synchronize()
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    first, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_check",
        description=first,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"some of {', '.join(NAMES)} (default: all)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="JSON file")
    parser.add_argument("--shapes", nargs="+", metavar="NAME", help="shapes of the suite to time (default: all)")
    parser.add_argument("--budget", type=float, default=BUDGET, metavar="SECONDS", help="default: %(default).0f")
    parser.add_argument("--inside-sanitizer", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--inside-profiler", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    unknown = [name for name in options.stages if name not in NAMES]
    if unknown:
        parser.error(f"stages: expected some of {', '.join(NAMES)}, got {', '.join(unknown)}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stages; return the exit status."""
    options = parse(arguments)
    if options.inside_sanitizer:
        return _inside_sanitizer()
    if options.inside_profiler:
        return _inside_profiler(*options.inside_profiler)

    def say(line: str) -> None:
        print(line, flush=True)

    wanted = options.stages or list(NAMES)
    check = Check(wanted, options.shapes, say)
    stages = [stage for stage in check.stages() if stage.name in wanted]
    outcomes = run_stages(stages, budget=options.budget, say=say)
    if check.rows:
        from benchmarks.gpu_check import bench

        say("")
        bench.print_rows(check.rows, say)
        for line in table([["target", "bound", "measured", ""], *map(list, bench.verdicts(check.summary))]):
            say(line)
    if check.gpu is not None:
        is_whole = not options.stages and options.shapes is None
        default = record.RESULTS / f"gpu-{record.slug(check.gpu.name)}.json" if is_whole else None
        path = options.output or default
        if path is not None:
            given = list(arguments if arguments is not None else sys.argv[1:])
            record.write(check.result(outcomes, given), path)
            say(f"written: {path}")
    say("")
    rows = [["stage", "", "s", "what"]]
    rows += [[o.stage, o.status, f"{o.seconds:.1f}", o.detail.splitlines()[0][:150]] for o in outcomes]
    say("\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, (9, 7, 6, 0), strict=True)) for row in rows))
    return exit_status(outcomes)


if __name__ == "__main__":
    sys.exit(main())
