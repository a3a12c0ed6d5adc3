"""Networks of one deformable convolution between QuantizeLinear and DequantizeLinear, made by hand."""

from __future__ import annotations

from typing import Any

import cases
import numpy as np
import onnx
import peers
from onnx import helper, numpy_helper

LEFT_CASE = cases.Case("left", c=4, m=5, pad_top=1, pad_left=1, pad_bottom=1, pad_right=1)
X_SCALE, Y_SCALE = 0.03, 0.25


def weight_scales(case: cases.Case, per_channel: bool) -> cases.Array:
    count = case.m if per_channel else 1
    return np.linspace(0.01, 0.03, count, dtype=np.float32)


def qdq_model(
    case: cases.Case, rng: np.random.Generator, *, per_channel: bool = True, quantised_y: bool = True, **changes: Any
) -> tuple[onnx.ModelProto, dict[str, cases.Array]]:
    """Q → DQ before X, DQ behind constant int8 weights, and Q → DQ behind Y, with a feed for it.

    ``changes`` replace constants by name: x_scale, x_zero, w_scale, w_zero, y_scale, y_zero.
    """
    inputs = cases.make_inputs(case, rng)
    model = peers.model(case, form="plugin", opset=21)
    graph = model.graph
    scale = weight_scales(case, per_channel)
    constants = {
        "x_scale": np.float32(X_SCALE),
        "x_zero": np.int8(0),
        "w": rng.integers(-127, 128, case.weight_shape).astype(np.int8),
        "w_scale": scale if per_channel else scale[0],
        "w_zero": np.zeros(case.m, dtype=np.int8) if per_channel else np.int8(0),
        "y_scale": np.float32(Y_SCALE),
        "y_zero": np.int8(0),
        **changes,
    }
    for name, array in constants.items():
        graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    (convolution,) = graph.node
    convolution.name = "conv"
    convolution.input[0], convolution.input[1] = "x_float", "w_float"
    axis = {"axis": 0} if per_channel else {}
    before = [
        helper.make_node("QuantizeLinear", ["X", "x_scale", "x_zero"], ["x_int8"]),
        helper.make_node("DequantizeLinear", ["x_int8", "x_scale", "x_zero"], ["x_float"]),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["w_float"], **axis),
    ]
    behind = []
    if quantised_y:
        convolution.output[0] = "y_float"
        behind = [
            helper.make_node("QuantizeLinear", ["y_float", "y_scale", "y_zero"], ["y_int8"]),
            helper.make_node("DequantizeLinear", ["y_int8", "y_scale", "y_zero"], ["Y"]),
        ]
    nodes = [*before, convolution, *behind]
    del graph.node[:]
    graph.node.extend(nodes)
    feed = peers.feed(inputs)
    del feed["W"]
    graph.input.remove(next(value for value in graph.input if value.name == "W"))
    return model, feed
