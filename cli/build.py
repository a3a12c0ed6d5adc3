"""``dcn-deploy build``: an ONNX file → an engine of TensorRT or TensorRT-RTX."""

from __future__ import annotations

from collections.abc import Sequence
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
)
from dcn_deploy.errors import InvalidArgumentError, describe

if TYPE_CHECKING:
    from dcn_deploy.engine.shapes import Profile
    from dcn_deploy.runtime.engine_metadata import Capability, Range

_MIB = 1024**2


def command(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The network; its deformable nodes in any form.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="MODEL.engine", help="File to write.")],
    backend: Annotated[str, typer.Option(metavar="tensorrt|tensorrt-rtx", help="What is to run the engine.")],
    form: Annotated[
        str | None,
        typer.Option(
            metavar="plugin|standard|decomposed",
            help="How deformable operators are written. Default: plugin for tensorrt, decomposed for tensorrt-rtx.",
        ),
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(metavar="input=1,3,224,224", help="The one shape of a dynamic input; repeat for each input."),
    ] = None,
    min_shape: Annotated[
        list[str] | None, typer.Option(metavar="input=1,3,64,64", help="Smallest shape of a dynamic input.")
    ] = None,
    opt_shape: Annotated[
        list[str] | None,
        typer.Option(metavar="input=4,3,224,224", help="Shape to be fastest at. Default: the largest."),
    ] = None,
    max_shape: Annotated[
        list[str] | None, typer.Option(metavar="input=8,3,512,512", help="Largest shape of a dynamic input.")
    ] = None,
    profile: Annotated[
        list[str] | None,
        typer.Option(
            metavar="'input=MIN:OPT:MAX …'",
            help="One more shape profile, as in 'image=1,3,64,64:4,3,224,224:8,3,512,512 rois=0,5:16,5:99,5'; one "
            "shape alone is all three, two are the smallest and the largest. Repeat it for several profiles.",
        ),
    ] = None,
    compute_capability: Annotated[
        list[str] | None,
        typer.Option(
            metavar="8.9",
            help="GPU to build for, with tensorrt-rtx; repeat it, or give a,b. Default: TensorRT-RTX's choice.",
        ),
    ] = None,
    timing_cache: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Measured tactics: read if it is there, written after the build."),
    ] = None,
    workspace: Annotated[
        int | None, typer.Option(metavar="MIB", min=0, help="Largest scratch memory of a layer.")
    ] = None,
    optimization_level: Annotated[
        int | None, typer.Option(metavar="0..5", help="How hard the builder tries. Default: TensorRT's.")
    ] = None,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="Later versions of TensorRT may run the engine.")
    ] = False,
    hardware_compatible: Annotated[
        str,
        typer.Option(metavar="none|same_compute_capability|ampere_plus", help="Which other GPUs must run the engine."),
    ] = "none",
    tf32: Annotated[
        bool, typer.Option("--tf32", help="float32 products may be rounded to TF32: faster, 10 bits of mantissa.")
    ] = False,
    detailed: Annotated[
        bool, typer.Option("--detailed", help="Keep what each layer does in the engine, for the layer report.")
    ] = False,
    json_file: Annotated[
        str | None,
        typer.Option("--json", metavar="FILE", help="Write the report, layers included, as JSON ('-' for stdout)."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Build an engine, and write beside it what it is (MODEL.engine.json).

    The engine computes in the types of the file: see convert --precision. tensorrt needs the GPU that is to run the
    engine; tensorrt-rtx needs none.
    """
    from dcn_deploy.engine import BuildOptions, build_engine

    check_target(json_file, "--json")
    profiles = _profiles(shape or [], min_shape or [], opt_shape or [], max_shape or [], profile or [])
    options = BuildOptions(
        optimization_level=optimization_level,
        workspace=None if workspace is None else workspace * _MIB,
        timing_cache=timing_cache,
        version_compatible=version_compatible,
        hardware_compatibility=hardware_compatible,
        capabilities=tuple(map(_capability, parse_names(compute_capability or []))),
        tf32=tf32,
        detailed=detailed,
    )
    with reserved_stdout(json_file), progress("building", quiet=quiet) as advance:
        result = build_engine(
            model, output, backend=backend, form=form, profiles=profiles, options=options, progress=advance
        )
    write_json(result, json_file)
    result_console(json_file).print(result.to_table())


def _profiles(
    shape: Sequence[str],
    min_shape: Sequence[str],
    opt_shape: Sequence[str],
    max_shape: Sequence[str],
    profile: Sequence[str],
) -> list[Profile]:
    """Return the profile of the shape options, if there are any, and those of ``--profile``."""
    first = _first_profile(parse_shapes(shape), min_shape, opt_shape, max_shape)
    return [*([first] if first else []), *map(_parse_profile, profile)]


def _first_profile(
    shapes: dict[str, tuple[int, ...]], min_shape: Sequence[str], opt_shape: Sequence[str], max_shape: Sequence[str]
) -> dict[str, Range]:
    from dcn_deploy.engine.shapes import fixed

    low, best, high = (
        parse_shapes(values, option)
        for values, option in ((min_shape, "--min-shape"), (opt_shape, "--opt-shape"), (max_shape, "--max-shape"))
    )
    ranges = {name: fixed(shape) for name, shape in shapes.items()}
    for name in {**low, **best, **high}:
        if name in shapes:
            raise InvalidArgumentError(
                describe(f"shapes of '{name}'", expected="--shape alone, or a range", actual="both")
            )
        if name not in low or name not in high:
            missing = "--min-shape" if name not in low else "--max-shape"
            raise InvalidArgumentError(
                describe(
                    f"shapes of '{name}'",
                    expected="--min-shape and --max-shape",
                    actual=f"no {missing}",
                    remedy=f"Add it, or give --shape {name}=... for one shape alone.",
                )
            )
        ranges[name] = low[name], best.get(name, high[name]), high[name]
    return ranges


def _parse_profile(text: str) -> dict[str, Range]:
    """Parse ``"image=1,3,64,64:4,3,224,224:8,3,512,512 rois=0,5:99,5"``."""
    ranges: dict[str, Range] = {}
    for part in text.split():
        name, equals, written = part.rpartition("=")
        shapes = [
            shape for each in written.split(":") for shape in parse_shapes([f"{name}={each}"], "--profile").values()
        ]
        if not equals or not name or len(shapes) > len(("min", "opt", "max")) or name in ranges:
            raise InvalidArgumentError(
                describe(
                    "--profile",
                    expected="each input once, with one to three shapes, as in input=1,3,64,64:4,3,224,224:8,3,512,512",
                    actual=repr(text),
                )
            )
        # Of two shapes the larger one is also the optimal one.
        ranges[name] = shapes[0], shapes[len(shapes) // 2], shapes[-1]
    if not ranges:
        raise InvalidArgumentError(describe("--profile", expected="NAME=MIN:OPT:MAX", actual=repr(text)))
    return ranges


def _capability(written: str) -> Capability:
    from dcn_deploy.runtime.engine_metadata import capability_of

    try:
        return capability_of(written)
    except ValueError:
        raise InvalidArgumentError(
            describe("--compute-capability", expected="a number such as 8.9", actual=repr(written))
        ) from None
