"""``dcn-deploy lint``: what a runtime will stumble over."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dcn_deploy.cli.options import result_console, write_json


def command(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="File to look at.")],
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            metavar="onnxruntime|tensorrt|tensorrt-rtx|openvino|any",
            help="Where it is headed; without it, only what is wrong everywhere.",
        ),
    ] = None,
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write the findings as JSON ('-' for stdout).")
    ] = None,
) -> None:
    """Find what is wrong with the deformable operators of an ONNX file, or will go wrong at its target.

    Exit status 1 if there is an error among the findings.
    """
    from dcn_deploy.export import lint, linting

    report = linting.Report(str(model), target, tuple(lint(model, target=target)))
    write_json(report, json_file)
    result_console(json_file).print(report.to_table())
    if report.has_errors:
        raise typer.Exit(1)
