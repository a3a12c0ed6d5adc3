"""``dcn-deploy export``: PyTorch network → ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dcn_deploy.cli.options import (
    parse_dynamic,
    parse_shapes,
    progress,
    reserved_stdout,
    result_console,
    write_json,
)


def command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A network of the zoo, package.module:callable or path/to/file.py:callable.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE.onnx", help="File to write.")],
    form: Annotated[
        str, typer.Option("--form", metavar="plugin|standard|decomposed", help="How deformable operators are written.")
    ] = "plugin",
    weights: Annotated[
        Path | None, typer.Option("--weights", metavar="FILE", help="Weights to load: .pt, .pth or .safetensors.")
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option("--shape", metavar="input=1,3,224,224", help="Shape of an example input; one option each."),
    ] = None,
    dynamic: Annotated[
        list[str] | None,
        typer.Option("--dynamic", metavar="input=n,,h,w", help="Names of the dynamic axes of an input; empty: fixed."),
    ] = None,
    opset: Annotated[
        int | None, typer.Option("--opset", help="ONNX opset; default: the lowest one that will do.")
    ] = None,
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write the report as JSON ('-' for stdout).")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Write a PyTorch network with deformable operators to an ONNX file.

    The file is checked before it is written. See 'dcn-deploy convert' for going from one form to another.
    """
    from dcn_deploy import models
    from dcn_deploy.export import example_inputs, forms, model_files
    from dcn_deploy.export import export as export_network

    shapes, axes = parse_shapes(shape or []), parse_dynamic(dynamic or [])
    forms.check_form(form)
    model_files.check_output_path(output, "--output")
    with reserved_stdout(json_file), progress("loading the network", quiet=quiet) as advance:
        resolved = models.resolve(model, weights)
        args, names = example_inputs(
            resolved.module,
            shapes,
            inputs=resolved.example_inputs,
            names=resolved.input_names,
            boxes=resolved.boxes or None,
        )
        advance(0, None, "exporting")
        result = export_network(
            resolved.module,
            args,
            output,
            form=form,
            opset=opset,
            dynamic_shapes=axes or None,
            input_names=names,
            output_names=resolved.output_names,
            source=resolved.spec,
            weights=resolved.weights_path,
        )
    write_json(result, json_file)
    result_console(json_file).print(result.to_table())
