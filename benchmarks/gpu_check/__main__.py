"""Build, prove and time the CUDA kernels on the GPU of this machine.

    python -m benchmarks.gpu_check [STAGE ...] [--output FILE] [--shapes NAME ...] [--budget SECONDS]

Stages: build, tests, execution, plugin, engine, sanitizer, bench, ncu; all of them unless some are named. Each runs
whatever became of the one before, and what launches kernels runs in a process of its own with a limit of its own; a
stage that needs the library builds on what an earlier call has built. Exit status: 0 all passed, 1 something failed, 2
something could not be tried (no GPU, say, or no TensorRT for the stage engine). A run of all stages writes
``benchmarks/results/gpu-<name>.json``, anew after each stage; otherwise only ``--output`` writes.
"""

from __future__ import annotations

import argparse
import functools
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.gpu_check import build, child, inside, machine, sanitizer
from benchmarks.gpu_check.stages import Outcome, Stage, exit_status, run_stages, table

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

    def __init__(self, wanted: Sequence[str], options: inside.Options, say: Callable[[str], None]) -> None:
        self._wanted = wanted
        self._options = options
        self.gpu = machine.find_gpu()
        self.say = say
        self.rows: list[dict[str, Any]] = []
        self.bench: dict[str, Any] = {}
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

    @property
    def summary(self) -> dict[str, Any]:
        """What the rows say together."""
        from benchmarks.gpu_check import bench

        return bench.summarise(self.rows)

    def _build(self, left: float) -> str:
        return build.build(self.gpu, left)

    def _aside(self, name: str, left: float) -> child.Ended:
        """A stage in a process of its own."""
        machine.require_gpu(self.gpu, aside=True)
        inside.library()
        path = build.FOLDER / "stages" / f"{name}.json"
        more = []
        if self._options.preparation is not None:
            more += ["--preparation", f"{self._options.preparation:g}"]
        if self._options.shapes is not None:
            more += ["--shapes", *self._options.shapes]
        return child.run(lambda until: child.command(name, path, until, more), path, left, self.say)

    def _tests(self, left: float) -> str:
        ended = self._aside("tests", left)
        self.tests = ended.found
        return ended.conclude()

    def _execution(self, left: float) -> str:
        return self._aside("execution", left).conclude()

    def _plugin(self, left: float) -> str:
        machine.require_gpu(self.gpu, aside=True)
        from benchmarks.gpu_check import plugin

        return plugin.check(self.gpu, left)

    def _engine(self, left: float) -> str:
        gpu = machine.require_gpu(self.gpu, aside=True)
        from benchmarks.gpu_check import engine

        self.engines = {}
        return engine.check(gpu, build.FOLDER / "engines", left, self.say, self.engines)

    def _sanitizer(self, left: float) -> str:
        machine.require_gpu(self.gpu, aside=True)
        inside.library()
        return sanitizer.check(left)

    def _bench(self, left: float) -> str:
        ended = self._aside("bench", left)
        self.bench = ended.found
        self.rows = ended.found.get("rows", [])
        return ended.conclude()

    def _ncu(self, left: float) -> str:
        machine.require_gpu(self.gpu, aside=True)
        inside.library()
        from benchmarks.gpu_check import counters

        wanted = counters.slowest(self.rows)
        if not wanted:
            names = ("det_res4", "center_64")
            wanted = [
                (name, "float16", "nhwc")
                for name in names
                if self._options.shapes is None or name in self._options.shapes
            ]
        counters.profile(wanted, left, self.counters)
        return f"counters of {', '.join(row['shape'] for row in self.counters)}"

    def result(self, outcomes: Sequence[Outcome], described: dict[str, Any]) -> dict[str, Any]:
        """Everything so far, ready for JSON; ``described`` is the machine."""
        from benchmarks.gpu_check import bench

        return {
            "schema": bench.SCHEMA,
            "kernel_sources": described["kernel_sources"],
            "machine": {name: value for name, value in described.items() if name != "kernel_sources"},
            "method": {
                "rounds": bench.ROUNDS,
                "timer": "CUDA events, behind a kernel that waits until the host has enqueued the work: a replayed "
                "CUDA graph or calls, as each figure says",
                "sleep_clocks": bench.SLEEP_CLOCKS,
                "warm_up_seconds": bench.WARM_UP_SECONDS,
                "seed": bench.SEED,
            },
            "stages": [outcome.to_json() for outcome in outcomes],
            "stages_to_come": [name for name in self._wanted if name not in {outcome.stage for outcome in outcomes}],
            "tests": self.tests,
            "engines": self.engines,
            "summary": self.summary,
            "rows": self.rows,
            "left_out_for_time": self.bench.get("late", []),
            "broken_rows": self.bench.get("broken", []),
            "given_up": self.bench.get("given_up", {}),
            "ncu": self.counters,
        }


