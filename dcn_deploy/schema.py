"""The table of operators: one row fixes every name, input and attribute of an operator.

Whatever needs such a fact (PyTorch operator, export, shape inference, conversion, lint, tests) reads it
here. Importing this module needs nothing but the standard library.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: ONNX domain of this project's operators.
DOMAIN = "dcn_deploy"
#: Version of that domain: raised only when an operator changes its meaning.
DOMAIN_VERSION = 1


@dataclass(frozen=True)
class Input:
    """One tensor input of a node."""

    name: str
    optional: bool = False


@dataclass(frozen=True)
class Attribute:
    """One attribute of a node.

    ``length`` is the number of values of an ``ints`` attribute. ``default`` is None where the value
    follows from a tensor's shape when the attribute is absent, where absence has a meaning of its own, or where it
    is ``required``.
    ``choices`` are the values that a ``string`` attribute may have; empty where any will do. ``maximum`` is the largest
    value of an ``int`` attribute that anybody can mean.
    """

    name: str
    kind: Literal["int", "ints", "float", "floats", "string"]
    default: int | float | str | tuple[int, ...] | None
    length: int | None = None
    required: bool = False
    choices: tuple[str, ...] = ()
    maximum: int | None = None


@dataclass(frozen=True)
class StandardOperator:
    """The operator of the ONNX standard that means the same."""

    op_type: str
    since_opset: int
    #: first opset in which the standard operator takes bfloat16
    bfloat16_since_opset: int


@dataclass(frozen=True)
class OperatorSchema:
    """Everything that is fixed about one operator."""

    op_type: str
    torch_name: str
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]
    attributes: tuple[Attribute, ...]
    #: None where the ONNX standard has no such operator
    standard: StandardOperator | None
    #: attributes of a node with int8 features, absent from all others; neither the standard's operator nor PyTorch's
    #: has them
    quantisation: tuple[Attribute, ...] = ()
    domain: str = DOMAIN
    version: int = DOMAIN_VERSION
    plugin_version: str = "1"

    @property
    def min_inputs(self) -> int:
        """Number of inputs up to the last required one."""
        return max(i for i, x in enumerate(self.inputs, 1) if not x.optional)

    def attribute(self, name: str) -> Attribute:
        """Return the attribute called ``name``; KeyError if the operator has none of that name."""
        for attribute in (*self.attributes, *self.quantisation):
            if attribute.name == name:
                return attribute
        raise KeyError(name)


DEFORM_CONV2D = OperatorSchema(
    op_type="DeformConv2d",
    torch_name="dcn_deploy::deform_conv2d",
    inputs=(
        Input("X"),
        Input("W"),
        Input("offset"),
        Input("B", optional=True),
        Input("mask", optional=True),
    ),
    outputs=("Y",),
    attributes=(
        Attribute("dilations", "ints", (1, 1), length=2),
        Attribute("group", "int", 1),
        Attribute("kernel_shape", "ints", None, length=2),
        Attribute("offset_group", "int", 1),
        Attribute("pads", "ints", (0, 0, 0, 0), length=4),
        Attribute("strides", "ints", (1, 1), length=2),
    ),
    standard=StandardOperator("DeformConv", since_opset=19, bfloat16_since_opset=22),
    quantisation=(
        # one for all of W, or one for each of its M output channels
        Attribute("weight_scale", "floats", None),
        Attribute("x_scale", "float", None),
        # absent: Y is float32
        Attribute("y_scale", "float", None),
    ),
)

#: Samples of a bin along an axis: far more than any bin has pixels.
_MAX_SAMPLES = 1 << 16

DEFORM_ROI_POOL2D = OperatorSchema(
    op_type="DeformRoIPool2d",
    torch_name="dcn_deploy::deform_roi_pool",
    inputs=(
        Input("X"),
        Input("rois"),
        Input("offset", optional=True),
        Input("mask", optional=True),
    ),
    outputs=("Y",),
    attributes=(
        Attribute("gamma", "float", 0.1),
        Attribute("group_size", "int", 1),
        # 0: C / group_size²
        Attribute("output_channels", "int", 0),
        Attribute("output_size", "ints", None, length=2, required=True),
        # 0: the extent of offset or mask
        Attribute("part_size", "int", 0),
        Attribute("sample_per_part", "int", 4, maximum=_MAX_SAMPLES),
        # 0: ceil(RoI extent / pooled extent) along each axis
        Attribute("sampling_ratio", "int", 0, maximum=_MAX_SAMPLES),
        Attribute("spatial_scale", "float", 1.0),
        Attribute("variant", "string", "aligned", choices=("aligned", "psroi")),
    ),
    standard=None,
)

#: Every operator of the project, by ONNX op_type.
OPERATORS = {schema.op_type: schema for schema in (DEFORM_CONV2D, DEFORM_ROI_POOL2D)}
#: The same rows, by the op_type of their ONNX standard twin.
BY_STANDARD_OP_TYPE = {schema.standard.op_type: schema for schema in OPERATORS.values() if schema.standard}
#: The same rows, by torch operator name.
BY_TORCH_NAME = {schema.torch_name: schema for schema in OPERATORS.values()}
