"""Versions of the ONNX standard: which one a form needs, and raising a model to it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from dcn_deploy.errors import UnsupportedError
from dcn_deploy.export import opset_changes
from dcn_deploy.export.operators import OPERATOR_EXPORTS
from dcn_deploy.export.operators.base import NodeView

if TYPE_CHECKING:
    import onnx_ir as ir

#: First opset whose Conv (and every other operator that networks are made of) takes bfloat16.
BFLOAT16_OPSET = 22
#: Lowest version that torch's exporter writes. Every runtime of the last years reads it.
EXPORT_OPSET = 18
#: Lowest version that is raised at all.
_OLDEST = 7
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

    What the network computes stays the same. Where the converters would change it, this project's rules take over
    (:mod:`dcn_deploy.export.opset_changes`), or the node is refused by name.

    Raises:
        UnsupportedError: if that cannot be done.
    """
    current = model.opset_imports.get("")
    if current is None:
        model.opset_imports[""] = target
        return model
    if current >= target:
        return model
    try:
        return _raised(model, current, target)
    except Exception as error:  # each converter has its own errors
        reason = str(error) if isinstance(error, UnsupportedError) else f"{type(error).__name__}: {error}"
        raise UnsupportedError(_message(current, target, reason)) from error


def _raised(model: ir.Model, current: int, target: int) -> ir.Model:
    from dcn_deploy.export.shape_inference import infer

    if current < _OLDEST:
        raise UnsupportedError(
            f"the rules of broadcasting, Dropout and BatchNormalization changed with opset {_OLDEST}, below which ONNX "
            "Runtime reads no file that the result could be compared with"
        )
    if model.functions:
        from onnx_ir.passes.common import InlinePass

        # The converter of the onnx package leaves functions out, that of onnxscript inlines them without their shapes.
        model = InlinePass()(model).model
    if opset_changes.needs_shapes(model, current, target):
        infer(model)
    opset_changes.check(model, current, target)
    for stop in (*(stop for stop in opset_changes.STOPS if current < stop < target), target):
        opset_changes.before(model, stop)
        model = _converted(model, stop)
        opset_changes.after(model, current, stop)
    return model


def _converted(model: ir.Model, target: int) -> ir.Model:
    """Return the model as the converters bring it to ``target``.

    Raises:
        UnsupportedError: if they leave something as it was.
    """
    if model.opset_imports[""] < _ONNXSCRIPT_SINCE:
        model = _raise_with_onnx(model, min(target, _ONNXSCRIPT_SINCE))
    if target > _ONNXSCRIPT_SINCE:
        from onnxscript import version_converter

        with _warnings_of("onnxscript.version_converter") as warnings:
            version_converter.convert_version(model, target, fallback=True)
        if warnings:
            raise UnsupportedError(f"the converter says: {'; '.join(warnings)}")
    if model.opset_imports.get("") != target:
        raise UnsupportedError("the converter left it as it was")
    return model


@contextlib.contextmanager
def _warnings_of(name: str) -> Iterator[list[str]]:
    """Collect what a logger and those below it warn of, in place of printing it."""
    logger, found = logging.getLogger(name), list[str]()

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    handler, propagate = Collector(logging.WARNING), logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield found
    finally:
        logger.propagate = propagate
        logger.removeHandler(handler)


def _raise_with_onnx(model: ir.Model, target: int) -> ir.Model:
    import onnx
    import onnx_ir as ir

    return ir.from_proto(onnx.version_converter.convert_version(ir.to_proto(model), target))


def _message(current: int, target: int, reason: str) -> str:
    return (
        f"The wanted form needs opset {target}, the model has opset {current}, and raising it failed ({reason}). "
        f"Export the network again with opset_version={target} or more."
    )