def _inside_sanitizer(until: float) -> int:
    from benchmarks.gpu_check import checks
    from benchmarks.gpu_check.devices import TorchDevice

    library = inside.library()
    tally = checks.check_all(TorchDevice(), library, library.device(), left=until - time.time(), reduced=True)
    return sanitizer.inside(tally)


def _inside_profiler(name: str, precision: str, layout: str) -> int:
    import torch

    from benchmarks.gpu_check import bench, engines
    from dcn_deploy.models.suite import SUITE

    shape = next(shape for shape in SUITE if shape.name == name)
    mode = bench.Mode(precision, layout)
    generator = torch.Generator("cuda").manual_seed(bench.SEED)
    tensors = engines.TensorSet.random(shape, getattr(torch, mode.how.dtype), generator)
    run = engines.ours(inside.library()).prepare(shape, tensors, mode.how)
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
    parser.add_argument(
        "--preparation",
        type=float,
        metavar="SECONDS",
        help="for a peer's first call on a shape; one that takes longer is left out from then on (default: 12)",
    )
    parser.add_argument("--inside-stage", nargs=3, metavar=("NAME", "UNTIL", "REPORT"), help=argparse.SUPPRESS)
    parser.add_argument("--inside-sanitizer", type=float, metavar="UNTIL", help=argparse.SUPPRESS)
    parser.add_argument("--inside-profiler", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    unknown = [name for name in options.stages if name not in NAMES]
    if unknown:
        parser.error(f"stages: expected some of {', '.join(NAMES)}, got {', '.join(unknown)}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stages; return the exit status."""
    options = parse(arguments)
    of_stages = inside.Options(options.shapes, options.preparation)
    if options.inside_stage:
        name, until, path = options.inside_stage
        return child.inside(Path(path), float(until), inside.work(name, of_stages))
    if options.inside_sanitizer:
        return _inside_sanitizer(options.inside_sanitizer)
    if options.inside_profiler:
        return _inside_profiler(*options.inside_profiler)

    say = inside.say
    wanted = options.stages or list(NAMES)
    check = Check(wanted, of_stages, say)
    path = options.output
    described: dict[str, Any] = {}
    if check.gpu is not None:
        if path is None and not options.stages and options.shapes is None:
            path = record.RESULTS / f"gpu-{record.slug(check.gpu.name)}.json"
        given = list(arguments if arguments is not None else sys.argv[1:])
        described = machine.describe(check.gpu, given)

    def write(outcomes: Sequence[Outcome]) -> None:
        if check.gpu is not None and path is not None:
            try:
                record.write(check.result(outcomes, described), path)
            except Exception as error:
                # The stages to come are worth more.
                say(f"   {path} cannot be written: {type(error).__name__}: {error}")

    stages = [stage for stage in check.stages() if stage.name in wanted]
    outcomes = run_stages(stages, budget=options.budget, say=say, after=write)
    write(outcomes)
    if check.rows:
        from benchmarks.gpu_check import bench

        say("")
        bench.print_rows(check.rows, say)
        for line in table([["target", "bound", "measured", ""], *map(list, bench.verdicts(check.summary))]):
            say(line)
    if check.gpu is not None and path is not None:
        say(f"written: {path}")
    say("")
    rows = [["stage", "", "s", "what"]]
    rows += [[o.stage, o.status, f"{o.seconds:.1f}", (o.detail.splitlines() or [""])[0][:150]] for o in outcomes]
    say("\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, (9, 7, 6, 0), strict=True)) for row in rows))
    return exit_status(outcomes)


def _end(*_: Any) -> None:
    # As an exception, so that the program that runs is ended, too.
    sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    sys.exit(main())
