"""What the command line promises, over all commands at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import source_tree

#: Commands of the design that report something.
_REPORTS = {"lint", "validate", "profile", "analyze", "doctor"}
_DESIGNED = _REPORTS | {"export", "convert", "build"}


def _modules() -> set[str]:
    """Modules of ``cli/`` that define ``command``: one for each command."""
    return {
        path.stem
        for path in (source_tree.CHECKOUT / "cli").glob("*.py")
        if "\ndef command(" in path.read_text(encoding="utf-8")
    }


def _help(*command: str) -> str:
    program = str(Path(sys.executable).with_name("dcn-deploy"))
    done = subprocess.run(
        [program, *command, "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"COLUMNS": "200", "PATH": "", "TERM": "dumb", "NO_COLOR": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_each_module_of_a_command_is_offered() -> None:
    offered = _help()
    assert _modules() <= _DESIGNED
    for name in sorted(_modules()):
        assert f"\n  {name} " in offered, f"'{name}' is not listed by --help"


@pytest.mark.parametrize("name", sorted(_modules()))
def test_command_has_help(name: str) -> None:
    assert "Usage: dcn-deploy " + name in _help(name)


@pytest.mark.parametrize("name", sorted(_modules() & _REPORTS))
def test_a_command_that_reports_writes_json(name: str) -> None:
    text = _help(name)
    assert "--json" in text, f"dcn-deploy {name} has no --json FILE"


def test_the_commands_of_the_design_that_exist_are_enough_for_a_deployment() -> None:
    assert {"export", "convert", "lint", "validate", "profile", "doctor"} <= _modules()
