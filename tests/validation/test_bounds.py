"""Limits of the tensors of a graph."""

from __future__ import annotations

import json
import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dcn_deploy.validation.bounds import Bounds, largest_map_of
from dcn_deploy.validation.tolerances import (
    ANY,
    DECOMPOSED_ROI_POOL,
    NETWORK,
    TOLERANCES,
    coordinate_error,
    offset_error,
)

GAIN = TOLERANCES[NETWORK, ANY, ANY].gain


def test_limits_follow_the_layers_before_a_tensor(network):
    bounds = Bounds(network(0))
    assert [layer.operator for layer in bounds.layers] == ["dense", "dense", "DeformConv", "dense"]
    # its own limit, and that of the branch which predicts the offsets
    deformable = math.hypot(1e-6 + coordinate_error(9, 9), offset_error(1e-6))
    assert bounds.limit("s", "onnxruntime") == 1e-6
    assert bounds.limit("h", "onnxruntime") == 1e-6
    assert bounds.limit("o", "onnxruntime") == pytest.approx(GAIN * math.sqrt(2) * 1e-6)
    assert bounds.limit("d", "onnxruntime") == pytest.approx(GAIN * math.sqrt(2e-12 + deformable**2))
    assert bounds.limit("logit", "onnxruntime") == pytest.approx(GAIN * math.sqrt(3e-12 + deformable**2))
    half = math.hypot(1e-3 + coordinate_error(9, 9), offset_error(1e-3))
    assert bounds.limit("logit", "onnxruntime", dtype="float16") == pytest.approx(GAIN * math.sqrt(3e-6 + half**2))
    assert bounds.limit("s", "tensorrt") == 1e-5


def test_parallel_branches_do_not_count_for_each_other():
    weight = numpy_helper.from_array(np.eye(2, dtype=np.float32), "w")
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["a"]),
            helper.make_node("MatMul", ["x", "w"], ["b"]),
            helper.make_node("Add", ["a", "b"], ["y"]),
        ],
        "branches",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 2])],
        initializer=[weight],
    )
    bounds = Bounds(helper.make_model(graph))
    assert len(bounds.layers_before("b")) == 1
    assert len(bounds.layers_before("y")) == 2


def test_element_type_is_that_of_the_layer(network):
    model = network(0)
    for tensor in model.graph.initializer:
        if tensor.name == "head.weight":
            values = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), tensor.name))
    bounds = Bounds(model)
    assert [layer.dtype for layer in bounds.layers] == ["float32", "float32", "float32", "float16"]
    assert bounds.limit("logit", "onnxruntime") == pytest.approx(GAIN * 1e-3, rel=1e-3)


def test_tf32_counts_in_every_product_that_is_stored_in_float32(network):
    bounds = Bounds(network(0))
    assert bounds.limit("s", "tensorrt", tf32=True) == 1e-3
    assert bounds.limit("s", "tensorrt", dtype="bfloat16", tf32=True) == 8e-3
    deformable = math.hypot(1e-3 + coordinate_error(9, 9), offset_error(1e-3))
    assert bounds.limit("d", "tensorrt", tf32=True) == pytest.approx(GAIN * math.sqrt(2e-6 + deformable**2))
    node = next(node for node in network(0).graph.node if node.op_type == "DeformConv")
    assert bounds.limit_of([node], "tensorrt", tf32=True) == 1e-3 + coordinate_error(9, 9)


def test_only_predicted_offsets_count(network):
    model = network(0)
    assert [layer.offset_dtype for layer in Bounds(model).layers] == [None, None, "float32", None]
    deformable = next(node for node in model.graph.node if node.op_type == "DeformConv")
    deformable.input[2] = "given"
    bounds = Bounds(model)
    assert bounds.layers[2].offset_dtype is None
    assert bounds.layers[2].limit("onnxruntime") == 1e-6 + coordinate_error(9, 9)
    # A node run on exact inputs has exact offsets.
    assert bounds.limit_of([deformable], "onnxruntime") == 1e-6 + coordinate_error(9, 9)


def test_open_extents_take_the_feeds(network):
    model = network(0)
    for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_param = "side"
    assert Bounds(model).layers[2].extent is None
    bounds = Bounds(model, largest_map_of([(1, 3, 300, 400), (7,), (1, 3, 10, 500)]))
    assert bounds.layers[2].extent == (300, 500)
    assert largest_map_of([(2, 2)]) is None


def test_extents_of_the_file_come_first(network):
    model = network(0)
    model.graph.value_info.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, [1, 4, 5, 6]))
    assert Bounds(model, (300, 400)).layers[2].extent == (5, 6)


def test_weights_are_not_read(network):
    model = network(0)
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
    assert len(Bounds(model).layers) == 4


