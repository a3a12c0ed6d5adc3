"""A network with two deformable layers, in each form and in PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def deformable_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One file of each form of the same network: input x [n, 3, 20, 24], output y."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from dcn_deploy.export.conversion import convert

    rng = np.random.default_rng(0)
    weights: dict[str, Any] = {"stem": rng.standard_normal((16, 3, 3, 3)) / 5}
    nodes = [
        helper.make_node("Conv", ["x", "stem"], ["c"], name="stem/conv", pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"], name="stem/relu"),
    ]
    before = "r"
    for layer in ("layer1", "layer2"):
        weights[f"{layer}.offset"] = rng.standard_normal((18, 16, 3, 3)) / 12
        weights[f"{layer}.weight"] = rng.standard_normal((16, 16, 3, 3)) / 12
        after = "y" if layer == "layer2" else f"{layer}.out"
        nodes += [
            helper.make_node("Conv", [before, f"{layer}.offset"], [f"{layer}.o"], name=f"{layer}/offset", pads=[1] * 4),
            helper.make_node(
                "DeformConv",
                [before, f"{layer}.weight", f"{layer}.o"],
                [f"{layer}.d"],
                name=f"{layer}/deform",
                pads=[1] * 4,
                kernel_shape=[3, 3],
            ),
            helper.make_node("Relu", [f"{layer}.d"], [after], name=f"{layer}/relu"),
        ]
        before = after
    graph = helper.make_graph(
        nodes,
        "two_layers",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 20, 24])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 16, 20, 24])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    folder = tmp_path_factory.mktemp("forms")
    files = {}
    for form in ("standard", "plugin", "decomposed"):
        files[form] = folder / f"{form}.onnx"
        onnx.save_model(model if form == "standard" else convert(model, form), files[form])
    return files
