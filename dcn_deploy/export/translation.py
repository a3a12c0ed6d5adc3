"""How torch operators become nodes of the form ``plugin``: one row a torch operator."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dcn_deploy.errors import UnsupportedError, describe
from dcn_deploy.export import onnx_schema
from dcn_deploy.schema import DEFORM_CONV2D, DEFORM_ROI_POOL2D, DOMAIN, DOMAIN_VERSION, OperatorSchema

if TYPE_CHECKING:
    import onnx_ir as ir


def _node(schema: OperatorSchema, inputs: Sequence[ir.Value | None], attributes: Mapping[str, Any]) -> Any:
    """Record one node in the graph under construction and return its output."""
    import onnxscript

    opset = onnxscript.values.Opset(DOMAIN, DOMAIN_VERSION)
    return getattr(opset, schema.op_type)(*inputs, **attributes)


def _deform_conv2d(
    input: Any,
    weight: Any,
    offset: Any,
    bias: Any,
    mask: Any,
    stride: Sequence[int],
    pads: Sequence[int],
    dilation: Sequence[int],
    group: int,
    offset_group: int,
) -> Any:
    """``dcn_deploy::deform_conv2d``: the order of tensors is the node's."""
    attributes = {
        "dilations": list(dilation),
        "group": group,
        "kernel_shape": list(weight.shape[2:]),
        "offset_group": offset_group,
        "pads": list(pads),
        "strides": list(stride),
    }
    return _node(DEFORM_CONV2D, [input, weight, offset, bias, mask], attributes)


def _torchvision_deform_conv2d(
    input: Any,
    weight: Any,
    offset: Any,
    mask: Any,
    bias: Any,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    groups: int,
    offset_groups: int,
    use_mask: bool,
) -> Any:
    """``torchvision::deform_conv2d``: mask is a placeholder if ``use_mask`` is False."""
    return _deform_conv2d(
        input,
        weight,
        offset,
        bias,
        mask if use_mask else None,
        (stride_h, stride_w),
        (pad_h, pad_w, pad_h, pad_w),
        (dilation_h, dilation_w),
        groups,
        offset_groups,
    )


def _deform_roi_pool(
    input: Any,
    rois: Any,
    offset: Any,
    mask: Any,
    variant: str,
    output_size: Sequence[int],
    spatial_scale: float,
    gamma: float,
    sampling_ratio: int,
    sample_per_part: int,
    group_size: int,
    part_size: int,
    output_channels: int,
) -> Any:
    """``dcn_deploy::deform_roi_pool``: the node carries the attributes of its own variant only."""
    if not all(isinstance(extent, int) for extent in output_size):
        raise UnsupportedError(
            describe(
                "output_size of deform_roi_pool",
                expected="two fixed numbers",
                actual="a dynamic extent",
                remedy="It is an attribute of the node: give the numbers to the layer or the function.",
            )
        )
    attributes = {
        "gamma": gamma,
        "output_size": list(output_size),
        "spatial_scale": spatial_scale,
        "variant": variant,
    }
    if variant == "aligned":
        attributes["sampling_ratio"] = sampling_ratio
    else:
        attributes |= {
            "group_size": group_size,
            "output_channels": output_channels,
            "part_size": part_size,
            "sample_per_part": sample_per_part,
        }
    return _node(DEFORM_ROI_POOL2D, [input, rois, offset, mask], attributes)


#: By namespace and name of the torch operator. An operator that is not registered in this process is left out.
_TRANSLATIONS: dict[tuple[str, str], Callable[..., Any]] = {
    ("dcn_deploy", "deform_conv2d"): _deform_conv2d,
    ("dcn_deploy", "deform_roi_pool"): _deform_roi_pool,
    ("torchvision", "deform_conv2d"): _torchvision_deform_conv2d,
}


def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return the ``custom_translation_table`` for ``torch.onnx.export``."""
    import torch

    importlib.import_module("dcn_deploy.ops")  # registers the torch operators
    onnx_schema.register()
    table: dict[Callable[..., Any], Callable[..., Any]] = {}
    for (namespace, name), function in _TRANSLATIONS.items():
        operator = _operator(torch, namespace, name)
        if operator is not None:
            table[operator] = function
    return table


def _operator(torch: Any, namespace: str, name: str) -> Any:
    try:
        return getattr(getattr(torch.ops, namespace), name).default
    except (AttributeError, RuntimeError):
        return None


def drop_placeholder_biases(model: ir.Model, parameters: frozenset[str]) -> None:
    """Disconnect biases that are zeros made in the graph: torchvision makes one where the user gave none.

    Args:
        model: exported model; it is changed.
        parameters: names of the network's own parameters and buffers, which are never dropped.
    """
    import onnx_ir as ir

    from dcn_deploy.export.node_reading import schema_of

    position = [declared.name for declared in DEFORM_CONV2D.inputs].index("B")
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if schema_of(node) is not DEFORM_CONV2D or len(node.inputs) <= position:
            continue
        bias = node.inputs[position]
        tensor = None if bias is None else ir.convenience.get_const_tensor(bias)
        if bias is None or tensor is None or bias.name in parameters or tensor.numpy().any():
            continue
        if len(node.inputs) == position + 1:
            node.resize_inputs(position)
        else:
            node.replace_input_with(position, None)
        if not bias.uses() and bias.is_initializer() and not bias.is_graph_output():
            del model.graph.initializers[bias.name or ""]