def _decomposed_pool(offset_from: str = "") -> onnx.ModelProto:
    """conv → RoI pooling in five nodes, marked as the exporter marks them; a branch beside it predicts offsets."""
    original = {
        "op_type": "DeformRoIPool2d",
        "name": "pool",
        "part": "pool",
        "form": "decomposed",
        "opset": 20,
        "inputs": {"X": ["rows", 0], "rois": ["indices", 0], "offset": ["weights", 0]},
        "attributes": {"output_size": [2, 2]},
        "shapes": {"X": ["n", 4, "h", "w"], "rois": ["r", 5], "offset": ["r", 2, 2, 2]},
        "dtypes": {"X": "float32", "rois": "float32", "offset": "float32"},
    }

    def part(op_type, inputs, output, role, **metadata):
        node = helper.make_node(op_type, inputs, [output], f"pool/{role}")
        for key, value in {"part_of": "pool", "role": role, **metadata}.items():
            node.metadata_props.add(key=f"dcn_deploy.{key}", value=value)
        return node

    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["h"], "stem"),
            helper.make_node("MatMul", ["rois", "fc"], ["predicted"], "fc"),
            part("Identity", ["h"], "table", "rows"),
            part("Cast", ["rois"], "index", "indices", to="7"),
            part("Identity", [offset_from or "offset"], "weight", "weights"),
            part("Gather", ["table", "index"], "gathered", "gather"),
            part("MatMul", ["weight", "gathered"], "y", "", original=json.dumps(original)),
        ],
        "pool",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 30, 40]),
            helper.make_tensor_value_info("rois", TensorProto.FLOAT, ["r", 5]),
            helper.make_tensor_value_info("offset", TensorProto.FLOAT, ["r", 2, 2, 2]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["r", 4, 2, 2])],
        initializer=[
            numpy_helper.from_array(np.zeros((4, 3, 3, 3), np.float32), "w"),
            numpy_helper.from_array(np.zeros((5, 8), np.float32), "fc"),
        ],
    )
    return helper.make_model(graph)


def test_a_decomposed_roi_pooling_is_one_layer():
    bounds = Bounds(_decomposed_pool())
    assert [layer.operator for layer in bounds.layers] == ["dense", "dense", DECOMPOSED_ROI_POOL]
    assert bounds.inner == {"table", "index", "weight", "gathered"}
    pool = bounds.layers[2]
    assert pool.offset_dtype is None
    assert pool.extent == (30, 40)  # that of the graph's largest input: the file leaves the map's own open
    limit = 1e-6 + math.sqrt(8) * coordinate_error(30, 40)
    assert pool.limit("onnxruntime") == pytest.approx(limit)
    assert pool.limit("torch") == 1e-6
    assert bounds.limit("y", "onnxruntime") == pytest.approx(GAIN * math.hypot(1e-6, limit))
    parts = [node for node in _decomposed_pool().graph.node if node.name.startswith("pool/")]
    assert bounds.limit_of(parts, "onnxruntime") == pytest.approx(limit)


def test_extents_of_a_decomposed_roi_pooling():
    model = _decomposed_pool()
    model.graph.value_info.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, [1, 4, 5, 6]))
    assert Bounds(model, (300, 400)).layers[2].extent == (5, 6)
    model = _decomposed_pool()
    entry = model.graph.node[-1].metadata_props[-1]
    entry.value = entry.value.replace('"h", "w"', "7, 8")
    assert Bounds(model, (300, 400)).layers[2].extent == (7, 8)


def test_predicted_offsets_of_a_decomposed_roi_pooling():
    assert Bounds(_decomposed_pool(offset_from="predicted")).layers[2].offset_dtype == "float32"


@pytest.mark.parametrize("damage", ["no json", '{"part": "pool"}', '{"part": "other"}', "[]"])
def test_nodes_whose_metadata_was_damaged_are_what_they_look_like(damage):
    model = _decomposed_pool()
    model.graph.node[-1].metadata_props[-1].value = damage
    bounds = Bounds(model)
    assert [layer.operator for layer in bounds.layers] == ["dense"] * 3
    assert bounds.inner == frozenset()


@pytest.mark.parametrize(("predicted", "dtype"), [("offset", None), ("fc", "float32")])
def test_roi_pooling_in_one_node_samples_where_its_offset_says(predicted, dtype):
    model = _decomposed_pool()
    del model.graph.node[2:]
    model.graph.node[1].output[0] = "fc"
    model.graph.node.append(
        helper.make_node("DeformRoIPool2d", ["h", "rois", predicted], ["y"], domain="dcn_deploy", output_size=[2, 2])
    )
    layer = Bounds(model).layers[2]
    assert (layer.operator, layer.offset_dtype) == ("DeformRoIPool2d", dtype)
    own = 1e-6 if dtype is None else math.hypot(1e-6, offset_error(1e-6))
    assert layer.limit("onnxruntime") == pytest.approx(own)
