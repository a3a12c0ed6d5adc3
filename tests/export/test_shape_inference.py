"""Shapes through deformable nodes, fixed and dynamic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cases
import numpy as np
import onnx
import peers
import pytest
from onnx import helper

from dcn_deploy.errors import InvalidModelError
from dcn_deploy.export import convert, infer_shapes


def shape_of(model: onnx.ModelProto, name: str) -> list[Any]:
    values = [*model.graph.value_info, *model.graph.output]
    value = next(v for v in values if v.name == name)
    return [d.dim_param or d.dim_value or None for d in value.type.tensor_type.shape.dim]


def set_shape(model: onnx.ModelProto, name: str, dims: list[Any]) -> None:
    value = next(v for v in model.graph.input if v.name == name)
    value.CopyFrom(helper.make_tensor_value_info(name, value.type.tensor_type.elem_type, dims))


@pytest.mark.parametrize("case", cases.CASES, ids=cases.name_of)
def test_fixed_shapes(case: cases.Case) -> None:
    model = infer_shapes(peers.model(case, form="plugin", opset=18))
    assert shape_of(model, "Y") == list(case.output_shape)


def test_dynamic_extents_keep_their_names_and_pass_through_a_chain() -> None:
    case = cases.Case("chain", c=4, m=4, stride_h=2, stride_w=2)
    model = peers.model(case, form="plugin", opset=18, dtype=np.float16, coordinate_dtype=np.float32)
    set_shape(model, "X", ["n", 4, "h", "w"])
    set_shape(model, "offset", ["n", 18, "oh", "ow"])
    set_shape(model, "mask", ["n", 9, "oh", "ow"])
    model.graph.node[0].output[0] = "y"
    second = helper.make_node("DeformConv2d", ["y", "W", "offset2"], ["z"], domain="dcn_deploy")
    model.graph.node.extend([helper.make_node("Relu", ["z"], ["Y"]), second])
    model.graph.node[1].input[0] = "z"
    model.graph.node.sort(key=lambda node: node.op_type == "Relu")
    model.graph.input.append(helper.make_tensor_value_info("offset2", 1, ["n", 18, "ph", "pw"]))
    inferred = infer_shapes(model)
    assert shape_of(inferred, "y") == ["n", 4, "oh", "ow"]
    assert shape_of(inferred, "z") == ["n", 4, "ph", "pw"]
    assert shape_of(inferred, "Y") == ["n", 4, "ph", "pw"]
    types = {v.name: v.type.tensor_type.elem_type for v in inferred.graph.value_info}
    assert types["y"] == types["z"] == onnx.TensorProto.FLOAT16


def test_a_size_preserving_layer_keeps_the_name_of_the_features() -> None:
    case = cases.by_name("no_mask")
    model = peers.model(case, form="plugin", opset=18)
    set_shape(model, "X", [None, case.c, "h", "w"])
    set_shape(model, "offset", [None, 18, None, None])
    assert shape_of(infer_shapes(model), "Y")[1:] == [case.m, "h", "w"]
    node = model.graph.node[0]
    node.attribute.remove(next(a for a in node.attribute if a.name == "pads"))
    # The onnx package makes up names for what nobody knows.
    assert shape_of(infer_shapes(model), "Y")[1] == case.m
    assert not {"h", "w"} & set(shape_of(infer_shapes(model), "Y"))


def test_fixed_and_dynamic_axes_together() -> None:
    case = cases.by_name("size_19")
    model = peers.model(case, form="plugin", opset=18)
    set_shape(model, "X", ["n", case.c, 19, "w"])
    set_shape(model, "offset", ["n", 18, None, "ow"])
    set_shape(model, "mask", ["n", 9, None, "ow"])
    assert shape_of(infer_shapes(model), "Y") == ["n", case.m, 19, "ow"]


@pytest.mark.parametrize("case", cases.ALL_ROI_CASES, ids=cases.name_of)
def test_fixed_shapes_of_roi_pooling(case: cases.RoiCase) -> None:
    model = infer_shapes(peers.roi_model(case, opset=18))
    assert [extent or 0 for extent in shape_of(model, "Y")] == list(case.output_shape)


@pytest.mark.parametrize("name", ["roi_size_19x7", "roi_classes_3_group_2"])
def test_the_number_of_rois_keeps_its_name(name: str) -> None:
    case = cases.by_name(name)
    model = peers.roi_model(case, opset=18, dtype=np.float16, coordinate_dtype={"rois": np.float32})
    set_shape(model, "X", ["n", case.c, "h", "w"])
    set_shape(model, "rois", ["r", 5])
    model.graph.node[0].output[0] = "y"
    model.graph.node.append(helper.make_node("Relu", ["y"], ["Y"]))
    inferred = infer_shapes(model)
    assert shape_of(inferred, "Y") == ["r", case.output_channels, *case.output_size]
    types = {v.name: v.type.tensor_type.elem_type for v in inferred.graph.value_info}
    assert types["y"] == onnx.TensorProto.FLOAT16
    onnx.checker.check_model(inferred, full_check=True)


def test_roi_pooling_of_unknown_shapes() -> None:
    """R from the offset, Cout from the attribute; the pooled extents are always known."""
    case = cases.by_name("roi_classes_3_group_2")
    model = peers.roi_model(case, opset=18, static=False)
    set_shape(model, "offset", ["r", None, None, None])
    assert shape_of(infer_shapes(model), "Y") == ["r", case.output_channels, *case.output_size]
    model = peers.roi_model(case, opset=18, static=False, attributes={"output_channels": 0})
    assert shape_of(infer_shapes(model), "Y")[2:] == list(case.output_size)
    set_shape(model, "X", [None, case.c, None, None])
    assert shape_of(infer_shapes(model), "Y")[1] == case.output_channels


def test_the_onnx_checker_wants_the_output_size() -> None:
    model = peers.roi_model(cases.by_name("roi_size_19x7"), opset=18, attributes={"output_size": None})
    infer_shapes(model)  # ends behind the node, without an error
    with pytest.raises(onnx.checker.ValidationError, match="output_size"):
        onnx.checker.check_model(model, check_custom_domain=True)


def test_paths_and_unreadable_files(tmp_path: Path) -> None:
    onnx.save(peers.model(cases.by_name("size_7"), form="plugin", opset=18), tmp_path / "m.onnx")
    assert shape_of(infer_shapes(tmp_path / "m.onnx"), "Y") == [1, 8, 7, 7]
    with pytest.raises(InvalidModelError, match="expected the path of an ONNX file"):
        infer_shapes(tmp_path / "absent.onnx")


def test_the_onnx_checker_knows_the_operator() -> None:
    """Once infer_shapes or any other part of the package has run, for the whole process."""
    model = peers.model(cases.by_name("size_7"), form="plugin", opset=18)
    infer_shapes(model)
    onnx.checker.check_model(model, full_check=True)
    del model.graph.node[0].input[2:]
    with pytest.raises(onnx.checker.ValidationError, match="DeformConv2d"):
        onnx.checker.check_model(model, check_custom_domain=True)


def test_a_malformed_node_stops_the_inference_only_behind_itself() -> None:
    model = peers.model([cases.by_name("size_7")] * 2, form="plugin", opset=18)
    set_shape(model, "offset_0", [1, 20, 7, 7])
    inferred = infer_shapes(model)
    assert shape_of(inferred, "Y_0") != [1, 8, 7, 7]
    assert shape_of(inferred, "Y_1") == [1, 8, 7, 7]


def _with_sequence(nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    """The plugin node's output, split into a list of maps, then ``nodes``, then put together again."""
    model = peers.model(cases.by_name("size_7"), form="plugin", opset=18)
    split = helper.make_node("SplitToSequence", ["Y"], ["maps"], axis=1, keepdims=1)
    model.graph.node.extend([split, *nodes, helper.make_node("ConcatFromSequence", ["last"], ["Z"], axis=2)])
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("Z", onnx.TensorProto.FLOAT, [None] * 4))
    return model


