"""What the parser is given: form, plugin attributes, and what is refused before it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from engine_networks import small_network
from onnx import helper, numpy_helper

from dcn_deploy.engine.preparation import prepare
from dcn_deploy.errors import InvalidArgumentError, UnsupportedError
from dcn_deploy.runtime.tensorrt_api import PACKAGES

TENSORRT, RTX = PACKAGES["tensorrt"], PACKAGES["tensorrt-rtx"]


def written(path: Path, tmp_path: Path, **options: object) -> onnx.ModelProto:
    folder = tmp_path / "for the parser"
    folder.mkdir()
    return onnx.load(prepare(path, TENSORRT, **options).write(folder))  # type: ignore[arg-type]


def attributes(model: onnx.ModelProto) -> dict[str, object]:
    (node,) = (node for node in model.graph.node if node.domain == "dcn_deploy")
    return {a.name: helper.get_attribute_value(a) for a in node.attribute} | {"inputs": list(node.input)}


def test_each_package_gets_its_form(saved: Callable[..., Path]) -> None:
    path = saved()
    plugin, decomposed = prepare(path, TENSORRT), prepare(path, RTX)
    assert (plugin.form, plugin.has_plugins) == ("plugin", True)
    assert (decomposed.form, decomposed.has_plugins) == ("decomposed", False)
    assert "GridSample" in {op_type for _, op_type in decomposed.operators}
    assert prepare(path, TENSORRT, form="standard").form == "standard"


def test_a_network_without_deformable_nodes_is_left_alone(saved: Callable[..., Path]) -> None:
    model = small_network()
    del model.graph.node[1:]
    model.graph.node[0].output[0] = "y"
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 18
    prepared = prepare(saved(model), RTX)
    assert prepared.form is None
    assert [op_type for _, op_type in prepared.operators] == ["Conv"]


def test_a_plugin_node_says_what_the_parser_and_the_plugin_need(saved: Callable[..., Path], tmp_path: Path) -> None:
    found = attributes(written(saved(mask=True), tmp_path))
    assert found["plugin_version"] == b"1"
    assert found["plugin_namespace"] == b"dcn_deploy"
    assert found["optional_inputs"] == b"mask"
    assert found["inputs"] == ["x", "w", "offset", "mask"]
    assert (found["constant_weights"], found["allow_tf32"]) == (1, 0)
    assert found["kernel_shape"] == [3, 3]


def test_no_optional_input_and_tf32(saved: Callable[..., Path], tmp_path: Path) -> None:
    model = small_network()
    kernel = next(a for a in model.graph.node[-1].attribute if a.name == "kernel_shape")
    model.graph.node[-1].attribute.remove(kernel)
    found = attributes(written(saved(model), tmp_path, tf32=True))
    assert "optional_inputs" not in found
    assert found["allow_tf32"] == 1
    assert found["kernel_shape"] == [3, 3]


def test_weights_that_are_computed_are_not_called_constant(saved: Callable[..., Path], tmp_path: Path) -> None:
    model = small_network()
    model.graph.node.insert(0, helper.make_node("Mul", ["w", "factor"], ["scaled"], name="scale"))
    model.graph.node[-1].input[1] = "scaled"
    model.graph.input.append(helper.make_tensor_value_info("factor", 1, [1]))
    assert attributes(written(saved(model), tmp_path))["constant_weights"] == 0


def test_roi_pooling_gets_no_fields_of_the_convolution(saved: Callable[..., Path], tmp_path: Path) -> None:
    node = helper.make_node(
        "DeformRoIPool2d", ["x", "rois"], ["y"], name="pool", domain="dcn_deploy", output_size=[2, 2], sampling_ratio=2
    )
    graph = helper.make_graph(
        [node],
        "pool",
        [helper.make_tensor_value_info("x", 1, [1, 4, 6, 7]), helper.make_tensor_value_info("rois", 1, ["r", 5])],
        [helper.make_tensor_value_info("y", 1, ["r", 4, 2, 2])],
    )
    opsets = [helper.make_opsetid("", 19), helper.make_opsetid("dcn_deploy", 1)]
    path = saved(helper.make_model(graph, opset_imports=opsets, ir_version=10))
    found = attributes(written(path, tmp_path))
    assert "allow_tf32" not in found
    assert "optional_inputs" not in found
    (image, rois) = prepare(path, TENSORRT).inputs
    assert image.boxes is None
    assert rois.boxes is not None
    assert rois.boxes.of == "x"


def test_rtx_refuses_plugins_and_the_standard_form(saved: Callable[..., Path]) -> None:
    path = saved()
    with pytest.raises(UnsupportedError, match=r"form for TensorRT-RTX: expected decomposed, got plugin.*leave --form"):
        prepare(path, RTX, form="plugin")
    with pytest.raises(UnsupportedError, match=r"cannot become an engine of TensorRT-RTX: node 'dcn': .*--form decomp"):
        prepare(path, RTX, form="standard")
    with pytest.raises(InvalidArgumentError, match="form: expected one of plugin, standard, decomposed, got 'flat'"):
        prepare(path, RTX, form="flat")


def test_what_lint_calls_an_error_is_refused_with_its_remedy(saved: Callable[..., Path]) -> None:
    model = small_network(mask=True)
    with pytest.raises(
        UnsupportedError, match=r"TensorRT's stock plugin fails to import a mask without a bias.*plugin"
    ):
        prepare(saved(model), TENSORRT, form="standard")


def test_what_lint_warns_of_is_passed_on(saved: Callable[..., Path]) -> None:
    model = small_network()
    model.graph.node[-1].attribute.append(helper.make_attribute("strides", [2, 1]))
    model.graph.node[0].attribute.append(helper.make_attribute("strides", [2, 1]))
    model.graph.output[0].type.tensor_type.shape.dim[2].dim_value = 3
    (remark,) = prepare(saved(model), TENSORRT, form="standard").remarks
    assert "tensorrt-swapped-axes" in remark


def test_a_node_of_another_domain_is_refused(saved: Callable[..., Path]) -> None:
    """The parser would take it for the operator of that name in the standard."""
    model = small_network()
    model.opset_import.append(helper.make_opsetid("theirs", 1))
    model.graph.node.insert(0, helper.make_node("Relu", ["x"], ["positive"], name="odd", domain="theirs"))
    model.graph.node[1].input[0] = "positive"
    with pytest.raises(UnsupportedError, match=r"domain of node 'odd' \(Relu\) .* got 'theirs'"):
        prepare(saved(model), RTX)


def test_functions_of_the_model_are_no_foreign_domain(saved: Callable[..., Path]) -> None:
    model = small_network()
    function = helper.make_function(
        "own", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 19)]
    )
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.graph.node.insert(0, helper.make_node("Twice", ["x"], ["doubled"], name="twice", domain="own"))
    model.graph.node[1].input[0] = "doubled"
    prepared = prepare(saved(model), RTX)
    assert "Twice" not in {op_type for _, op_type in prepared.operators}
    assert "Add" in {op_type for _, op_type in prepared.operators}


def test_types_are_corrected_to_the_parsers(saved: Callable[..., Path]) -> None:
    prepared = prepare(saved(), RTX)
    prepared.retype({"x": np.dtype(np.float16)})
    assert prepared.inputs[0].dtype == np.float16
    assert prepared.outputs[0].dtype == np.float32


def test_large_weights_go_through(saved: Callable[..., Path], tmp_path: Path) -> None:
    """Weights in a file of their own are read from there."""
    path = saved()
    model = onnx.load(path)
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    again = written(path, tmp_path)
    for tensor in again.graph.initializer:
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), weights[tensor.name])
