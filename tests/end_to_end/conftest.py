"""The photographs of the example, and the command line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="module")
def photographs():
    """Both photographs at a third of their size with the hand-given boxes; see examples/two_stage/photographs.py."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        from two_stage.photographs import load

        yield load(step=3)
    finally:
        sys.path.remove(str(EXAMPLES))
        for name in [name for name in sys.modules if name.split(".")[0] == "two_stage"]:
            del sys.modules[name]


@pytest.fixture(scope="module")
def command() -> Callable[..., int]:
    """``command("export", ...)``: calls the command line in this process; returns the exit status."""
    from dcn_deploy.cli.main import main

    def call(*arguments: object) -> int:
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        status = left.value.code or 0
        assert isinstance(status, int)
        return status

    return call
