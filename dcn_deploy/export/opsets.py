"""Versions of the ONNX standard: which one a form needs, and raising a model to it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from dcn_deploy.errors import UnsupportedError
from dcn_deploy.export.operators import OPERATOR_EXPORTS
from dcn_deploy.export.operators.base import NodeView

if TYPE_CHECKING:
    import onnx_ir as ir

#: First opset whose Conv (and every other operator that networks are made of) takes bfloat16.
BFLOAT16_OPSET = 22
#: Lowest version that torch's exporter writes. Every runtime of the last years reads it.
EXPORT_OPSET = 18
#: Lowest version from which onnxscript's converter starts; below it the one in the onnx package is used.
_ONNXSCRIPT_SINCE = 18


def required(form: str, views: Iterable[NodeView]) -> int:
    """Return the lowest opset in which nodes can be written in a form; 1 if any will do."""
    needed = 1
    for view in views:
        operator = OPERATOR_EXPORTS[view.schema.op_type]
        bfloat16 = view.dtypes.get(operator.feature_inputs[0]) == "bfloat16"
        if form == "standard" and view.schema.standard is not None:
            # Mixed types are computed in float32 between casts.
            standard = view.schema.standard
            mixed = any(view.dtypes.get(name) == "float32" for name in operator.coordinate_inputs)
            since = standard.bfloat16_since_opset if bfloat16 and not mixed else standard.since_opset
            needed = max(needed, since)
        elif form == "decomposed":
            since = operator.decomposed_bfloat16_since_opset if bfloat16 else operator.decomposed_since_opset
            needed = max(needed, since)
    return needed


def raise_to(model: ir.Model, target: int) -> ir.Model:
    """Return the model with its default opset at least at ``target``; its nodes are converted if need be.

    Raises:
        UnsupportedError: if the converters cannot do it.
    """
    current = model.opset_imports.get("")
    if current is None:
        model.opset_imports[""] = target
        return model
    if current >= target:
        return model
    try:
        if current < _ONNXSCRIPT_SINCE:
            model = _raise_with_onnx(model, min(target, _ONNXSCRIPT_SINCE))
        if target > _ONNXSCRIPT_SINCE:
            from onnxscript import version_converter

            version_converter.convert_version(model, target, fallback=True)
    except Exception as error:  # each converter has its own errors
        raise UnsupportedError(_message(current, target, f"{type(error).__name__}: {error}")) from error
    if model.opset_imports.get("") != target:
        raise UnsupportedError(_message(current, target, "the converter left it as it was"))
    return model


def _raise_with_onnx(model: ir.Model, target: int) -> ir.Model:
    import onnx
    import onnx_ir as ir

    return ir.from_proto(onnx.version_converter.convert_version(ir.to_proto(model), target))


def _message(current: int, target: int, reason: str) -> str:
    return (
        f"The wanted form needs opset {target}, the model has opset {current}, and raising it failed ({reason}). "
        f"Export the network again with opset_version={target} or more."
    )
