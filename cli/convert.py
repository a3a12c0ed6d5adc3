"""``dcn-deploy convert``: one form or precision of an ONNX file → another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dcn_deploy.cli.options import progress, result_console, write_json


def command(
    source: Annotated[Path, typer.Argument(metavar="IN.onnx", help="File to read; mmdeploy's nodes are read too.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT.onnx", help="File to write.")],
    form: Annotated[
        str | None,
        typer.Option(
            "--form",
            metavar="plugin|standard|decomposed",
            help="How deformable operators are written. Default with --precision: as they are.",
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            "--precision",
            metavar="fp32|fp16|bf16|mixed",
            help="Element type of the tensors; mixed: float16, but float32 for offsets, masks, RoIs and what computes "
            "them. Inputs and outputs keep theirs.",
        ),
    ] = None,
    int8: Annotated[
        str | None,
        typer.Option(
            "--int8",
            metavar="folded|qdq",
            help="Fold Q/DQ around deformable convolutions into int8 nodes (TensorRT), or write such nodes as Q/DQ.",
        ),
    ] = None,
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write the report as JSON ('-' for stdout).")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Change the form of the deformable operators in an ONNX file, or the element types of its tensors.

    plugin: this project's node. standard: ONNX DeformConv. decomposed: ordinary operators only.
    """
    from dcn_deploy.export import convert_file

    with progress("converting", quiet=quiet):
        result = convert_file(source, output, form, precision=precision, int8=int8)
    write_json(result, json_file)
    result_console(json_file).print(result.to_table())
