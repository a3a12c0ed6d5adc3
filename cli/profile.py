"""``dcn-deploy profile``: time backends side by side."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dcn_deploy.cli.options import (
    check_target,
    parse_names,
    parse_shapes,
    progress,
    reserved_stdout,
    result_console,
    write_json,
    write_text,
)
from dcn_deploy.errors import InvalidArgumentError, ModelSourceError, describe

if TYPE_CHECKING:
    from dcn_deploy.models import ResolvedModel
    from dcn_deploy.runtime import Runner, RunnerOptions, TensorSpec


def command(
    models: Annotated[
        list[Path] | None,
        typer.Argument(metavar="MODEL ...", help="ONNX files and engines (.engine): several are timed side by side."),
    ] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(
            "--backend",
            "-b",
            metavar="NAME",
            help="May be repeated and hold comma lists; each runs the files of its kind.  [default: onnxruntime, for "
            "an engine the one that built it]",
        ),
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option("--shape", metavar="input=1,3,224,224", help="Shape of an input with free axes."),
    ] = None,
    inputs: Annotated[
        Path | None, typer.Option("--inputs", metavar="FILE.npz", help="Inputs by name instead of random numbers.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the random inputs.")] = 0,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Threads of each engine; default: each one's own.")
    ] = None,
    device: Annotated[int, typer.Option("--device", min=0, metavar="N", help="Number of the GPU.")] = 0,
    cuda_graph: Annotated[
        bool, typer.Option("--cuda-graph", help="Record the work on the GPU once and replay it.")
    ] = False,
    runs: Annotated[
        int | None, typer.Option("--runs", min=1, help="Timed runs of each engine; default: what fits into --seconds.")
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option("--seconds", min=0.0, help="Time for each engine.  [default: 5, or no limit with --runs]"),
    ] = None,
    warmup: Annotated[
        int | None, typer.Option("--warmup", min=0, help="Untimed runs before; default: until the times are stable.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--source", metavar="MODEL", help="PyTorch network for the backend torch; default: as recorded in the file."
        ),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", metavar="FILE", help="Weights of --source (.pt or .safetensors).")
    ] = None,
    memory: Annotated[bool, typer.Option("--memory/--no-memory", help="Measure peak memory.")] = True,
    nodes: Annotated[bool, typer.Option("--nodes/--no-nodes", help="Measure the share of deformable nodes.")] = True,
    slowest: Annotated[
        int,
        typer.Option(
            "--slowest", min=0, metavar="N", help="List the N nodes, or layers of an engine, that take longest."
        ),
    ] = 0,
    self_check: Annotated[
        bool,
        typer.Option("--self-check", help="Time the first engine against itself too; exit 1 if that is not 1 ± 0.05."),
    ] = False,
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write the report as JSON ('-' for stdout).")
    ] = None,
    csv_file: Annotated[
        str | None, typer.Option("--csv", metavar="FILE", help="Write the table as CSV ('-' for stdout).")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Time backends side by side: latency, throughput, peak memory, share of deformable nodes.

    The engines take turns in one process with idle threads asleep, each after
    a pause and as the second of two calls. Ratios are to the first engine.
    """
    from dcn_deploy import profiling, runtime
    from dcn_deploy.validation import inputs as sources

    if json_file == csv_file == "-":
        raise InvalidArgumentError(describe("--json and --csv", expected="one of them on stdout", actual="both"))
    # Before minutes of measuring, not after.
    check_target(json_file, "--json")
    check_target(csv_file, "--csv")
    if slowest and not nodes:
        raise InvalidArgumentError(describe("--slowest", expected="nodes that are timed", actual="--no-nodes"))
    if inputs is not None and shape:
        raise InvalidArgumentError(
            describe("--shape and --inputs", expected="one of them: the file settles the shapes", actual="both")
        )
    profiling.let_idle_threads_sleep()
    method = profiling.Method(
        runs=runs, seconds=seconds if seconds is not None or runs is not None else 5.0, warmup=warmup
    )
    files = models or []
    backends = _backends(backend, files, source, weights)
    with reserved_stdout(json_file, csv_file), progress("loading", quiet=quiet) as advance:
        network = _Network.found(source, weights, files) if "torch" in backends else None
        specs, shapes = _inputs(files, backends, network, parse_shapes(shape or []))
        names = tuple(spec.name for spec in specs)
        options = runtime.RunnerOptions(threads=threads, device=device, cuda_graph=cuda_graph)
        runners, recipes = _engines(files, backends, network, names, options)
        feeds = (
            sources.from_npz(inputs, specs)
            if inputs is not None
            else sources.generated(specs, seed=seed, shapes=shapes)
        )
        report = profiling.profile(
            runners,
            [feed.arrays for feed in feeds],
            method=method,
            memory=memory,
            nodes=nodes,
            self_check=self_check,
            recipes=recipes,
            progress=advance,
        )
    write_json(report, json_file)
    if csv_file is not None:
        write_text(report.to_csv(), csv_file, "--csv")
    console = result_console(json_file, csv_file)
    console.print(report.to_table())
    if slowest:
        console.print(report.slowest(slowest))
    if report.self_check is not None and not report.self_check.ok:
        raise typer.Exit(1)


