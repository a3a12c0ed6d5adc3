"""Engines of TensorRT and TensorRT-RTX from ONNX files: ``build_engine(model, output, backend=...)``.

One builder for both packages; importing this package loads neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dcn_deploy._lazy import lazy_attributes

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

__getattr__, __dir__ = lazy_attributes(__name__, _DEFINED_IN)
