"""Every floating-point type in a model becomes float64, wherever it is written."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from dcn_deploy import runtime
from dcn_deploy.runtime.float64 import to_float64

F32, F16, BF16, F64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE
NARROW = {F32: np.float32, F16: np.float16, BF16: ml_dtypes.bfloat16}


def outputs_of(model: Any, feed: dict[str, Any] | None = None) -> dict[str, Any]:
    with runtime.create("reference", model) as runner:
        return runner.infer(feed or {})


@pytest.mark.parametrize("element", list(NARROW))
def test_types_and_weights(element: int, make_model: Any) -> None:
    weight = np.array([0.1, 1e30 if element != F16 else 1e4], NARROW[element])
    model = make_model(
        [helper.make_node("Add", ["x", "w"], ["y"])], [("x", element, [2])], [("y", element, [2])], {"w": weight}
    )
    model.graph.value_info.append(helper.make_tensor_value_info("y", element, [2]))
    before = model.SerializeToString()
    wide = to_float64(model)
    assert model.SerializeToString() == before
    kinds = [
        value.type.tensor_type.elem_type for value in (*wide.graph.input, *wide.graph.output, *wide.graph.value_info)
    ]
    assert kinds == [F64] * 3
    assert wide.graph.initializer[0].name == "w"
    # The weight is the file's, not a more exact one.
    np.testing.assert_array_equal(numpy_helper.to_array(wide.graph.initializer[0]), weight.astype(np.float64))


def node(op_type: str, inputs: list[str], **attributes: Any) -> Any:
    return helper.make_node(op_type, inputs, ["y"], **attributes)


@pytest.mark.parametrize(
    ("made", "inputs"),
    [
        (node("Cast", ["x"], to=F16), [("x", F32, [2, 2])]),
        (node("Cast", ["x"], to=BF16), [("x", F32, [2, 2])]),
        (node("Cast", ["i"], to=F32), [("i", TensorProto.INT64, [2])]),
        (node("Constant", [], value_float=0.5), []),
        (node("Constant", [], value_floats=[0.5, 0.25]), []),
        (node("Constant", [], value=numpy_helper.from_array(np.ones(2, np.float16))), []),
        (node("ConstantOfShape", ["i"]), [("i", TensorProto.INT64, [2])]),
        (
            node("ConstantOfShape", ["i"], value=numpy_helper.from_array(np.ones(1, np.float32))),
            [("i", TensorProto.INT64, [2])],
        ),
        (node("EyeLike", ["x"]), [("x", F32, [2, 2])]),
        (node("EyeLike", ["x"], dtype=F16), [("x", F32, [2, 2])]),
        (node("RandomNormal", [], shape=[2, 2]), []),
        (node("RandomUniform", [], shape=[2, 2], dtype=F16), []),
        (node("RandomNormalLike", ["x"]), [("x", F32, [2, 2])]),
        (node("RandomUniformLike", ["x"], dtype=F32), [("x", F32, [2, 2])]),
    ],
    ids=lambda value: (
        f"{value.op_type}-{','.join(a.name for a in value.attribute)}" if hasattr(value, "op_type") else ""
    ),
)
def test_operators_that_name_a_type(made: Any, inputs: list[Any], make_model: Any) -> None:
    model = make_model([made], inputs, [("y", F32, None)])
    feed = {
        name: np.ones(shape, np.int64 if element == TensorProto.INT64 else np.float64)
        for name, element, shape in inputs
    }
    assert outputs_of(model, feed)["y"].dtype == np.float64


def test_integers_and_booleans_stay(make_model: Any) -> None:
    model = make_model(
        [
            helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT32),
            helper.make_node("Greater", ["x", "x"], ["b"]),
            helper.make_node("ArgMax", ["x"], ["a"]),
        ],
        [("x", F32, [1, 3])],
        [("i", TensorProto.INT32, [1, 3]), ("b", TensorProto.BOOL, [1, 3]), ("a", TensorProto.INT64, [1, 3])],
    )
    result = outputs_of(model, {"x": np.array([[0.5, 2.5, 1.5]], np.float32)})
    assert [result[name].dtype for name in "iba"] == [np.int32, np.bool_, np.int64]
    assert result["i"].tolist() == [[0, 2, 1]]


def test_subgraphs_and_functions(make_model: Any) -> None:
    then = helper.make_graph(
        [helper.make_node("Constant", [], ["t"], value=numpy_helper.from_array(np.array([0.1], np.float32)))],
        "then",
        [],
        [helper.make_tensor_value_info("t", F32, [1])],
    )
    other = helper.make_graph(
        [helper.make_node("Cast", ["c"], ["e"], to=F16)], "else", [], [helper.make_tensor_value_info("e", F16, [1])]
    )
    half = helper.make_function(
        "local",
        "Half",
        ["v"],
        ["h"],
        [helper.make_node("Constant", [], ["k"], value_float=0.5), helper.make_node("Mul", ["v", "k"], ["h"])],
        [helper.make_opsetid("", 20)],
    )
    model = make_model(
        [
            helper.make_node("If", ["c"], ["x"], then_branch=then, else_branch=other),
            helper.make_node("Half", ["x"], ["y"], domain="local"),
        ],
        [("c", TensorProto.BOOL, [])],
        [("y", F32, None)],
        functions=[half],
    )
    for condition, expected in ((True, float(np.float32(0.1)) / 2), (False, 0.0)):
        result = outputs_of(model, {"c": np.array(condition)})["y"]
        assert result.dtype == np.float64
        assert float(result.reshape(())) == expected
