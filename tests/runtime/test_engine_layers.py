"""Names of layers, back to the nodes that they were made of."""

from __future__ import annotations

import pytest

from dcn_deploy.profiling import is_deformable
from dcn_deploy.runtime.engine_layers import LayerOrigins, LayerRecorder, node_times
from dcn_deploy.runtime.engine_metadata import NodeOrigin, deformable

PLUGIN = NodeOrigin("/layer1/dcn", "DeformConv2d", "dcn_deploy", {})
PART = NodeOrigin("/layer2/dcn/sample", "GridSample", "", {"dcn_deploy.part_of": "/layer2/dcn"})


@pytest.mark.parametrize(
    ("layer", "metadata", "node"),
    [
        ("/layer1/dcn", "", PLUGIN),
        ("/conv + /layer1/dcn", "", PLUGIN),
        ("PWN(/mul, /layer2/dcn/sample)", "", PART),
        ("PWN(PWN(/sigmoid), PWN(/layer2/dcn/sample))", "", PART),
        ("{ForeignNode[/conv.../layer2/dcn/sample]}", "", PART),
        ("{ForeignNode[/conv.../relu]}", "", None),
        ("__myl_MulConv_myl0_12", "[ONNX Layer: /mul]\x1e[ONNX Layer: /layer2/dcn/sample]", PART),
        ("__myl_MulConv_myl0_12", "[ONNX Layer: /mul]", None),
        ("Reformatting CopyNode for Input Tensor 0 to /layer1/dcn", "[ONNX Layer: /layer1/dcn]", None),
        ("/layer1/dcn_bias", "", None),
    ],
)
def test_the_node_of_a_layer(layer: str, metadata: str, node: NodeOrigin | None) -> None:
    origins = LayerOrigins([{"Name": layer, "LayerType": "kind", "Metadata": metadata}], [PLUGIN, PART])
    time = origins.time(layer, [1.0])
    assert time.name == layer
    assert is_deformable(time) == (node is not None)
    expected = ("kind", "", {}) if node is None else (node.op_type, node.domain, node.metadata)
    assert (time.op_type, time.domain, time.metadata) == expected


def test_times_are_gathered_by_layer_in_order() -> None:
    recorder = LayerRecorder()
    recorder.add("before any run", 1.0)
    for milliseconds in (100.0, 1.0, 2.0):
        recorder.begin()
        for layer in ("first", "second", "first"):
            recorder.add(layer, milliseconds)
    first, second = node_times(recorder, LayerOrigins([], []), skip=1)
    assert (first.name, first.durations) == ("first", (0.001, 0.001, 0.002, 0.002))
    assert (second.name, second.op_type, second.durations) == ("second", "layer", (0.001, 0.002))
    assert node_times(recorder, LayerOrigins([], []), skip=3) == ()


def test_which_nodes_are_kept() -> None:
    nodes = [
        NodeOrigin("a", "Conv", "", {"other": "1"}),
        NodeOrigin("b", "DeformConv", "", {"other": "1"}),
        NodeOrigin("c", "DeformConv2d", "dcn_deploy", {}),
        NodeOrigin("d", "Mul", "", {"dcn_deploy.shared": "grid", "other": "1"}),
        NodeOrigin("e", "DeformConv", "somebody.else", {}),
    ]
    assert [(node.name, dict(node.metadata)) for node in deformable(nodes)] == [
        ("b", {}),
        ("c", {}),
        ("d", {"dcn_deploy.shared": "grid"}),
    ]