def _backends(
    wanted: Sequence[str] | None, files: Sequence[Path], source: str | None, weights: Path | None
) -> list[str]:
    """Return the backends to time, each once; without a file that is the PyTorch network alone."""
    if not files and source is None:
        raise InvalidArgumentError(
            describe(
                "MODEL",
                expected="at least one file, or --source MODEL to time a PyTorch network alone",
                actual="neither",
            )
        )
    backends = list(dict.fromkeys(parse_names(wanted or [_default_backend(file) for file in files] or ["torch"])))
    if not backends:
        raise InvalidArgumentError(describe("--backend", expected="the name of a backend", actual="none"))
    if "torch" not in backends and (source is not None or weights is not None):
        option = "--source" if source is not None else "--weights"
        raise InvalidArgumentError(
            describe(
                option,
                expected="the backend torch, which it is for",
                actual=", ".join(backends),
                remedy="Add --backend torch.",
            )
        )
    return backends


def _default_backend(file: Path) -> str:
    from dcn_deploy.runtime import engine_files, model_kind

    return engine_files.backend_of(file) if model_kind.kind_of(file) == "engine" else "onnxruntime"


@dataclass(frozen=True)
class _Network:
    """The PyTorch network of the backend torch, as the user or the ONNX file names it."""

    source: str
    weights: Path | None

    @classmethod
    def found(cls, source: str | None, weights: Path | None, files: Sequence[Path]) -> _Network:
        if source is not None:
            return cls(source, weights)
        from dcn_deploy.runtime import engine_files, model_kind

        recorded: Mapping[str, str] = {}
        # An engine names none, but the ONNX file that it was built from may.
        origins = [engine_files.source_of(file) if model_kind.kind_of(file) == "engine" else file for file in files]
        origin = next((path for path in origins if path is not None), None)
        if origin is not None:
            from dcn_deploy.export import metadata

            recorded = metadata.read(origin)
        if "source" not in recorded:
            where = f"'{origin}' records none" if origin is not None else "no ONNX file that could record one"
            raise ModelSourceError(describe("network of the backend torch", expected="--source MODEL", actual=where))
        if weights is None and "weights" in recorded and origin is not None:
            # Only the file's name is recorded; beside the ONNX file is where it is most often kept.
            beside = origin.parent / recorded["weights"]
            weights = beside if beside.is_file() else Path(recorded["weights"])
        return cls(recorded["source"], weights)

    def resolve(self) -> ResolvedModel:
        from dcn_deploy import models

        return models.resolve(self.source, self.weights)

    def runner(self, input_names: tuple[str, ...], options: RunnerOptions) -> Runner:
        from dcn_deploy import runtime

        return runtime.create("torch", self.resolve().module, options=options, input_names=input_names)


def _inputs(
    files: Sequence[Path],
    backends: Sequence[str],
    network: _Network | None,
    shapes: dict[str, tuple[int, ...]],
) -> tuple[tuple[TensorSpec, ...], dict[str, tuple[int, ...]]]:
    """Return what the engines take, and the shapes to generate: of the files, or of the network."""
    from dcn_deploy.boxes import by_name
    from dcn_deploy.runtime import TensorSpec

    if files:
        taken = [_taken_by(file, backends) for file in files]
        for file, other in zip(files, taken, strict=True):
            if not _same_feed(taken[0], other):
                raise InvalidArgumentError(
                    describe(
                        f"inputs of '{file}'",
                        expected=f"those of '{files[0]}', {_text(taken[0])}",
                        actual=_text(other),
                        remedy="Side by side, all files get the same inputs.",
                    )
                )
        return tuple(_narrowest(spec.name, taken) for spec in taken[0]), shapes
    if network is None:
        raise InvalidArgumentError(describe("MODEL", expected="at least one file", actual="none"))
    import numpy as np

    resolved = network.resolve()
    if resolved.example_inputs is None or resolved.input_names is None:
        if not shapes:
            raise InvalidArgumentError(
                describe(
                    "--shape",
                    expected=f"the shape of each input of '{network.source}', which comes without examples",
                    actual="none",
                )
            )
        inside = by_name(shapes)
        return tuple(
            TensorSpec(name, np.dtype(np.float32), (None,) * len(shape), inside.get(name))
            for name, shape in shapes.items()
        ), shapes
    examples = dict(zip(resolved.input_names, resolved.example_inputs, strict=True))
    specs = tuple(
        TensorSpec(
            name,
            np.dtype(str(tensor.dtype).removeprefix("torch.")),
            (None,) * tensor.dim(),
            resolved.boxes.get(name),
        )
        for name, tensor in examples.items()
    )
    return specs, {name: tuple(tensor.shape) for name, tensor in examples.items()} | shapes


