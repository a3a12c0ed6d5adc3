"""Import at the moment of need: heavy packages, with an error that names the remedy, and a package's own names."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Collection, Mapping
from types import ModuleType
from typing import Any

from dcn_deploy.errors import MissingDependencyError

# How to get each package that is not part of every installation. One row a top-level package.
_HOW_TO_INSTALL = {
    "torch": "pip install torch",
    "onnx": "pip install onnx",
    "onnxscript": "pip install onnxscript",
    "onnx_ir": "pip install onnxscript",
    "onnxruntime": "pip install onnxruntime (or onnxruntime-gpu)",
    "safetensors": "pip install safetensors",
    "openvino": "pip install openvino",
    "torchvision": "pip install torchvision",
    "tensorrt": "pip install 'dcn-deploy[tensorrt]', from NVIDIA's package index",
    "tensorrt_rtx": "pip install 'dcn-deploy[rtx]'",
    "matplotlib": "pip install 'dcn-deploy[viz]'",
    "PIL": "pip install 'dcn-deploy[viz]'",
    "sklearn": "pip install 'dcn-deploy[demo]'",
    "jinja2": "pip install 'dcn-deploy[demo]'",
}


def how_to_install(package: str) -> str:
    """Return the command that installs a top-level package."""
    return _HOW_TO_INSTALL.get(package, f"pip install {package}")


def require(package: str, purpose: str) -> ModuleType:
    """Import ``package`` (dotted names allowed) or say what to install.

    Args:
        package: name to import.
        purpose: what needs it, as the subject of the sentence, e.g. ``"dcn_deploy.nn"``.

    Raises:
        MissingDependencyError: if the package is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        missing = (error.name or package).split(".")[0]
        raise MissingDependencyError(
            f"{purpose} needs the package '{missing}', which cannot be imported ({error}). "
            f"Install it: {how_to_install(missing)}",
            name=error.name,
        ) from error


def lazy_attributes(
    package: str, defined_in: Mapping[str, str], submodules: Collection[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make a package's ``__getattr__`` and ``__dir__``, so that importing it imports none of its modules.

    Args:
        package: its ``__name__``.
        defined_in: by public name the module of the package that defines it.
        submodules: modules that are attributes of the package before anything imports them.
    """

    def get(name: str) -> Any:
        # What a star import brings. Of a package that defined it itself, __dir__ would not be asked for it either.
        if name == "__all__":
            return sorted(defined_in)
        if name in defined_in:
            return getattr(importlib.import_module(f"{package}.{defined_in[name]}"), name)
        if name in submodules:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *defined_in, *submodules})

    return get, names
