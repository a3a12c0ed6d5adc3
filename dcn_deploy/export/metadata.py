"""What a file says about itself: ``metadata_props`` of the model, with the prefix ``dcn_deploy.``."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir
    import torch

PREFIX = "dcn_deploy."

# Names of --precision, by the element type of the weights.
_PRECISIONS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "float64": "fp64"}


def read(model: onnx.ModelProto | str | os.PathLike[str]) -> dict[str, str]:
    """Return what this project wrote into a model's ``metadata_props``, without the prefix.

    Returns:
        ``form``, ``version`` (of this package), ``opset``, ``precision`` (``fp32``, ``fp16``, ``bf16``, ``fp64``
        or ``mixed``); from an export also ``source`` (the network), ``weights`` (the file's name) and
        ``weights_sha256``. Empty for a file of another origin.

    Raises:
        InvalidModelError: if the file cannot be read.
    """
    from dcn_deploy.export import model_files

    properties = model_files.load(model).metadata_props
    return {name.removeprefix(PREFIX): value for name, value in properties.items() if name.startswith(PREFIX)}


def write(model: ir.Model, **entries: str | None) -> None:
    """Set entries of a model's ``metadata_props``; None leaves an entry as it is.

    ``version``, ``opset`` and ``precision`` are always brought up to date.
    """
    from importlib.metadata import PackageNotFoundError, version

    try:
        entries["version"] = version("dcn-deploy")
    except PackageNotFoundError:  # run from sources that were never installed
        entries["version"] = "unknown"
    entries["opset"] = str(model.opset_imports.get("", 0))
    entries["precision"] = precision(model)
    for name in sorted(entries):
        value = entries[name]
        if value is not None:
            model.metadata_props[PREFIX + name] = value


def precision(model: ir.Model) -> str | None:
    """Return the weights' element type by the name that ``--precision`` has for it; ``mixed`` if there are several.

    Constants that this package adds (coordinates are always float32) and scalars do not count.
    """
    from dcn_deploy.export.expansion import PREFIX as CONSTANT_PREFIX
    from dcn_deploy.export.node_reading import dtype_of

    found = {
        _PRECISIONS[dtype]
        for graph in model.graphs()
        for value in graph.initializers.values()
        if (dtype := dtype_of(value)) in _PRECISIONS
        and value.shape is not None
        and len(value.shape) > 0
        and not (value.name or "").startswith(CONSTANT_PREFIX)
    }
    if not found:
        return None
    return found.pop() if len(found) == 1 else "mixed"


def state_dict_sha256(state: Mapping[str, Any]) -> str:
    """Return the SHA-256 over names, element types, shapes and values of a ``state_dict``, in the names' order."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name]
        if not isinstance(value, torch.Tensor):
            continue  # extra state of a module: no weights
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(_bytes(value))
    return digest.hexdigest()


def _bytes(tensor: torch.Tensor) -> Any:
    import torch

    contiguous = tensor.detach().cpu().contiguous().reshape(-1)
    return contiguous.view(torch.uint8).numpy()  # hashlib takes any buffer