def _taken_by(file: Path, backends: Sequence[str]) -> tuple[TensorSpec, ...]:
    """Return the inputs of a file."""
    from dcn_deploy.runtime import engine_files, model_kind, onnx_model
    from dcn_deploy.validation.roi_inputs import with_boxes

    if model_kind.kind_of(file) == "engine":
        return engine_files.interface_of(file, engine_files.backend_of(file, backends))[0]
    proto = onnx_model.load(file, "profile", external_data=False)
    return with_boxes(onnx_model.input_specs(proto), proto)


def _narrowest(name: str, taken: Sequence[Sequence[TensorSpec]]) -> TensorSpec:
    """Return an input of that name that fits every file: extents that one of them fixes are fixed."""
    found = [spec for specs in taken for spec in specs if spec.name == name]
    shape = None
    shapes = [spec.shape for spec in found if spec.shape is not None]
    if shapes:
        shape = tuple(
            next((extent for extent in extents if isinstance(extent, int)), extents[0])
            for extents in zip(*shapes, strict=True)
        )
    return replace(
        found[0],
        shape=shape,
        boxes=next((spec.boxes for spec in found if spec.boxes is not None), None),
        example=next((spec.example for spec in found if spec.example is not None), None),
    )


def _same_feed(first: Sequence[TensorSpec], other: Sequence[TensorSpec]) -> bool:
    """Whether there are arrays that fit both: fixed extents agree, free ones may be anything."""
    named = {spec.name: spec for spec in first}
    if named.keys() != {spec.name for spec in other}:
        return False
    for spec in other:
        twin = named[spec.name]
        if spec.dtype != twin.dtype:
            return False
        if spec.shape is None or twin.shape is None:
            continue
        pairs = zip(spec.shape, twin.shape, strict=False)
        fixed = [(a, b) for a, b in pairs if isinstance(a, int) and isinstance(b, int)]
        if len(spec.shape) != len(twin.shape) or any(a != b for a, b in fixed):
            return False
    return True


def _text(specs: Sequence[TensorSpec]) -> str:
    """Return the inputs for a message: ``input float32 n×3×h×w``."""
    texts = []
    for spec in specs:
        extents = "of any rank" if spec.shape is None else "×".join("?" if e is None else str(e) for e in spec.shape)
        texts.append(f"{spec.name} {spec.dtype or 'of any type'} {extents}".rstrip())
    return ", ".join(texts)


def _engines(
    files: Sequence[Path],
    backends: Sequence[str],
    network: _Network | None,
    input_names: tuple[str, ...],
    options: RunnerOptions,
) -> tuple[dict[str, Runner], dict[str, Callable[[], Runner]]]:
    """Return the engines by name, and how to make those again that another process cannot be sent."""
    from dcn_deploy import runtime

    runners: dict[str, Runner] = {}
    recipes: dict[str, Callable[[], Runner]] = {}
    with_files = [name for name in backends if name != "torch"]
    labels = _labels(files)
    run = {name: _files_of(name, files, backends) for name in with_files}
    _refuse_left_out(files, run)
    for name in backends:
        if name == "torch" and network is not None:
            recipes[name] = functools.partial(network.runner, input_names, options)
            runners[name] = recipes[name]()
            continue
        if not files:
            raise InvalidArgumentError(describe("MODEL", expected=f"a file for '{name}'", actual="none"))
        for file in run[name]:
            alone = len(run[name]) == 1 and (len(files) == 1 or len(with_files) > 1)
            label = name if alone else labels[file] if len(with_files) == 1 else f"{name} {labels[file]}"
            runners[label] = runtime.create(name, file, options=options)
    return runners, recipes


def _files_of(backend: str, files: Sequence[Path], backends: Sequence[str]) -> list[Path]:
    """Return the files that a backend is to run: those of its kind, engines only of its own making.

    Without any it gets them all, and says itself what it takes and how to come by it.
    """
    from dcn_deploy.runtime import BACKENDS, engine_files, model_kind

    row = BACKENDS.get(backend)
    if row is None:
        return list(files)
    kinds = {file: model_kind.kind_of(file) for file in files}
    found = [
        file
        for file, kind in kinds.items()
        if kind in (row.takes, "file") and (kind != "engine" or engine_files.backend_of(file, backends) == backend)
    ]
    return found or list(files)


def _refuse_left_out(files: Sequence[Path], run: Mapping[str, Sequence[Path]]) -> None:
    """Refuse files that no backend runs."""
    left_out = [file for file in files if not any(file in taken for taken in run.values())]
    if left_out and run:
        raise InvalidArgumentError(
            describe(
                "--backend",
                expected=f"one that runs '{left_out[0]}' ({_default_backend(left_out[0])})",
                actual=", ".join(run),
            )
        )


def _labels(files: Sequence[Path]) -> dict[Path, str]:
    """Return a short name for each file: its own if no other has it, else its path."""
    names = [file.name for file in files]
    twice = [str(file) for file in dict.fromkeys(files) if files.count(file) > 1]
    if twice:
        raise InvalidArgumentError(
            describe(
                "MODEL",
                expected="each file once",
                actual=f"{', '.join(twice)} again",
                remedy="For one file against itself there is --self-check.",
            )
        )
    return {file: file.name if names.count(file.name) == 1 else str(file) for file in files}
