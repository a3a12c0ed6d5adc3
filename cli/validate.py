"""``dcn-deploy validate``: compare backends with a reference, output by output."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dcn_deploy.cli.options import parse_names, parse_shapes, progress, reserved_stdout, result_console, write_json
from dcn_deploy.errors import InvalidArgumentError, describe

if TYPE_CHECKING:
    from dcn_deploy.runtime.runner import TensorSpec
    from dcn_deploy.validation.files import MakeFeeds
    from dcn_deploy.validation.inputs import Feeds


def command(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The file to validate: an ONNX file or an engine.")],
    backend: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Backend to judge; repeat it, or give a,b. Default: onnxruntime, for an engine the one that built it.",
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL|REF.ONNX|GOLDEN.NPZ",
            help="What is right: a PyTorch network (a name of the zoo, package.module:callable or file.py:callable), "
            "another ONNX file, or stored outputs. Default: the network the file was exported from; for a file that "
            "names none, the file itself in float64. For an engine that is the ONNX file it was built from.",
        ),
    ] = None,
    reference_backend: Annotated[
        str, typer.Option(metavar="NAME", help="Backend that runs an ONNX reference.")
    ] = "reference",
    weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Weights of the reference network (.pt, .pth, .safetensors).")
    ] = None,
    inputs: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE.NPZ", help="Inputs by name; repeat it for several feeds, or use keys 0/NAME, 1/NAME."
        ),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Feed the images of a folder, resized and normalised.")
    ] = None,
    samples: Annotated[int | None, typer.Option(metavar="N", help="Number of generated feeds. Default: 1.")] = None,
    seed: Annotated[int, typer.Option(metavar="S", help="Seed of the generated feeds.")] = 0,
    shape: Annotated[
        list[str] | None,
        typer.Option(metavar="input=1,3,224,224", help="Shape of an input with dynamic axes; repeat for each input."),
    ] = None,
    batch: Annotated[int | None, typer.Option(metavar="N", help="Images a run.")] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", help="Largest number of images.")] = None,
    mean: Annotated[
        str | None,
        typer.Option(metavar="R,G,B", help="Mean of the images in [0, 1]. Default: ImageNet's 0.485,0.456,0.406."),
    ] = None,
    std: Annotated[
        str | None,
        typer.Option(metavar="R,G,B", help="Standard deviation likewise. Default: ImageNet's 0.229,0.224,0.225."),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            "--tolerance", "--rtol-rms", metavar="X", help="Largest relative RMS error, instead of the project's table."
        ),
    ] = None,
    differing: Annotated[
        float, typer.Option(metavar="X", help="Fraction of an integer or boolean output that may differ.")
    ] = 0.0,
    layers: Annotated[
        bool, typer.Option("--layers", help="Find the first node at which each backend parts from the reference.")
    ] = False,
    threads: Annotated[int | None, typer.Option(metavar="N", help="Threads of every runtime.")] = None,
    device: Annotated[int, typer.Option(metavar="N", min=0, help="Number of the GPU.")] = 0,
    save_golden: Annotated[
        Path | None, typer.Option(metavar="FILE.NPZ", help="Store the inputs and the reference's outputs.")
    ] = None,
    json: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write the report as JSON; - for standard output.")
    ] = None,
) -> None:
    """Compare backends with a reference, output by output.

    Exit status: 0 if every output is within its tolerance, 1 if not, 2 for wrong usage or bad input.
    """
    from dcn_deploy import models
    from dcn_deploy.validation import validate_file

    make_feeds = _feeds(inputs, images, samples, seed, shape, batch, limit, mean, std)
    with reserved_stdout(json), progress("validating") as advance:
        report = validate_file(
            model,
            parse_names(backend or []),
            resolve=models.resolve,
            make_feeds=make_feeds,
            reference=reference,
            reference_backend=reference_backend,
            weights=weights,
            tolerance=tolerance,
            differing=differing,
            threads=threads,
            device=device,
            layers=layers,
            golden_target=save_golden,
            progress=advance,
        )
    result_console(json).print(report.to_table())
    write_json(report, json)
    if not report.passed:
        raise typer.Exit(1)


def _feeds(
    files: Sequence[Path] | None,
    folder: Path | None,
    samples: int | None,
    seed: int,
    shape: Sequence[str] | None,
    batch: int | None,
    limit: int | None,
    mean: str | None,
    std: str | None,
) -> MakeFeeds | None:
    """Return what makes the feeds that the options ask for; None if they ask for none."""
    sources = [
        name for name, given in (("--inputs", files), ("--images", folder), ("--samples", samples is not None)) if given
    ]
    if len(sources) > 1:
        raise InvalidArgumentError(describe("inputs", expected="one source", actual=" and ".join(sources)))
    image_options = {"--batch": batch, "--limit": limit, "--mean": mean, "--std": std}
    stray = [name for name, value in image_options.items() if value is not None and folder is None]
    stray += ["--shape"] if files and shape else []
    if stray:
        where = "inputs of free shape, generated or from images" if "--shape" in stray else "--images DIR"
        raise InvalidArgumentError(describe(", ".join(stray), expected=where, actual="none"))
    shapes = parse_shapes(shape or [])
    if files:
        return partial(_stored, files)
    if folder is not None:
        return partial(_pictures, folder, shapes, _numbers("--mean", mean), _numbers("--std", std), batch, limit)
    return (
        partial(_generated, 1 if samples is None else samples, seed, shapes)
        if samples is not None or shapes or seed
        else None
    )


def _stored(files: Sequence[Path], specs: Sequence[TensorSpec]) -> Feeds:
    from dcn_deploy.validation import inputs

    return inputs.from_npz(files, specs)


def _generated(samples: int, seed: int, shapes: dict[str, tuple[int, ...]], specs: Sequence[TensorSpec]) -> Feeds:
    from dcn_deploy.validation import inputs

    return inputs.generated(specs, count=samples, seed=seed, shapes=shapes)


def _pictures(
    folder: Path,
    shapes: dict[str, tuple[int, ...]],
    mean: list[float] | None,
    std: list[float] | None,
    batch: int | None,
    limit: int | None,
    specs: Sequence[TensorSpec],
) -> Feeds:
    from dcn_deploy.validation import inputs

    shape = inputs.resolve_shapes(specs, shapes)[specs[0].name] if shapes else None
    return inputs.images(folder, specs, mean=mean, std=std, batch=batch, limit=limit, shape=shape)


def _numbers(option: str, text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InvalidArgumentError(
            describe(option, expected="numbers separated by commas, as in 0.5,0.5,0.5", actual=repr(text))
        ) from None
