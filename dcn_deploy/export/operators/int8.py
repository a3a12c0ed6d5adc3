"""Nodes whose features and weights are int8: what makes them well-formed, and the type of their output.

The scales are attributes of the node; see :mod:`dcn_deploy.export.quantisation`, which makes such nodes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from dcn_deploy.export.operators.base import NodeView, Problem

#: Why such a node has no other form than ``plugin``, with what to do about it.
OBSTACLE = (
    "its features are int8. Write it with QuantizeLinear and DequantizeLinear first (dcn-deploy convert --int8 qdq)."
)

_FLOATING = ("float32", "float16", "bfloat16")


def is_quantised(view: NodeView) -> bool:
    """Whether the node has a scale: then its features are int8."""
    return any(view.attributes.get(attribute.name) is not None for attribute in view.schema.quantisation)


def output_dtype(view: NodeView) -> str:
    """Return the element type of Y."""
    return "float32" if view.attributes.get("y_scale") is None else "int8"


def dtype_problems(view: NodeView) -> Iterator[Problem]:
    """Yield every input that has not the element type of an int8 node's."""
    allowed = {"X": ("int8",), "W": ("int8",), "B": ("float32",), "offset": _FLOATING, "mask": _FLOATING}
    for name in view.tensors:
        dtype = view.dtypes.get(name)
        if dtype is not None and dtype not in allowed[name]:
            yield Problem(f"element type of {name}, beside int8 scales", f"one of {', '.join(allowed[name])}", dtype)


def problems(view: NodeView) -> Iterator[Problem]:
    """Yield what is wrong with the scales."""
    for name in ("x_scale", "weight_scale"):
        if view.attributes.get(name) is None:
            given = ", ".join(a.name for a in view.schema.quantisation if view.attributes.get(a.name) is not None)
            yield Problem(f"attribute {name}", f"a scale beside {given}", "nothing")
            return
    weight_scale = view.attributes["weight_scale"]
    scales = {"x_scale": [view.attributes["x_scale"]], "weight_scale": weight_scale}
    if view.attributes.get("y_scale") is not None:
        scales["y_scale"] = [view.attributes["y_scale"]]
    for name, values in scales.items():
        for value in values:
            if not (math.isfinite(value) and value > 0):
                yield Problem(f"attribute {name}", "positive, finite numbers", str(value))
                return
    channels = view.dims("W", 4)[0]
    allowed = {1, channels} if isinstance(channels, int) else {1, len(weight_scale) or 1}
    if len(weight_scale) not in allowed:
        yield Problem(
            "attribute weight_scale",
            "1 number" if channels in (1, None) else f"1 number, or one for each of the {channels} output channels",
            str(len(weight_scale)),
        )
