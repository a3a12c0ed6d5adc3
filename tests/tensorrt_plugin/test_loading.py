"""``tensorrt_api`` loads the plugin library into the real registries, once, and knows its version."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import source_tree

# A row of the table with another module: the registry is the full package's own.
_PROGRAM = """
import dataclasses, sys
from dcn_deploy.runtime import tensorrt_api
row = dataclasses.replace(tensorrt_api.PACKAGES["tensorrt"], module=sys.argv[1], first=(1, 0))
tensorrt_api.PACKAGES = {"tensorrt": row}
api = tensorrt_api.load("tensorrt", "a test")
first, second = api.load_plugins(), api.load_plugins()
assert first == second
print(first.version, first.path)
"""


@pytest.mark.parametrize("module", ["tensorrt_lean", "tensorrt_rtx"])
def test_the_library_is_loaded_and_its_plugins_are_found(plugin_library: Path, module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, module], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    version = (source_tree.CHECKOUT / "VERSION").read_text().strip()
    assert done.stdout.split(maxsplit=1) == [version, f"{plugin_library}\n"]
