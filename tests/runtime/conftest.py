"""Small ONNX models for the tests of the runners."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

ModelMaker = Callable[..., Any]


@pytest.fixture(scope="session")
def make_model() -> ModelMaker:
    """``make_model(nodes, inputs, outputs, initializers=(), opset=20, ir_version=10)``.

    ``inputs`` and ``outputs`` are tuples (name, ONNX element type, shape or None); ``initializers`` is a mapping
    from name to array.
    """
    import onnx
    from onnx import helper, numpy_helper

    def make(
        nodes: Sequence[Any],
        inputs: Sequence[tuple[str, int, Any]],
        outputs: Sequence[tuple[str, int, Any]],
        initializers: Any = (),
        opset: int = 20,
        ir_version: int = 10,
        functions: Sequence[Any] = (),
    ) -> onnx.ModelProto:
        graph = helper.make_graph(
            list(nodes),
            "test",
            [helper.make_tensor_value_info(*value) for value in inputs],
            [helper.make_tensor_value_info(*value) for value in outputs],
            [numpy_helper.from_array(array, name) for name, array in dict(initializers).items()],
        )
        domains = {node.domain for node in nodes if node.domain} | {function.domain for function in functions}
        imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in sorted(domains))]
        return helper.make_model(graph, opset_imports=imports, ir_version=ir_version, functions=functions)

    return make


@pytest.fixture
def make_deformable(make_model: ModelMaker, rng: Any) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """``make_deformable(op_type, domain, dtype)``: two nodes, unequal everything, and a feed that fits.

    Inputs x, offset, mask; the node "dcn" gives "conv", a Relu gives "y".
    """
    import numpy as np
    from onnx import helper

    def make(op_type: str = "DeformConv", domain: str = "", dtype: Any = np.float32) -> tuple[Any, dict[str, Any]]:
        dtype = np.dtype(dtype)
        element = helper.np_dtype_to_tensor_dtype(dtype)
        attributes = {
            "kernel_shape": [3, 2],
            "strides": [2, 1],
            "pads": [1, 0, 2, 1],
            "dilations": [1, 2],
            "group": 2,
            "offset_group": 4,
        }
        height, width = 4, 6  # (7 + 1 + 2 − 2 − 1)//2 + 1 and 7 + 0 + 1 − 2 − 1 + 1
        model = make_model(
            [
                helper.make_node(
                    op_type, ["x", "w", "offset", "b", "mask"], ["conv"], name="dcn", domain=domain, **attributes
                ),
                helper.make_node("Relu", ["conv"], ["y"], name="relu"),
            ],
            [
                ("x", element, ["n", 4, 7, 7]),
                ("offset", element, ["n", 48, height, width]),
                ("mask", element, ["n", 24, height, width]),
            ],
            [("y", element, ["n", 6, height, width])],
            {
                "w": rng.standard_normal((6, 2, 3, 2)).astype(dtype),
                "b": rng.standard_normal(6).astype(dtype),
            },
        )
        feed = {
            "x": rng.standard_normal((2, 4, 7, 7)).astype(dtype),
            "offset": (2 * rng.standard_normal((2, 48, height, width))).astype(dtype),
            "mask": rng.random((2, 24, height, width)).astype(dtype),
        }
        return model, feed

    return make


@pytest.fixture
def relative_error() -> Callable[[Any, Any], float]:
    """``relative_error(actual, reference)``: ‖actual − reference‖/‖reference‖ in float64."""
    import numpy as np

    def error(actual: Any, reference: Any) -> float:
        actual, reference = (np.asarray(array, dtype=np.float64) for array in (actual, reference))
        assert actual.shape == reference.shape
        return float(np.linalg.norm(actual - reference) / np.linalg.norm(reference))

    return error
