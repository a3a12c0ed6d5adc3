"""What kind of model something is: a network, an ONNX model, or an engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from dcn_deploy.runtime.engine_metadata import sidecar_path

#: How the files are named, as far as the names tell.
_SUFFIXES: dict[str, Literal["onnx", "engine"]] = {
    ".onnx": "onnx",
    ".engine": "engine",
    ".plan": "engine",
    ".trt": "engine",
}


def kind_of(model: Any) -> Literal["torch", "onnx", "engine", "file"]:
    """Return what kind of model something is.

    Args:
        model: path, ``onnx.ModelProto`` or ``torch.nn.Module``. What is neither a path nor a ``ModelProto`` is taken
            for a network.

    Returns:
        ``"file"`` for a path that neither its name nor a sidecar beside it tells about.
    """
    if not isinstance(model, str | Path):
        return "onnx" if type(model).__name__ == "ModelProto" else "torch"
    path = Path(model)
    if path.suffix.lower() in _SUFFIXES:
        return _SUFFIXES[path.suffix.lower()]
    return "engine" if sidecar_path(path).is_file() else "file"
