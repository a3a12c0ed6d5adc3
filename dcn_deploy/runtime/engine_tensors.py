"""What an engine takes and gives: names, element types, shapes, and the ranges of its optimisation profiles."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dcn_deploy.errors import InvalidArgumentError, UnsupportedError, describe
from dcn_deploy.runtime.engine_metadata import Range, numpy_dtype
from dcn_deploy.runtime.runner import TensorSpec
from dcn_deploy.runtime.tensorrt_api import DTYPES

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class EngineTensor:
    """One input or output of an engine.

    Attributes:
        name: its name.
        dtype: NumPy dtype (``ml_dtypes.bfloat16`` for bfloat16).
        shape: extents, -1 for dynamic ones.
        is_input: whether it is an input.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    is_input: bool


def tensors_of(trt: Any, engine: Any) -> tuple[EngineTensor, ...]:
    """Return the inputs and outputs of an engine, in its order.

    Args:
        trt: the package.
        engine: an ``ICudaEngine``.

    Raises:
        UnsupportedError: for what no NumPy array can hold, or what the engine wants on the host or in blocks.
    """
    tensors = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        what = f"{'input' if is_input else 'output'} '{name}' of the engine"
        if engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
            raise UnsupportedError(
                describe(
                    what,
                    expected="data on the GPU",
                    actual="a shape tensor, whose values TensorRT reads on the host",
                    remedy="Export the network with that value as a constant.",
                )
            )
        layout = engine.get_tensor_format(name, 0)
        if layout != trt.TensorFormat.LINEAR:
            raise UnsupportedError(
                describe(
                    f"format of {what}",
                    expected="LINEAR",
                    actual=layout.name,
                    remedy="Build the engine without allowed_formats for its inputs and outputs.",
                )
            )
        dtype = _dtype(engine.get_tensor_dtype(name).name, what)
        tensors.append(EngineTensor(name, dtype, tuple(engine.get_tensor_shape(name)), is_input))
    return tuple(tensors)


def _dtype(name: str, what: str) -> np.dtype[Any]:
    if name not in DTYPES:
        raise UnsupportedError(
            describe(
                f"element type of {what}",
                expected=f"one of {', '.join(DTYPES)}",
                actual=name,
                remedy="End the network with a Cast to one of these.",
            )
        )
    return numpy_dtype(DTYPES[name])


def specs_of(
    tensors: Sequence[EngineTensor],
    recorded: Sequence[TensorSpec],
    *,
    inputs: bool,
    profiles: Sequence[Mapping[str, Range]],
) -> tuple[TensorSpec, ...]:
    """Return inputs or outputs as specs, with the names of dynamic axes and the order that the sidecar recorded.

    Args:
        tensors: of the engine, which settles types and extents.
        recorded: of its sidecar; empty if it has none.
        inputs: whether inputs or outputs are wanted.
        profiles: those of the engine. The optimal shapes of the first become the inputs' examples.
    """
    best = {name: shapes[1] for name, shapes in (profiles[0] if profiles else {}).items()}
    known = {spec.name: spec for spec in recorded}
    order = {spec.name: place for place, spec in enumerate(recorded)}
    found = [tensor for tensor in tensors if tensor.is_input == inputs]
    specs = []
    for tensor in sorted(found, key=lambda tensor: order.get(tensor.name, len(order))):
        twin = known.get(tensor.name)
        names: Sequence[Any] = twin.shape if twin is not None and twin.shape is not None else ()
        if len(names) != len(tensor.shape):
            names = (None,) * len(tensor.shape)
        shape = tuple(
            extent if extent >= 0 else name if isinstance(name, str) else None
            for extent, name in zip(tensor.shape, names, strict=True)
        )
        boxes = None if twin is None else twin.boxes
        specs.append(TensorSpec(tensor.name, tensor.dtype, shape, boxes, best.get(tensor.name)))
    return tuple(specs)


def profiles_of(engine: Any, tensors: Sequence[EngineTensor]) -> tuple[Mapping[str, Range], ...]:
    """Return for each optimisation profile the range of each input with dynamic extents."""
    dynamic = [tensor.name for tensor in tensors if tensor.is_input and -1 in tensor.shape]
    profiles = []
    for index in range(engine.num_optimization_profiles):
        profile: dict[str, Range] = {}
        for name in dynamic:
            low, best, high = (tuple(shape) for shape in engine.get_tensor_profile_shape(name, index))
            profile[name] = (low, best, high)
        profiles.append(profile)
    return tuple(profiles)


def choose_profile(profiles: Sequence[Mapping[str, Range]], shapes: Mapping[str, Sequence[int]]) -> int:
    """Return the index of the profile to run inputs of these shapes with.

    Of several that hold them, the one whose optimal shapes are nearest, since that is what it was tuned for.

    Raises:
        InvalidArgumentError: if none holds them; the message lists the ranges of all.
    """
    fitting = [index for index, profile in enumerate(profiles) if _holds(profile, shapes)]
    if fitting:
        return min(fitting, key=lambda index: _distance(profiles[index], shapes))
    dynamic = profiles[0] if profiles else {}
    ranges = "; ".join(f"profile {index}: {_text(profile)}" for index, profile in enumerate(profiles))
    raise InvalidArgumentError(
        describe(
            "shapes of the inputs",
            expected=f"those of one of the engine's profiles ({ranges})",
            actual=", ".join(f"{name} {_extents(shapes[name])}" for name in dynamic),
            remedy="Build the engine with a profile that holds them: dcn-deploy build --min-shape, --opt-shape and "
            "--max-shape.",
        )
    )


def _holds(profile: Mapping[str, Range], shapes: Mapping[str, Sequence[int]]) -> bool:
    return all(
        low <= extent <= high
        for name, (lows, _, highs) in profile.items()
        for low, extent, high in zip(lows, shapes[name], highs, strict=True)
    )


def _distance(profile: Mapping[str, Range], shapes: Mapping[str, Sequence[int]]) -> float:
    # As ratios: from 8 to 16 is as far as from 1 to 2. An extent may be 0.
    return sum(
        abs(math.log(max(extent, 0.5) / max(best, 0.5)))
        for name, (_, bests, _) in profile.items()
        for best, extent in zip(bests, shapes[name], strict=True)
    )


def _text(profile: Mapping[str, Range]) -> str:
    return ", ".join(f"{name} {_extents(low)} to {_extents(high)}" for name, (low, _, high) in profile.items())


def _extents(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape)) or "a scalar"
