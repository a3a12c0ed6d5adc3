"""The programs in ``benchmarks/``, as modules. Tests ``import benchmark_programs``."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import source_tree

FOLDER = source_tree.CHECKOUT / "benchmarks"


def load(name: str) -> ModuleType:
    """Import one of the programs, which import each other as modules at top level."""
    sys.path.insert(0, str(FOLDER))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(FOLDER))