_SEQUENCES = {
    "identity": [helper.make_node("Identity", ["maps"], ["last"])],
    "optional": [
        helper.make_node("Optional", ["maps"], ["perhaps"]),
        helper.make_node("OptionalGetElement", ["perhaps"], ["last"]),
    ],
    "insert": [
        helper.make_node("Constant", [], ["zero"], value_int=0),
        helper.make_node("SequenceAt", ["maps", "zero"], ["first"]),
        helper.make_node("SequenceInsert", ["maps", "first"], ["last"]),
    ],
}


@pytest.mark.parametrize("name", _SEQUENCES)
def test_sequences_keep_their_types(name: str) -> None:
    inferred = infer_shapes(_with_sequence(_SEQUENCES[name]))
    kinds = {value.name: value.type.WhichOneof("value") for value in inferred.graph.value_info}
    assert kinds["maps"] == kinds["last"] == "sequence_type"
    assert kinds.get("perhaps", "optional_type") == "optional_type"
    assert kinds.get("first", "tensor_type") == "tensor_type"
    types = {value.name: value.type for value in inferred.graph.value_info}
    assert types["maps"].sequence_type.elem_type.tensor_type.elem_type == onnx.TensorProto.FLOAT


@pytest.mark.parametrize("options", [{"form": "standard"}, {"form": "decomposed"}, {"precision": "fp32"}])
def test_a_network_with_sequences_runs_after_a_conversion(
    options: dict[str, str], rng: np.random.Generator, make_session: Any
) -> None:
    model = _with_sequence(_SEQUENCES["insert"])
    feed = peers.feed(cases.make_inputs(cases.by_name("size_7"), rng, np.float32))
    (before,) = make_session(model).run(None, feed)
    (after,) = make_session(convert(model, **options)).run(None, feed)
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)
