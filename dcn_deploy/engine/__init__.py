"""Engines of TensorRT and TensorRT-RTX from ONNX files: ``build_engine(model, output, backend=...)``.

One builder for both packages; importing this package loads neither.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dcn_deploy.engine.builder import BuildResult as BuildResult
    from dcn_deploy.engine.builder import build_engine as build_engine
    from dcn_deploy.engine.options import HARDWARE_LEVELS as HARDWARE_LEVELS
    from dcn_deploy.engine.options import BuildOptions as BuildOptions

_DEFINED_IN = {
    "BuildOptions": "options",
    "BuildResult": "builder",
    "HARDWARE_LEVELS": "options",
    "build_engine": "builder",
}


def __getattr__(name: str) -> Any:
    if name in _DEFINED_IN:
        return getattr(importlib.import_module(f"{__name__}.{_DEFINED_IN[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_DEFINED_IN])
