"""Deformable convolution and deformable RoI pooling, from PyTorch to deployed engines.

``import dcn_deploy`` is cheap: it loads neither torch nor any runtime. The subpackages and
:func:`dcn_deploy.export` are resolved on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dcn_deploy._libraries import cmake_path as cmake_path
from dcn_deploy._libraries import library_path as library_path

if TYPE_CHECKING:
    # At run time the subpackage itself, which is callable; type checkers see what calling it does.
    from dcn_deploy.export.exporter import export as export

_SUBPACKAGES = (
    "engine",
    "errors",
    "export",
    "models",
    "nn",
    "ops",
    "profiling",
    "runtime",
    "validation",
)


def __getattr__(name: str) -> Any:
    # What a star import brings.
    if name == "__all__":
        return [*_SUBPACKAGES, "cmake_path", "library_path"]
    if name == "__version__":
        from importlib.metadata import version

        return version("dcn-deploy")
    if name in _SUBPACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_SUBPACKAGES, "__version__"])
