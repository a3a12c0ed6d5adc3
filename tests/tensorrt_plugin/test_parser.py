"""Plugin nodes in NVIDIA's ONNX parser: what it finds, what it reads, what a user sees of a refusal."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import engine_networks
import onnx
import pytest
from onnx import TensorProto, helper

from dcn_deploy.engine.preparation import prepare
from dcn_deploy.runtime.tensorrt_api import PACKAGES

Parse = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def parse(plugin_library: Path, tmp_path: Path) -> Parse:
    """``parse(node, inputs)``: the parser's process for a model of that node; it logs to standard output."""

    def run(node: onnx.NodeProto, inputs: dict[str, list[Any]]) -> subprocess.CompletedProcess[str]:
        values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
        y = helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)
        opsets = [helper.make_opsetid("", 19), helper.make_opsetid("dcn_deploy", 1)]
        model = helper.make_model(helper.make_graph([node], "g", values, [y]), opset_imports=opsets, ir_version=10)
        path = tmp_path / "model.onnx"
        onnx.save(model, path)
        program = [sys.executable, str(Path(__file__).with_name("parser_program.py")), str(plugin_library), str(path)]
        return subprocess.run(program, capture_output=True, text=True, timeout=120, check=False)

    return run


def conv_node(*inputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(
        "DeformConv2d", inputs or ("X", "W", "offset"), ["Y"], name="a node", domain="dcn_deploy", **attributes
    )


CONV_INPUTS = {"X": ["n", 6, "h", "w"], "W": [8, 6, 3, 2], "offset": ["n", 12, "ho", "wo"]}
POOL_INPUTS = {"X": ["n", 6, "h", "w"], "rois": ["r", 5]}
POOL_ATTRIBUTES = {"output_size": [3, 3], "spatial_scale": 0.25, "variant": "aligned", "gamma": 0.5}


def pool_node(**attributes: Any) -> onnx.NodeProto:
    return helper.make_node("DeformRoIPool2d", ["X", "rois"], ["Y"], name="a node", domain="dcn_deploy", **attributes)


@pytest.mark.parametrize(
    ("node", "inputs"),
    [
        (conv_node(strides=[2, 1], pads=[1, 0, 2, 1], dilations=[1, 2], group=1, kernel_shape=[3, 2]), CONV_INPUTS),
        (conv_node(plugin_namespace="dcn_deploy", plugin_version="1", group=1), CONV_INPUTS),
        (conv_node(x_scale=0.1, weight_scale=[0.25] * 8, y_scale=0.5), CONV_INPUTS),
        (conv_node(x_scale=0.1, weight_scale=[0.25]), CONV_INPUTS),
        (pool_node(**POOL_ATTRIBUTES), POOL_INPUTS),
    ],
    ids=["conv", "conv-in-namespace", "conv-int8", "conv-int8-to-float32", "pool"],
)
def test_the_parser_finds_the_creator_and_creates_the_plugin(
    parse: Parse, node: onnx.NodeProto, inputs: dict[str, list[Any]]
) -> None:
    done = parse(node, inputs)
    said = done.stdout
    assert f"Successfully created plugin: {node.op_type}" in said
    assert "dcn_deploy: " not in said + done.stderr
    # Whatever the node has is read; the parser warns of nothing else.
    for attribute in node.attribute:
        assert f"Attribute {attribute.name} not found" not in said


@pytest.mark.parametrize(
    ("node", "inputs", "message"),
    [
        (conv_node(strides=[2, 1, 1]), CONV_INPUTS, "field strides: expected 2 values, got 3"),
        (conv_node(group=1.0), CONV_INPUTS, "field group: expected kINT32 or kINT64, got kFLOAT32"),
        (conv_node(pads=[0, 0, -1, 0]), CONV_INPUTS, "attribute pads[2] (bottom): expected at least 0, got -1"),
        (
            conv_node(x_scale=-1.0, weight_scale=[0.25]),
            CONV_INPUTS,
            "field x_scale: expected positive, finite numbers, got -1",
        ),
        (conv_node(optional_inputs="bias"), CONV_INPUTS, "field optional_inputs: expected names of B,mask in this"),
        (pool_node(), POOL_INPUTS, "attribute output_size[0]: expected at least 1, got 0"),
        (
            pool_node(**{**POOL_ATTRIBUTES, "spatial_scale": -1.0}),
            POOL_INPUTS,
            "attribute spatial_scale: expected a finite number above 0, got -1",
        ),
    ],
)
def test_a_refusal_is_logged_with_the_nodes_name(
    parse: Parse, node: onnx.NodeProto, inputs: dict[str, list[Any]], message: str
) -> None:
    done = parse(node, inputs)
    said = done.stdout
    assert done.returncode == 0
    assert f"dcn_deploy: {node.op_type} 'a node': {message}" in said
    # Through the logger that the program made, and nowhere else.
    assert "dcn_deploy: " not in done.stderr
    assert "parsed: False" in said
    assert "Could not create the plugin" in said


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("tf32", [False, True])
def test_the_parser_reads_what_build_prepares(plugin_library: Path, tmp_path: Path, mask: bool, tf32: bool) -> None:
    """With a mask and no bias an input is left out in the middle, which the parser itself has no place for."""
    source = tmp_path / "source.onnx"
    onnx.save(engine_networks.small_network(mask=mask), source)
    prepared = prepare(source, PACKAGES["tensorrt"], tf32=tf32).write(tmp_path)
    program = [sys.executable, str(Path(__file__).with_name("parser_program.py")), str(plugin_library), str(prepared)]
    said = subprocess.run(program, capture_output=True, text=True, timeout=120, check=False).stdout
    assert "Successfully created plugin: DeformConv2d" in said
    assert "plugin_namespace: dcn_deploy" in said
    (node,) = (node for node in onnx.load(prepared).graph.node if node.domain == "dcn_deploy")
    assert ("optional_inputs" in {attribute.name for attribute in node.attribute}) == mask
    for attribute in node.attribute:
        assert f"Attribute {attribute.name} not found" not in said
