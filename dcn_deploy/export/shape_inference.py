"""Element types and shapes of every value, those of deformable nodes included."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from dcn_deploy.export import model_files, onnx_schema

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

#: Bytes up to which a constant may be an extent or an axis, whose value the inference looks at.
_SMALL = 1024


def infer_shapes(model: onnx.ModelProto | str | os.PathLike[str]) -> onnx.ModelProto:
    """Return a copy of a model with types and shapes inferred through deformable nodes too.

    The output of a deformable convolution has N of X, M of W, and Ho, Wo from X and the attributes; where X is
    dynamic, the names that the offset has there. That of a RoI pooling has R of rois, and its other extents from the
    attributes and C.

    Args:
        model: the model, or the path of one. It is not changed.

    Raises:
        InvalidModelError: if the file cannot be read.
    """
    loaded = model_files.load(model)
    infer(loaded)
    return model_files.to_proto(loaded)


def infer(model: ir.Model) -> None:
    """Infer types and shapes in place."""
    from onnx_ir.passes.common import ShapeInferencePass

    onnx_schema.register()
    _type_sequences(model)
    # Not strict: an operator unknown to the onnx package ends the inference only behind itself.
    ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)


def _type_sequences(model: ir.Model) -> None:
    """Give values that are no tensors their types: the pass of onnx_ir would write the type of a tensor for them.

    It keeps the kind of a type that is there, and replaces the element type in it.
    """
    import onnx
    import onnx_ir as ir

    if not any(_may_hold_no_tensor(value) for value in _values(model)):
        return
    proto = ir.to_proto(model)
    inputs = {value.name for value in proto.graph.input}
    for tensor in [tensor for tensor in proto.graph.initializer if len(tensor.raw_data) > _SMALL]:
        # Weights can be beyond what protobuf serialises, and say nothing about types but their own.
        if tensor.name not in inputs:
            proto.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        proto.graph.initializer.remove(tensor)
    inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    for graph, with_types in zip(model.graphs(), ir.from_proto(inferred).graphs(), strict=True):
        known = ir.convenience.create_value_mapping(with_types)
        for name, value in ir.convenience.create_value_mapping(graph).items():
            found = known[name].type if name in known else None
            if value.type is None and found is not None and not isinstance(found, ir.TensorType):
                value.type = found


def _values(model: ir.Model) -> Iterator[ir.Value]:
    for graph in model.graphs():
        yield from graph.inputs
        for node in graph:
            yield from node.outputs


def _may_hold_no_tensor(value: ir.Value) -> bool:
    import onnx_ir as ir

    if value.type is not None:
        return not isinstance(value.type, ir.TensorType)
    node = value.producer()
    return node is not None and node.domain == "" and ("Sequence" in node.op_type or "Optional" in node.op_type)
