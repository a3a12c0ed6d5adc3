"""A network of three nodes to build engines from. Tests write ``import engine_networks``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def small_network(shape: Sequence[int | str] = (1, 4, 6, 7), *, mask: bool = False) -> onnx.ModelProto:
    """A convolution that predicts offsets (and a mask), and a DeformConv2d; input x, output y."""
    rng = np.random.default_rng(1)
    channels = 27 if mask else 18
    arrays = {
        "w_offset": 0.1 * rng.standard_normal((channels, shape[1], 3, 3)),
        "w": rng.standard_normal((8, shape[1], 3, 3)),
    }
    same = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [helper.make_node("Conv", ["x", "w_offset"], ["predicted"], name="conv_offset", **same)]
    if mask:
        nodes += [
            helper.make_node("Split", ["predicted", "parts"], ["offset", "logits"], name="split", axis=1),
            helper.make_node("Sigmoid", ["logits"], ["mask"], name="sigmoid"),
        ]
    else:
        nodes.append(helper.make_node("Identity", ["predicted"], ["offset"], name="identity"))
    nodes.append(
        helper.make_node(
            "DeformConv2d",
            ["x", "w", "offset", *(["", "mask"] if mask else [])],
            ["y"],
            name="dcn",
            domain="dcn_deploy",
            **same,
        )
    )
    constants = [numpy_helper.from_array(array.astype(np.float32), key) for key, array in arrays.items()]
    if mask:
        constants.append(numpy_helper.from_array(np.array([18, 9]), "parts"))
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [shape[0], 8, *shape[2:]])],
        constants,
    )
    opsets = [helper.make_opsetid("", 19), helper.make_opsetid("dcn_deploy", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)
