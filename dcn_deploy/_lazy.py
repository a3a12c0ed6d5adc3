"""Import of heavy packages at the moment they are needed, with an error that names the remedy."""

from __future__ import annotations

import importlib
from types import ModuleType

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
