"""Deformable nodes of other projects, read as this project's own: one row a (domain, op_type).

mmcv and mmdeploy put the tensors of a convolution in another order and name the attributes after mmcv's Python
arguments. Facts: the ``symbolic`` methods in mmcv/ops.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dcn_deploy.errors import InvalidModelError, describe
from dcn_deploy.schema import DEFORM_CONV2D, DEFORM_ROI_POOL2D, OperatorSchema


@dataclass(frozen=True)
class ForeignOperator:
    """How another project's node is read.

    Attributes:
        schema: the operator of this project that computes the same.
        inputs: for each position of the foreign node, the name of the input in ``schema``.
        attributes: gives the attributes of ``schema`` from the node's label and its own attributes.
    """

    schema: OperatorSchema
    inputs: tuple[str, ...]
    attributes: Callable[[str, Mapping[str, Any]], dict[str, Any]]


def _pads(label: str, padding: Sequence[int]) -> list[int]:
    """Return [top, left, bottom, right].

    mmcv pads symmetrically. Its exporters write [h, w], or each value twice: [h, h, w, w]; a file that was
    mended by hand may follow ONNX: [h, w, h, w].
    """
    if len(padding) == 2:
        h, w = padding
    elif len(padding) == 4 and padding[0] == padding[1] and padding[2] == padding[3]:
        h, w = padding[0], padding[2]
    elif len(padding) == 4 and padding[0] == padding[2] and padding[1] == padding[3]:
        h, w = padding[0], padding[1]
    else:
        raise InvalidModelError(
            describe(
                f"Node '{label}', attribute padding",
                expected="[h, w] or [h, h, w, w]",
                actual=str(list(padding)),
                remedy="Write the node with domain 'dcn_deploy' and pads = [top, left, bottom, right] instead.",
            )
        )
    return [h, w, h, w]


def _mmcv_attributes(label: str, attributes: Mapping[str, Any]) -> dict[str, Any]:
    pair = {name: attributes.get(name, default) for name, default in (("stride", (1, 1)), ("dilation", (1, 1)))}
    for name, value in pair.items():
        if len(value) != 2:
            raise InvalidModelError(
                describe(f"Node '{label}', attribute {name}", expected="[h, w]", actual=str(list(value)))
            )
    return {
        "dilations": list(pair["dilation"]),
        "group": attributes.get("groups", 1),
        "offset_group": attributes.get("deform_groups", 1),
        "pads": _pads(label, attributes.get("padding", (0, 0))),
        "strides": list(pair["stride"]),
    }


def _mmcv_roi_attributes(label: str, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of the variant ``aligned``; mmcv writes ``sampling_ratio`` as a float."""
    for name in ("pooled_height", "pooled_width"):
        if not isinstance(attributes.get(name), int):
            found = "nothing" if name not in attributes else repr(attributes[name])
            raise InvalidModelError(describe(f"Node '{label}', attribute {name}", expected="an int", actual=found))
    ratio = attributes.get("sampling_ratio", 0)
    if not isinstance(ratio, (int, float)) or not float(ratio).is_integer():
        raise InvalidModelError(
            describe(f"Node '{label}', attribute sampling_ratio", expected="a whole number", actual=repr(ratio))
        )
    return {
        "gamma": float(attributes.get("gamma", 0.1)),
        "output_size": [attributes["pooled_height"], attributes["pooled_width"]],
        "sampling_ratio": int(ratio),
        "spatial_scale": float(attributes.get("spatial_scale", 1.0)),
        "variant": "aligned",
    }


_V1 = ForeignOperator(DEFORM_CONV2D, ("X", "offset", "W"), _mmcv_attributes)
_V2 = ForeignOperator(DEFORM_CONV2D, ("X", "offset", "mask", "W", "B"), _mmcv_attributes)

_ROI = ForeignOperator(DEFORM_ROI_POOL2D, ("X", "rois", "offset"), _mmcv_roi_attributes)

#: By (domain, op_type). mmcv's own exporter used its own domain before mmdeploy existed.
FOREIGN_OPERATORS = {
    (domain, op_type): row
    for domain in ("mmdeploy", "mmcv")
    for op_type, row in (
        ("MMCVDeformConv2d", _V1),
        ("MMCVModulatedDeformConv2d", _V2),
        ("MMCVDeformRoIPool", _ROI),
    )
}
