"""Example inputs for an export, from shapes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dcn_deploy._lazy import require
from dcn_deploy.boxes import Boxes, by_name
from dcn_deploy.errors import InvalidArgumentError, describe

if TYPE_CHECKING:
    import torch


def example_inputs(
    model: torch.nn.Module,
    shapes: Mapping[str, Sequence[int]],
    *,
    inputs: Sequence[torch.Tensor] | None = None,
    names: Sequence[str] | None = None,
    boxes: Mapping[str, Boxes] | None = None,
) -> tuple[tuple[torch.Tensor, ...], tuple[str, ...]]:
    """Return example inputs and their names.

    Args:
        model: the network.
        shapes: wanted shapes by name: names in ``names``, or arguments of ``forward``; names that are neither
            are given to the inputs in order.
        inputs: the network's own example inputs, of which ``shapes`` replaces some; None if it has none.
        names: their names.
        boxes: the inputs that hold regions of interest; None: one called ``rois``, if it has five columns.

    Returns:
        Tensors (random numbers from a fixed seed where a shape was given) and one name for each. Regions of interest
        lie inside the images of the resulting shape: they are drawn anew where either shape was given.

    Raises:
        InvalidArgumentError: if no shape is given for an input that has no example, a name is unknown, or regions of
            interest have no room for their columns.
    """
    require("torch", "dcn_deploy.export")
    import numpy as np
    import torch

    arguments = [
        name
        for name, parameter in inspect.signature(model.forward).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    generator = torch.Generator().manual_seed(0)

    def random(name: str, extents: Mapping[str, Sequence[int]], dtype: torch.dtype) -> torch.Tensor:
        shape = tuple(extents[name])
        inside = (by_name(extents) if boxes is None else boxes).get(name)
        if inside is None:
            return torch.randn(shape, generator=generator).to(dtype)
        inside.check(name, shape)
        drawn = inside.draw(np.random.default_rng(0), shape, extents, integer=not dtype.is_floating_point)
        return torch.from_numpy(drawn).to(dtype)

    if inputs is not None:
        own_names = list(names) if names is not None else arguments[: len(inputs)]
        unknown = [name for name in shapes if name not in own_names]
        if unknown:
            raise InvalidArgumentError(
                describe("name of an input", expected=f"one of {', '.join(own_names)}", actual=repr(unknown[0]))
            )
        own = dict(zip(own_names, inputs, strict=True))
        extents = {name: tuple(shapes.get(name, tensor.shape)) for name, tensor in own.items()}
        regions = by_name(extents) if boxes is None else boxes
        before = {name: tuple(tensor.shape) for name, tensor in own.items()}
        moved = {name for name, region in regions.items() if region.frame(before) != region.frame(extents)}
        tensors = [
            random(name, extents, tensor.dtype) if name in shapes or name in moved else tensor
            for name, tensor in own.items()
        ]
        return tuple(tensors), tuple(own_names)

    if not shapes:
        raise InvalidArgumentError(
            describe(
                "example inputs",
                expected=f"the shape of each input ({', '.join(arguments)})",
                actual="none, and the network brings no examples",
                remedy=f"Give --shape {arguments[0] if arguments else 'input'}=1,3,224,224.",
            )
        )
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    by_argument = all(name in arguments for name in shapes)
    order = [name for name in arguments if name in shapes] if by_argument else list(shapes)
    if by_argument and order != arguments[: len(order)]:
        missing = next(name for name in arguments if name not in shapes)
        raise InvalidArgumentError(
            describe("example inputs", expected=f"a shape for '{missing}'", actual=", ".join(order))
        )
    return tuple(random(name, {name: shapes[name] for name in order}, dtype) for name in order), tuple(order)
