"""``dcn-deploy doctor``: what is built, what is found, what is missing and how to get it."""

from __future__ import annotations

from typing import Annotated

import typer

from dcn_deploy.cli.options import progress, reserved_stdout, result_console, write_json

_MARKS = {"ok": ("ok", "green"), "missing": ("missing", "yellow"), "broken": ("broken", "red")}


def command(
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write the findings as JSON ('-' for stdout).")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Say what is built, what is found and what is missing, and how to get it.

    Exit status 0 if the core way works (PyTorch, ONNX, ONNX Runtime with the custom-op library), else 1.
    """
    from rich.table import Table
    from rich.text import Text

    from dcn_deploy.runtime.diagnosis import examine

    with reserved_stdout(json_file), progress("looking around", quiet=quiet):
        diagnosis = examine()
    write_json(diagnosis, json_file)
    table = Table(show_header=False, box=None, padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    group = ""
    for finding in diagnosis.findings:
        if finding.group != group:
            group = finding.group
            table.add_row(Text(group, style="bold"))
        text, colour = _MARKS[finding.status]
        if finding.status != "ok" and finding.required:
            text, colour = f"{text}, needed", "bold red"
        detail = Text(finding.detail)
        if finding.remedy:
            detail.append(f"\n→ {finding.remedy}", style="dim")
        table.add_row(Text(f"  {finding.part}"), Text(text, style=colour), detail)
    console = result_console(json_file)
    console.print(table)
    console.print(
        "The core way works: PyTorch → ONNX → ONNX Runtime."
        if diagnosis.ok
        else "The core way does not work: mend what is marked 'needed'."
    )
    if not diagnosis.ok:
        raise typer.Exit(1)
