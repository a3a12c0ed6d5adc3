"""Entry point of ``dcn-deploy``: the table of commands, exit status and error messages.

Exit status: 0 done; 1 the answer is no (validation failed, lint found an error); 2 wrong usage, bad input or
a failure; 130 interrupted. Nothing but a command's own verdict may exit with 1.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from dcn_deploy.errors import DcnDeployError

_FAILED = 2
_INTERRUPTED = 130
# What a shell reports for a program that SIGPIPE ended: the reader of our output went away.
_BROKEN_PIPE = 141

# Both click and the copy of it inside newer versions of typer have this class; typer's public names show neither.
_ClickException: type[Exception] = next(cls for cls in typer.BadParameter.__mro__ if cls.__name__ == "ClickException")


@dataclass(frozen=True)
class Command:
    """One row of the table of commands: its module is imported when the command is used, not for ``--help``."""

    name: str
    help: str

    @property
    def module(self) -> str:
        """Module that defines ``command``."""
        return f"dcn_deploy.cli.{self.name}"


#: Every command, in the order of a deployment.
COMMANDS = {
    command.name: command
    for command in (
        Command("export", "Write a PyTorch network to an ONNX file."),
        Command("convert", "Change form or precision of an ONNX file."),
        Command("lint", "Find what a runtime will stumble over in an ONNX file."),
        Command("build", "Make a TensorRT or TensorRT-RTX engine of an ONNX file."),
        Command("validate", "Compare backends with a reference, output by output."),
        Command("profile", "Time backends side by side."),
        Command("doctor", "Say what is built, what is found and what is missing."),
    )
}


class LazyGroup(TyperGroup):
    """The group ``dcn-deploy``: lists commands from the table and imports one when it is called."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for command in COMMANDS.values():
            # Carries name and help for the listing; resolve_command puts the real one in its place.
            self.add_command(TyperCommand(name=command.name, help=command.help))

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Find the command named by ``args`` and import it."""
        name, command, rest = super().resolve_command(ctx, args)
        if name in COMMANDS:
            command = _load(COMMANDS[name])
        return name, command, rest

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Parse the options before the command's name; ``--help`` and ``--version`` print from here."""
        with _exit_statuses(lambda: False):
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        with _exit_statuses(lambda: bool(ctx.params.get("debug"))):
            result = super().invoke(ctx)
            # Now rather than when the interpreter exits, which could not report that the reader is gone.
            sys.stdout.flush()
            return result


@contextmanager
def _exit_statuses(debug: Callable[[], bool]) -> Iterator[None]:
    """Turn every exception but those for wrong usage, which typer prints itself, into a message and a status."""
    try:
        yield
    except (typer.Exit, _ClickException):
        raise
    except KeyboardInterrupt as error:
        print("interrupted", file=sys.stderr)
        raise typer.Exit(_INTERRUPTED) from error
    except BrokenPipeError as error:
        raise _reader_is_gone() from error
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):
            # rich leaves the program with status 1 when it finds the pipe closed.
            raise _reader_is_gone() from error
        # Code of the user's, imported for its network, has called sys.exit: no verdict of ours.
        print(f"error: sys.exit({error.code!r}) was called by the code of a network", file=sys.stderr)
        raise typer.Exit(_FAILED) from error
    except Exception as error:
        _report(error, debug=debug())
        raise typer.Exit(_FAILED) from error


def _reader_is_gone() -> typer.Exit:
    # The interpreter would complain about the closed pipe once more when it flushes on exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return typer.Exit(_BROKEN_PIPE)


def _load(command: Command) -> Any:
    module = importlib.import_module(command.module)
    app = typer.Typer(add_completion=False)
    app.command(command.name)(module.command)
    return typer.main.get_command(app)


def _report(error: Exception, *, debug: bool) -> None:
    if debug:
        traceback.print_exception(error)
        return
    if isinstance(error, DcnDeployError):
        print(f"error: {' '.join(line.strip() for line in str(error).splitlines())}", file=sys.stderr)
        return
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        print(f"error: {error.strerror or errno.errorcode.get(error.errno)}: '{error.filename}'", file=sys.stderr)
        return
    text = " ".join(str(error).split()) or "no message"
    print(
        f"error: unexpected {type(error).__name__}: {text} (run 'dcn-deploy --debug ...' for the traceback)",
        file=sys.stderr,
    )


def _show_version(wanted: bool) -> None:
    if wanted:
        import dcn_deploy

        print(f"dcn-deploy {dcn_deploy.__version__}")
        raise typer.Exit


_app = typer.Typer(
    cls=LazyGroup,
    name="dcn-deploy",
    no_args_is_help=True,
    add_completion=False,
    # Plain text: rich alone would take a third of the time that --help may take. Commands have rich help.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@_app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """PyTorch networks with deformable convolutions and RoI pooling, from export to a validated deployment.

    Exit status: 0 done, 1 the answer is no, 2 wrong usage or bad input.
    """


def main(arguments: list[str] | None = None) -> None:
    """Run ``dcn-deploy`` and leave the process with its exit status.

    Args:
        arguments: command line without the program's name; None takes the process's own.
    """
    typer.main.get_command(_app)(arguments, prog_name="dcn-deploy")


if __name__ == "__main__":
    main()
