"""Weights from a file into a network, with every disagreement named."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcn_deploy import _lazy
from dcn_deploy.errors import ModelSourceError, describe

if TYPE_CHECKING:
    import torch

#: Where training programs put the state_dict inside what they save.
_WRAPPERS = ("state_dict", "model", "model_state_dict")
#: What torch.nn.DataParallel and DistributedDataParallel put before every name.
_PARALLEL_PREFIX = "module."
_NAMES_SHOWN = 6


def load_weights(module: torch.nn.Module, path: str | os.PathLike[str], *, may_be_missing: Sequence[str] = ()) -> None:
    """Load the weights in ``path`` into ``module``, which keeps its dtype and device.

    Args:
        module: the network; changed in place, and only if everything fits.
        path: ``.safetensors``; or ``.pt``/``.pth`` with a state_dict, bare or under ``"state_dict"``,
            ``"model"`` or ``"model_state_dict"``. It is read with ``torch.load(weights_only=True)``, so that
            a file cannot run code. The prefix ``module.`` of data-parallel training is removed.
        may_be_missing: shell-style patterns of names that need not be in the file, for example
            ``("*.conv_offset.*",)`` to start a deformable network from the weights of its plain twin.

    Raises:
        ModelSourceError: if the file is absent, unreadable or of another kind, or if names or shapes
            disagree with the network's.
        MissingDependencyError: if a ``.safetensors`` file is given and safetensors is not installed.
    """
    path = Path(path)
    loaded = _without_parallel_prefix(read_state_dict(path))
    wanted = module.state_dict()
    missing = [
        name
        for name in wanted
        if name not in loaded
        # torch fills this counter in by itself: files written before it existed lack it
        and not name.endswith(".num_batches_tracked")
        and not any(fnmatchcase(name, pattern) for pattern in may_be_missing)
    ]
    unexpected = [name for name in loaded if name not in wanted]
    misshapen = [
        f"{name} {tuple(wanted[name].shape)} (file: {tuple(loaded[name].shape)})"
        for name in wanted
        if name in loaded and wanted[name].shape != loaded[name].shape
    ]
    problems = [
        f"{len(names)} {kind}: {_some(names)}"
        for kind, names in (
            ("missing in the file", missing),
            ("unexpected in the file", unexpected),
            ("of another shape", misshapen),
        )
        if names
    ]
    if problems:
        raise ModelSourceError(
            describe(
                f"weights '{path}' for {type(module).__name__}",
                expected=f"the {len(wanted)} names and shapes of the network",
                actual="; ".join(problems),
                remedy=_remedy(missing, unexpected),
            )
        )
    module.load_state_dict(dict(loaded), strict=False)


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """Return the tensors of a weight file, by name, on the CPU.

    Args:
        path: ``.safetensors``, ``.pt`` or ``.pth``; see :func:`load_weights`.

    Raises:
        ModelSourceError: if the file is absent, unreadable or of another kind.
        MissingDependencyError: if a ``.safetensors`` file is given and safetensors is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelSourceError(
            describe(
                "weights",
                expected="a file (.pt, .pth or .safetensors)",
                actual=f"'{path}', which is {'a folder' if path.is_dir() else 'not there'}",
                remedy="Check the path.",
            )
        )
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        return _read_safetensors(path)
    if suffix in (".pt", ".pth"):
        return _read_pickle(path)
    raise ModelSourceError(
        describe(
            f"weights '{path}'",
            expected="a name that ends in .pt, .pth or .safetensors",
            actual=repr(suffix) if suffix else "a name without an ending",
            remedy="Save with torch.save(network.state_dict(), 'weights.pt') "
            "or safetensors.torch.save_file(network.state_dict(), 'weights.safetensors').",
        )
    )


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    load_file = _lazy.require("safetensors.torch", f"reading '{path}'").load_file
    try:
        tensors: dict[str, torch.Tensor] = load_file(path, device="cpu")
    except Exception as error:  # the library raises a class of its own, of no fixed base
        raise ModelSourceError(
            f"weights '{path}': expected a safetensors file, but reading it failed ({error}). "
            "Write it again with safetensors.torch.save_file."
        ) from error
    return tensors


def _read_pickle(path: Path) -> dict[str, torch.Tensor]:
    torch = _lazy.require("torch", f"reading '{path}'")
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zipfile and torch raise many kinds
        # torch's text goes on to advise weights_only=False, which would let the file run code
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelSourceError(
            f"weights '{path}': expected a file of tensors only, but torch.load(weights_only=True) refused it "
            f"({reason}). Save the state_dict, not the network: torch.save(network.state_dict(), path)."
        ) from error
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in content.items()
    ):
        raise ModelSourceError(
            describe(
                f"weights '{path}'",
                expected=f"a state_dict (names to tensors), bare or under one of {', '.join(_WRAPPERS)}",
                actual=_kind_of(content),
                remedy="Save with torch.save(network.state_dict(), path).",
            )
        )
    return dict(content)


def _kind_of(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    return f"a mapping with {_some([f'{name!r}: {type(value).__name__}' for name, value in content.items()])}"


def _without_parallel_prefix(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    if tensors and all(name.startswith(_PARALLEL_PREFIX) for name in tensors):
        return {name.removeprefix(_PARALLEL_PREFIX): value for name, value in tensors.items()}
    return dict(tensors)


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMES_SHOWN])
    return shown if len(names) <= _NAMES_SHOWN else f"{shown}, … ({len(names) - _NAMES_SHOWN} more)"


def _remedy(missing: Sequence[str], unexpected: Sequence[str]) -> str:
    if missing and not unexpected and all(".conv_offset." in f".{name}" for name in missing):
        return (
            "Only the branches that predict offsets are missing: the file is of the plain network. Train the "
            "deformable one first; to start that training from this file, use "
            "dcn_deploy.models.load_weights(network, path, may_be_missing=('*conv_offset.*',))."
        )
    return "Give the weights of this network, or build the network with the options it was trained with."
