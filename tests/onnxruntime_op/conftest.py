"""Models of one node of this package's domain, right and wrong ones, for ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

ModelMaker = Callable[..., Any]

#: Name of the node: every refusal must contain it.
NODE = "backbone.dcn"


@pytest.fixture(scope="session")
def make_model() -> ModelMaker:
    """``make_model(case, shapes={}, dtypes={}, attributes={}, constants={}, ...)``: a model of one node.

    Args of the function:
        case: a ``cases.Case``; everything else changes what follows from it.
        shapes: shape of a graph input by name: numbers, symbols and None; None itself is an unknown rank.
        dtypes: NumPy dtype of a tensor by name ("X", "W", "offset", "B", "mask"); float32 otherwise.
        attributes: replaces those of the case; None leaves one out.
        constants: arrays that are initialisers instead of graph inputs.
        inputs: the node's input names; those that are not empty become graph inputs or initialisers.
        output: (dtype, shape) of Y as declared; None declares nothing.
        name: the node's name.
    """

    def make(case: Any, *, inputs: Sequence[str] | None = None, **changes: Any) -> Any:
        shapes = {
            "X": case.x_shape,
            "W": case.weight_shape,
            "offset": case.offset_shape,
            "B": case.bias_shape,
            "mask": case.mask_shape,
        }
        if inputs is None:
            inputs = _up_to_the_last(["X", "W", "offset", "B" if case.bias else "", "mask" if case.mask else ""])
        return _one_node("DeformConv2d", case, inputs, shapes, **changes)

    return make


@pytest.fixture(scope="session")
def make_roi_model() -> ModelMaker:
    """As ``make_model``, for a ``cases.RoiCase``: the tensors are called X, rois, offset and mask."""

    def make(case: Any, *, inputs: Sequence[str] | None = None, **changes: Any) -> Any:
        shapes = {"X": case.x_shape, "rois": case.rois_shape, "offset": case.offset_shape, "mask": case.mask_shape}
        if inputs is None:
            inputs = _up_to_the_last(["X", "rois", "offset" if case.offset else "", "mask" if case.mask else ""])
        return _one_node("DeformRoIPool2d", case, inputs, shapes, **changes)

    return make


def _up_to_the_last(inputs: Sequence[str]) -> list[str]:
    """Input names without the empty ones at the end."""
    return list(inputs[: max(i for i, name in enumerate(inputs, 1) if name)])


def _one_node(
    op_type: str,
    case: Any,
    inputs: Sequence[str],
    of_case: Mapping[str, Any],
    *,
    shapes: Mapping[str, Any] | None = None,
    dtypes: Mapping[str, Any] | None = None,
    attributes: Mapping[str, Any] | None = None,
    constants: Mapping[str, Any] | None = None,
    output: tuple[Any, Any] | None = None,
    name: str = NODE,
) -> Any:
    """A model of one node; see ``make_model``. ``of_case``: the shapes that the case gives."""
    import numpy as np
    from onnx import TensorProto, ValueInfoProto, helper

    all_shapes = {**of_case, **(shapes or {})}
    wanted = {**case.onnx_attributes, **(attributes or {})}
    node = helper.make_node(
        op_type,
        list(inputs),
        ["Y"],
        name=name,
        domain="dcn_deploy",
        **{key: value for key, value in wanted.items() if value is not None},
    )

    def element(dtype: Any) -> int:
        return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    constants = constants or {}
    declared = [
        helper.make_tensor_value_info(key, element((dtypes or {}).get(key, np.float32)), all_shapes[key])
        for key in inputs
        if key and key not in constants
    ]
    # Written by hand, since onnx.numpy_helper has no way for every version of ml_dtypes.
    stored = [
        TensorProto(name=key, data_type=element(array.dtype), dims=array.shape, raw_data=array.tobytes())
        for key, array in constants.items()
    ]
    y = ValueInfoProto(name="Y")
    if output is not None:
        y = helper.make_tensor_value_info("Y", element(output[0]), output[1])
    graph = helper.make_graph([node], "one_node", declared, [y], stored)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("dcn_deploy", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def _assert_refusal(attempt: Callable[[], Any], op_type: str, texts: Sequence[str]) -> str:
    with pytest.raises(Exception, match=f"{op_type} node") as error:
        attempt()
    message = str(error.value)
    for text in (f"{op_type} node '{NODE}': ", *texts):
        assert text in message
    return message


@pytest.fixture
def refused(make_session: Any) -> Callable[..., str]:
    """``refused(model, *texts)``: no session is made, and the message has the node's name and each text."""

    def check(model: Any, *texts: str, op_type: str = "DeformConv2d") -> str:
        return _assert_refusal(lambda: make_session(model), op_type, texts)

    return check


@pytest.fixture
def refused_in_run() -> Callable[..., str]:
    """``refused_in_run(session, feed, *texts)``: a run fails with the node's name and each text."""

    def check(session: Any, feed: Mapping[str, Any], *texts: str, op_type: str = "DeformConv2d") -> str:
        return _assert_refusal(lambda: session.run(None, dict(feed)), op_type, texts)

    return check
