"""Conversion between the forms, from other projects' nodes, and what is refused."""

from __future__ import annotations

import itertools
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cases
import numpy as np
import onnx
import peers
import pytest
from onnx import helper, numpy_helper

from dcn_deploy.errors import InvalidArgumentError, InvalidModelError, UnsupportedError
from dcn_deploy.export import (
    convert,
    convert_file,
    fold_quantisation,
    form_of,
    infer_shapes,
    lint,
    metadata,
    model_files,
    unfold_quantisation,
)
from dcn_deploy.ops import reference

DTYPES = {"float32": (np.float32, None), "mixed": (np.float16, np.float32), "half": (np.float16, None)}


def relative_rms(actual: cases.Array, wanted: cases.Array) -> float:
    return float(np.linalg.norm(actual.astype(np.float64) - wanted) / np.linalg.norm(wanted))


def reference_of(case: cases.Case, inputs: cases.Inputs) -> cases.Array:
    return reference.deform_conv2d(*inputs.in_order(), **case.reference_arguments)


def opset_of(model: onnx.ModelProto, domain: str = "") -> int | None:
    return next((entry.version for entry in model.opset_import if entry.domain == domain), None)


def nodes_with_shapes(model: onnx.ModelProto) -> tuple[list[onnx.NodeProto], list[str], list[Any], list[Any]]:
    graph = model.graph
    return list(graph.node), [t.name for t in graph.initializer], list(graph.input), list(graph.output)


# ---- round trips ----


@pytest.mark.parametrize("types", DTYPES)
@pytest.mark.parametrize("form", ["standard", "decomposed"])
@pytest.mark.parametrize("case", cases.ALL_CASES, ids=cases.name_of)
def test_round_trip_gives_the_same_nodes(case: cases.Case, form: str, types: str) -> None:
    dtype, coordinates = DTYPES[types]
    model = peers.model(case, form="plugin", opset=18, dtype=dtype, coordinate_dtype=coordinates)
    there = convert(model, form)
    assert form_of(there) == form
    back = convert(there, "plugin")
    assert form_of(back) == "plugin"
    assert nodes_with_shapes(back) == nodes_with_shapes(model)
    assert opset_of(back, "dcn_deploy") == 1


def test_round_trip_of_several_layers_keeps_order_names_and_metadata() -> None:
    layers = [cases.by_name(n) for n in ("size_7", "unequal", "size_7", "no_mask")]
    model = peers.model(layers, form="plugin", opset=18)
    for i, node in enumerate(model.graph.node):
        node.doc_string = f"layer {i}"
        node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=f"backbone.{i}")
    for form in ("standard", "decomposed"):
        there = convert(model, form)
        back = convert(there, "plugin")
        assert nodes_with_shapes(back) == nodes_with_shapes(model)
    assert {e.key: e.value for e in there.graph.node[-1].metadata_props}["pkg.torch.onnx.name_scopes"] == "backbone.3"


def test_nodes_without_names_and_with_equal_names() -> None:
    model = peers.model([cases.by_name("size_7")] * 3, form="plugin", opset=18)
    model.graph.node[0].name = "twin"
    model.graph.node[1].name = "twin"
    model.graph.node[2].ClearField("name")
    there = convert(model, "decomposed")
    names = [node.name for node in there.graph.node if node.op_type != "Conv"]
    assert len(set(names)) == len(names)
    assert nodes_with_shapes(convert(there, "plugin")) == nodes_with_shapes(model)


def test_plugin_and_standard_are_one_rename() -> None:
    model = peers.model(cases.by_name("unequal_groups"), form="plugin", opset=18)
    standard = convert(model, "standard")
    (node,) = standard.graph.node
    assert (node.domain, node.op_type, opset_of(standard)) == ("", "DeformConv", 19)
    assert opset_of(standard, "dcn_deploy") is None
    expected = onnx.NodeProto()
    expected.CopyFrom(model.graph.node[0])
    expected.ClearField("domain")
    expected.op_type = "DeformConv"
    assert node == expected


def test_conversion_does_not_touch_its_argument() -> None:
    model = peers.model(cases.by_name("size_7"), form="plugin", opset=18)
    before = model.SerializeToString()
    convert(model, "decomposed")
    assert model.SerializeToString() == before


def test_conversion_is_deterministic_and_idempotent() -> None:
    model = peers.model([cases.by_name("size_7"), cases.by_name("unequal")], form="plugin", opset=18)
    for form in ("plugin", "standard", "decomposed"):
        once = convert(model, form)
        assert once.SerializeToString() == convert(model, form).SerializeToString()
        assert once.SerializeToString() == convert(once, form).SerializeToString()


@pytest.mark.parametrize("first, second", list(itertools.permutations(["standard", "decomposed"], 2)))  # noqa: PT006
def test_standard_and_decomposed_directly(first: str, second: str) -> None:
    model = peers.model(
        cases.by_name("unequal"), form="plugin", opset=19, dtype=np.float16, coordinate_dtype=np.float32
    )
    assert convert(convert(model, first), second).SerializeToString() == convert(model, second).SerializeToString()


# ---- element types ----


@pytest.mark.parametrize("name", ["unequal_groups", "no_bias", "no_mask", "size_1"])
def test_mixed_types_in_the_standard_form(name: str, rng: np.random.Generator, make_plain_session: Any) -> None:
    """Half features with float32 offsets: computed in float32 between casts, so nothing is lost."""
    case = cases.by_name(name)
    inputs = cases.make_inputs(case, rng, np.float16, np.float32)
    model = peers.model(case, form="plugin", opset=18, dtype=np.float16, coordinate_dtype=np.float32)
    standard = convert(model, "standard")
    onnx.checker.check_model(standard, full_check=True)
    kinds = [node.op_type for node in standard.graph.node]
    assert kinds.count("DeformConv") == 1
    assert set(kinds) == {"Cast", "DeformConv"}
    (y,) = make_plain_session(standard).run(None, peers.feed(inputs))
    assert y.dtype == np.float16
    assert relative_rms(y, reference_of(case, inputs)) <= 1e-3


def test_bfloat16_needs_opset_22() -> None:
    import ml_dtypes

    model = peers.model(cases.by_name("size_7"), form="plugin", opset=18, dtype=ml_dtypes.bfloat16)
    for form in ("standard", "decomposed"):
        converted = convert(model, form)
        assert opset_of(converted) == 22
        onnx.checker.check_model(converted, full_check=True)
    mixed = peers.model(
        cases.by_name("size_7"), form="plugin", opset=18, dtype=ml_dtypes.bfloat16, coordinate_dtype=np.float32
    )
    assert opset_of(convert(mixed, "standard")) == 19


# ---- opsets, imports, metadata ----


@pytest.mark.parametrize(
    ("opset", "form", "wanted"), [(11, "decomposed", 16), (13, "standard", 19), (11, "plugin", 11)]
)
def test_old_opsets_are_raised_as_far_as_needed(
    opset: int, form: str, wanted: int, rng: np.random.Generator, make_plain_session: Any
) -> None:
    case = cases.by_name("size_7")
    model = peers.model(case, form="plugin", opset=opset)
    # An operator whose attributes became inputs at opset 13.
    model.graph.node.append(
        helper.make_node("Unsqueeze", ["Y"], ["Z"], axes=[0]) if opset < 13 else helper.make_node("Relu", ["Y"], ["Z"])
    )
    model.graph.output[0].name = "Z"
    model.graph.output[0].type.tensor_type.shape.Clear()
    for _ in range(5 if opset < 13 else 4):
        model.graph.output[0].type.tensor_type.shape.dim.add()
    converted = convert(model, form)
    assert opset_of(converted) == wanted
    onnx.checker.check_model(converted)
    if form != "plugin":
        inputs = cases.make_inputs(case, rng, np.float32)
        (z,) = make_plain_session(converted).run(None, peers.feed(inputs))
        y = reference_of(case, inputs)
        assert relative_rms(z, y[None] if opset < 13 else np.maximum(y, 0)) <= 3e-6


def test_version_that_cannot_be_raised_is_reported() -> None:
    model = peers.model(cases.by_name("size_7"), form="plugin", opset=11)
    model.graph.node.append(helper.make_node("NoSuchOperator", ["Y"], ["Z"]))
    with pytest.raises(
        UnsupportedError,
        match=r"needs opset 19, the model has opset 11, and raising it failed .* opset_version=19 or more",
    ):
        convert(model, "standard")


def test_metadata_is_kept_up_to_date() -> None:
    model = peers.model(cases.by_name("size_7"), form="plugin", opset=18)
    model.metadata_props.add(key="dcn_deploy.source", value="package:network")
    model.metadata_props.add(key="author", value="somebody")
    read = metadata.read(convert(model, "standard"))
    assert (read["form"], read["opset"], read["source"]) == ("standard", "19", "package:network")
    assert read["version"]
    assert "author" not in read
    assert metadata.read(peers.model(cases.by_name("size_7"))) == {}


def test_ir_version_is_raised_only_for_expansions() -> None:
    model = peers.model(cases.by_name("size_7"), form="plugin", opset=18)
    model.ir_version = 8
    assert convert(model, "standard").ir_version == 8
    assert convert(model, "decomposed").ir_version == 10


def test_form_of() -> None:
    plugin = peers.model(cases.by_name("size_7"), form="plugin", opset=19)
    standard = peers.model(cases.by_name("size_7"), form="standard", opset=19)
    both = peers.model([cases.by_name("size_7")] * 2, form="plugin", opset=19)
    both.graph.node[0].domain, both.graph.node[0].op_type = "", "DeformConv"
    assert form_of(plugin) == "plugin"
    assert form_of(standard) == "standard"
    assert form_of(both) == "mixed"
    assert form_of(convert(both, "decomposed")) == "decomposed"
    relu = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", 1, [1])],
        [helper.make_tensor_value_info("y", 1, [1])],
    )
    assert form_of(helper.make_model(relu)) is None
    assert form_of(mmdeploy_model(cases.by_name("size_7"))) == "foreign"


# ---- nodes of other projects ----


def mmdeploy_model(case: cases.Case, padding: list[int] | None = None, domain: str = "mmdeploy") -> onnx.ModelProto:
    model = peers.model(case, form="plugin", opset=18)
    names = [value.name for value in model.graph.input]
    order = ["X", "offset", "mask", "W", "B"] if case.mask else ["X", "offset", "W"]
    node = helper.make_node(
        "MMCVModulatedDeformConv2d" if case.mask else "MMCVDeformConv2d",
        [name for name in order if name in names],
        ["Y"],
        name="foreign",
        domain=domain,
        stride=list(case.strides),
        padding=padding or list(case.pads[:2]),
        dilation=list(case.dilations),
        groups=case.group,
        deform_groups=case.offset_group,
    )
    del model.graph.node[:]
    model.graph.node.append(node)
    del model.opset_import[:]
    model.opset_import.extend([helper.make_opsetid("", 18), helper.make_opsetid(domain, 1)])
    return model


@pytest.mark.parametrize("form", ["standard", "decomposed"])
@pytest.mark.parametrize(
    "case",
    [
        cases.Case(
            "mm_v2",
            n=2,
            c=6,
            m=4,
            h=19,
            w=7,
            kernel_w=2,
            stride_h=2,
            pad_top=2,
            pad_left=1,
            pad_bottom=2,
            pad_right=1,
            dilation_w=3,
            group=2,
            offset_group=3,
        ),
        cases.Case("mm_v2_no_bias", c=6, m=4, bias=False),
        cases.Case("mm_v1", c=6, m=4, bias=False, mask=False, offset_group=2),
    ],
    ids=cases.name_of,
)
def test_mmdeploy_nodes(case: cases.Case, form: str, rng: np.random.Generator, make_plain_session: Any) -> None:
    converted = convert(mmdeploy_model(case), form)
    assert opset_of(converted, "mmdeploy") is None
    inputs = cases.make_inputs(case, rng, np.float32)
    (y,) = make_plain_session(converted).run(None, peers.feed(inputs))
    assert relative_rms(y, reference_of(case, inputs)) <= 5e-6
    (node,) = convert(mmdeploy_model(case, domain="mmcv"), "plugin").graph.node
    assert (node.domain, node.op_type, node.name) == ("dcn_deploy", "DeformConv2d", "foreign")


@pytest.mark.parametrize(
    ("padding", "pads"),
    [([1, 2], [1, 2, 1, 2]), ([1, 1, 2, 2], [1, 2, 1, 2]), ([1, 2, 1, 2], [1, 2, 1, 2]), ([1, 1, 1, 1], [1, 1, 1, 1])],
)
def test_mmdeploy_padding(padding: list[int], pads: list[int]) -> None:
    case = cases.Case("pad", pad_top=pads[0], pad_left=pads[1], pad_bottom=pads[2], pad_right=pads[3])
    (node,) = convert(mmdeploy_model(case, padding), "plugin").graph.node
    assert next(list(a.ints) for a in node.attribute if a.name == "pads") == pads


def test_ambiguous_mmdeploy_padding_is_refused() -> None:
    with pytest.raises(
        InvalidModelError, match=r"'foreign', attribute padding: expected \[h, w\] or .* got \[1, 2, 3, 4\]"
    ):
        convert(mmdeploy_model(cases.by_name("size_7"), [1, 2, 3, 4]), "plugin")


# ---- subgraphs and functions ----


def model_with_branch(case: cases.Case) -> onnx.ModelProto:
    """``Y = condition ? DeformConv2d(...) : Conv(...)``, the deformable node reading outer values."""
    plain = peers.model(case, form="plugin", opset=18)
    node = plain.graph.node[0]
    info = helper.make_tensor_value_info("Y", 1, case.output_shape)
    node.output[0] = "branch_y"
    info.name = "branch_y"
    other = helper.make_node("Conv", ["X", "W"], ["other_y"], pads=list(case.pads), strides=list(case.strides))
    other_info = helper.make_tensor_value_info("other_y", 1, case.output_shape)
    branch = helper.make_node(
        "If",
        ["condition"],
        ["Y"],
        then_branch=helper.make_graph([node], "then", [], [info]),
        else_branch=helper.make_graph([other], "else", [], [other_info]),
    )
    inputs = [helper.make_tensor_value_info("condition", onnx.TensorProto.BOOL, []), *plain.graph.input]
    graph = helper.make_graph([branch], "main", inputs, [helper.make_tensor_value_info("Y", 1, case.output_shape)])
    return helper.make_model(graph, opset_imports=plain.opset_import, ir_version=10)


@pytest.mark.parametrize("form", ["standard", "decomposed"])
def test_nodes_in_subgraphs(form: str, rng: np.random.Generator, make_plain_session: Any) -> None:
    case = cases.by_name("size_7")
    model = model_with_branch(case)
    converted = convert(model, form)
    onnx.checker.check_model(converted, full_check=True)
    inputs = cases.make_inputs(case, rng, np.float32)
    (y,) = make_plain_session(converted).run(None, {"condition": np.array(True), **peers.feed(inputs)})
    assert relative_rms(y, reference_of(case, inputs)) <= 3e-6
    assert nodes_with_shapes(convert(converted, "plugin")) == nodes_with_shapes(model)


@pytest.mark.parametrize("form", ["plugin", "standard", "decomposed"])
def test_functions_with_deformable_nodes_are_inlined(form: str, rng: np.random.Generator, make_session: Any) -> None:
    case = cases.by_name("size_7")
    model = peers.model(case, form="plugin", opset=19)
    node = model.graph.node[0]
    imports = list(model.opset_import)
    inner = helper.make_function("local", "Inner", list(node.input), list(node.output), [node], imports)
    call = helper.make_node("Inner", list(node.input), list(node.output), domain="local")
    outer = helper.make_function(
        "local", "Outer", list(node.input), list(node.output), [call], [*imports, helper.make_opsetid("local", 1)]
    )
    del model.graph.node[:]
    model.graph.node.append(helper.make_node("Outer", list(node.input), ["Y"], domain="local"))
    model.functions.extend([inner, outer])
    model.opset_import.append(helper.make_opsetid("local", 1))
    converted = convert(model, form)
    assert form_of(converted) == form
    assert not any(n.domain == "local" for n in converted.graph.node)
    inputs = cases.make_inputs(case, rng, np.float32)
    (y,) = make_session(converted).run(None, peers.feed(inputs))
    assert relative_rms(y, reference_of(case, inputs)) <= 3e-6


# ---- refusals ----


def _first(model: onnx.ModelProto, op_type: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.op_type == op_type)


def _change_transpose(model: onnx.ModelProto) -> None:
    _first(model, "Transpose").attribute[0].ints[:] = [0, 3, 1, 2, 4]


def _drop_metadata(model: onnx.ModelProto) -> None:
    del _first(model, "Gather").metadata_props[:]


def _change_constant(model: onnx.ModelProto) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == _first(model, "Div").input[1])
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 2, tensor.name))


def _bypass_guard(model: onnx.ModelProto) -> None:
    guard = _first(model, "Where")
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            if name == guard.output[0]:
                node.input[i] = guard.input[1]


def _read_from_outside(model: onnx.ModelProto) -> None:
    model.graph.output.append(helper.make_tensor_value_info(_first(model, "GridSample").output[0], 1, [None] * 4))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (_change_transpose, r"_transpose' has other attributes"),
        (_drop_metadata, r"the part 'offset_xy', which held offset, is gone"),
        (_change_constant, r"constant 'dcn_deploy/float32_.*' is another"),
        (_bypass_guard, r"is a Div, expected Where"),
        (_read_from_outside, r"'size_7/sample', a value inside it, is used from outside"),
    ],
    ids=["attribute", "metadata", "constant", "wiring", "outside"],
)
def test_changed_expansions_are_not_turned_back(change: Callable[[onnx.ModelProto], None], why: str) -> None:
    converted = convert(peers.model(cases.by_name("size_7"), form="plugin", opset=18), "decomposed")
    change(converted)
    with pytest.raises(
        InvalidModelError,
        match=rf"ends in node 'size_7' cannot be turned back .*{why}.*Convert the file it was made from",
    ):
        convert(converted, "plugin")


def test_unreadable_original_is_refused() -> None:
    converted = convert(peers.model(cases.by_name("size_7"), form="plugin", opset=18), "decomposed")
    for entry in _first(converted, "Conv").metadata_props:
        if entry.key == "dcn_deploy.original":
            entry.value = '{"op_type": "SomethingNew"}'
    with pytest.raises(InvalidModelError, match=r"metadata 'dcn_deploy.original' cannot be read .*newer version"):
        convert(converted, "plugin")


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"group": 3}, r"attribute group: expected a divisor of C = 8, got 3"),
        ({"offset_group": 5}, r"attribute offset_group: expected a divisor of C = 8, got 5"),
        ({"offset_group": 2}, r"shape of offset, axis 1: expected 2·offset_group·kH·kW = 36, got 18"),
        ({"strides": [0, 1]}, r"attribute strides: expected values of at least 1, got \[0, 1\]"),
        ({"pads": [-1, 0, 0, 0]}, r"attribute pads: expected values of at least 0"),
        ({"pads": [1, 1]}, r"attribute pads: expected 4 ints, got \[1, 1\]"),
        ({"kernel_shape": [5, 3]}, r"attribute kernel_shape: expected that of W, \[3, 3\], got \[5, 3\]"),
        ({"strides": [2, 1]}, r"shape of offset, axis 2: expected Ho = 4, got 7"),
        ({"deformable": 1}, r"attribute deformable: expected one of dilations, group"),
    ],
)
@pytest.mark.parametrize("form", ["plugin", "decomposed"])
def test_malformed_nodes_are_refused(form: str, attributes: dict[str, Any], message: str) -> None:
    model = peers.model(cases.by_name("size_7"), form="plugin", opset=18, attributes=attributes)
    with pytest.raises(InvalidModelError, match=rf"Node 'size_7' \(DeformConv2d\): {message}"):
        convert(model, form)


def test_missing_and_superfluous_inputs_are_refused() -> None:
    model = peers.model(cases.by_name("size_7"), form="plugin", opset=18)
    model.graph.node[0].input[2] = ""
    with pytest.raises(InvalidModelError, match=r"input offset \(position 2\): expected a tensor, got nothing"):
        convert(model, "standard")
    model = peers.model(cases.by_name("size_7"), form="plugin", opset=18)
    model.graph.node[0].input.append("X")
    with pytest.raises(InvalidModelError, match=r"number of inputs: expected at most 5, got 6"):
        convert(model, "standard")


@pytest.mark.parametrize("outputs", [["Y", "again"], []], ids=len)
def test_a_wrong_number_of_outputs_is_refused(outputs: list[str]) -> None:
    model = peers.model(cases.by_name("size_7"), form="plugin", opset=18)
    del model.graph.node[0].output[:]
    model.graph.node[0].output.extend(outputs)
    if "Y" not in outputs:
        model.graph.node.append(helper.make_node("Identity", ["X"], ["Y"]))
    with pytest.raises(InvalidModelError, match=rf"number of outputs: expected 1, got {len(outputs)}"):
        convert(model, "decomposed")
    (found,) = [finding for finding in lint(model) if finding.rule == "malformed-node"]
    assert f"number of outputs: expected 1, got {len(outputs)}" in found.message


def test_wrong_element_types_are_refused() -> None:
    model = peers.model(cases.by_name("size_7"), form="plugin", opset=18, coordinate_dtype=np.float16)
    with pytest.raises(
        InvalidModelError, match=r"element type of offset: expected float32 or that of X, float32, got float16"
    ):
        convert(model, "decomposed")


def test_unknown_form_and_unreadable_files_are_refused(in_folder: Path) -> None:
    model = peers.model(cases.by_name("size_7"), form="plugin", opset=18)
    with pytest.raises(InvalidArgumentError, match=r"form: expected one of plugin, standard, decomposed, got 'onnx'"):
        convert(model, "onnx")
    with pytest.raises(InvalidModelError, match=r"expected the path of an ONNX file, got 'absent.onnx'"):
        convert("absent.onnx", "plugin")
    Path("text.onnx").write_text("not a model")
    with pytest.raises(InvalidModelError, match=r"'text.onnx' cannot be read as an ONNX model"):
        convert("text.onnx", "plugin")
    with pytest.raises(InvalidArgumentError, match=r"model: expected an onnx.ModelProto or a path, got int"):
        convert(3, "plugin")  # type: ignore[arg-type]


# ---- files ----


def test_files_with_external_data(in_folder: Path, rng: np.random.Generator) -> None:
    case = cases.by_name("size_7")
    model = peers.model(case, form="plugin", opset=18)
    weight = cases.make_inputs(case, rng, np.float32).W
    model.graph.initializer.append(numpy_helper.from_array(weight, "W"))
    del model.graph.input[1]
    onnx.save(model, "in.onnx", save_as_external_data=True, location="in.data", size_threshold=0)
    result = convert_file("in.onnx", "out.onnx", "decomposed", external_data=True)
    assert result.external_data == Path("out.onnx.data")
    assert result.nodes == 1
    read = onnx.load("out.onnx")
    tensor = next(t for t in read.graph.initializer if t.name == "W")
    np.testing.assert_array_equal(numpy_helper.to_array(tensor), weight)
    assert sorted(p.name for p in in_folder.iterdir()) == ["in.data", "in.onnx", "out.onnx", "out.onnx.data"]
    # In place: the weights are still read while the new file is written. And to another folder, into the file.
    convert_file("out.onnx", "out.onnx", "standard")
    (in_folder / "elsewhere").mkdir()
    convert_file("in.onnx", "elsewhere/out.onnx", "standard")
    for path in ("out.onnx", "elsewhere/out.onnx"):
        inside = next(t for t in onnx.load(path, load_external_data=False).graph.initializer if t.name == "W")
        assert inside.data_location == onnx.TensorProto.DEFAULT
        np.testing.assert_array_equal(numpy_helper.to_array(inside), weight)


def with_external_weights(rng: np.random.Generator, opset: int) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A model with small weights: an initializer and constants in the graph, in a branch and in a function."""
    case = cases.by_name("size_7")
    model = peers.model(case, form="plugin", opset=opset)
    arrays = {"W": cases.make_inputs(case, rng, np.float32).W}
    model.graph.initializer.append(numpy_helper.from_array(arrays["W"], "W"))
    del model.graph.input[1]
    value = helper.make_tensor_value_info
    for name in ("constant", "inner", "called"):
        arrays[name] = rng.normal(size=3).astype(np.float32)

    def constant(name: str) -> onnx.NodeProto:
        return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(arrays[name], name))

    branches = []
    for name in ("then", "else"):
        inner = f"inner_{name}"
        kept = numpy_helper.from_array(arrays["inner"], inner)
        add = helper.make_node("Add", [inner, "constant"], [name])
        branches.append(helper.make_graph([add], name, [], [value(name, 1, [3])], [kept]))
    model.graph.input.append(value("condition", onnx.TensorProto.BOOL, []))
    model.graph.node.extend(
        [
            constant("constant"),
            helper.make_node("If", ["condition"], ["chosen"], then_branch=branches[0], else_branch=branches[1]),
            helper.make_node("AddCalled", ["chosen"], ["sum"], domain="local"),
        ]
    )
    model.graph.output.append(value("sum", 1, [3]))
    model.opset_import.append(helper.make_opsetid("local", 1))
    body = [constant("called"), helper.make_node("Add", ["a", "called"], ["b"])]
    model.functions.append(
        helper.make_function("local", "AddCalled", ["a"], ["b"], body, [helper.make_opsetid("", opset)])
    )
    return model, arrays


def tensors_of(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """Every tensor of a model but those that a conversion adds, whose names have a slash."""

    def found(nodes: Any, initializers: Any) -> Any:
        yield from initializers
        for node in nodes:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                if attribute.HasField("g"):
                    yield from found(attribute.g.node, attribute.g.initializer)

    result = list(found(model.graph.node, model.graph.initializer))
    for function in model.functions:
        result.extend(found(function.node, ()))
    return [tensor for tensor in result if "/" not in tensor.name]


def write_with_data(model: onnx.ModelProto, path: Path) -> None:
    """Write every tensor into a data file, those in attributes too."""
    data = b""
    for tensor in tensors_of(model):
        onnx.external_data_helper.set_external_data(tensor, f"{path.name}.data", len(data), len(tensor.raw_data))
        data += tensor.raw_data
        tensor.ClearField("raw_data")
    path.with_name(f"{path.name}.data").write_bytes(data)
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("opset", "arguments"),
    [
        (19, {"form": "plugin"}),
        (19, {"form": "standard"}),
        (19, {"form": "decomposed"}),
        (18, {"form": "standard"}),
        (17, {"form": "decomposed"}),
        (17, {"form": "plugin", "precision": "fp32"}),
        (19, {"form": "plugin", "external_data": True}),
    ],
)
def test_small_weights_of_a_data_file_come_along(
    opset: int, arguments: dict[str, Any], in_folder: Path, rng: np.random.Generator
) -> None:
    """The output must not refer to the source's data file, which lies elsewhere, or is another one of that name."""
    model, arrays = with_external_weights(rng, opset)
    write_with_data(model, in_folder / "in.onnx")
    elsewhere = in_folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "in.onnx.data").write_bytes(bytes(4096))
    convert_file("in.onnx", elsewhere / "out.onnx", **arguments)
    written = onnx.load(elsewhere / "out.onnx", load_external_data=False)
    returned = convert("in.onnx", **{name: value for name, value in arguments.items() if name != "external_data"})
    for converted, kept_outside in ((written, "external_data" in arguments), (returned, False)):
        found = tensors_of(converted)
        names = [tensor.name for tensor in found]
        assert len(names) == len(tensors_of(model))
        for tensor, name in zip(found, names, strict=True):
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                assert kept_outside
                assert {entry.key: entry.value for entry in tensor.external_data}["location"] == "out.onnx.data"
                onnx.external_data_helper.load_external_data_for_tensor(tensor, str(elsewhere))
            np.testing.assert_array_equal(numpy_helper.to_array(tensor), arrays[name.partition("_")[0]])


def test_every_function_that_returns_a_model_returns_its_weights(in_folder: Path, rng: np.random.Generator) -> None:
    model, _ = with_external_weights(rng, 19)
    (in_folder / "source").mkdir()
    write_with_data(model, in_folder / "source" / "in.onnx")
    for function in (infer_shapes, unfold_quantisation, lambda path: fold_quantisation(path).model):
        for tensor in tensors_of(function("source/in.onnx")):
            assert tensor.data_location == onnx.TensorProto.DEFAULT
            assert numpy_helper.to_array(tensor).any()


def test_references_in_a_model_in_memory_stay(rng: np.random.Generator, in_folder: Path) -> None:
    """Nobody knows the folder that they are meant from."""
    model, _ = with_external_weights(rng, 19)
    write_with_data(model, in_folder / "in.onnx")
    (in_folder / "in.onnx.data").unlink()
    converted = convert(model, "standard")
    assert all(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in tensors_of(converted))


def test_weights_that_no_protocol_buffer_holds(
    in_folder: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = with_external_weights(rng, 19)
    write_with_data(model, in_folder / "in.onnx")
    monkeypatch.setattr(model_files, "EXTERNAL_DATA_THRESHOLD", 100)
    with pytest.raises(
        UnsupportedError, match=r"weights .*: expected at most 100 bytes, .* got \d+ bytes.*convert_file"
    ):
        convert("in.onnx", "standard")
    assert convert_file("in.onnx", "out.onnx", "standard").external_data == Path("out.onnx.data")


def test_many_weights_of_a_data_file(in_folder: Path) -> None:
    """More than a process may have open files."""
    model = peers.model(cases.by_name("size_7"), form="plugin", opset=19)
    for i in range(1500):
        model.graph.initializer.append(numpy_helper.from_array(np.float32([i]), f"t{i}"))
    write_with_data(model, in_folder / "in.onnx")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    try:
        convert_file("in.onnx", "out.onnx", "standard")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    for tensor in onnx.load("out.onnx").graph.initializer:
        assert numpy_helper.to_array(tensor) == float(tensor.name[1:])


def test_files_are_what_protobuf_writes(in_folder: Path, rng: np.random.Generator) -> None:
    """Weights are written piece by piece: large and small ones, of every storage, strings, in order."""
    import onnx_ir as ir

    model = peers.model(cases.by_name("size_7"), form="plugin", opset=18)
    arrays = {
        "large": rng.normal(size=(40, 30)).astype(np.float32),
        "huge": rng.integers(0, 9, size=(300, 300)),
        "small": np.arange(3),
        "scalar": np.float16(2),
        "text": np.array(["a", "bc"] * 2000, object),
        "flags": rng.random(2000) < 0.5,
    }
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(a), name) for name, a in arrays.items())
    typed = helper.make_tensor("typed", onnx.TensorProto.FLOAT, [400], list(range(400)))
    typed.doc_string = "not raw"
    model.graph.initializer.append(typed)
    model_files.save(ir.from_proto(model), Path("ours.onnx"))
    ir.save(ir.from_proto(model), "theirs.onnx")
    ours, theirs = onnx.load("ours.onnx"), onnx.load("theirs.onnx")
    for tensor in ours.graph.initializer:
        (other,) = [t for t in theirs.graph.initializer if t.name == tensor.name]
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), numpy_helper.to_array(other))
        assert (tensor.data_type, tensor.dims, tensor.doc_string) == (other.data_type, other.dims, other.doc_string)
    assert [t.name for t in ours.graph.initializer] == [t.name for t in theirs.graph.initializer]
    for read in (ours, theirs):
        del read.graph.initializer[:]
    assert ours == theirs
    onnx.checker.check_model("ours.onnx")


def test_what_would_be_lost_is_refused() -> None:
    model = peers.model(cases.by_name("size_7"), form="plugin", opset=18)
    model.graph.sparse_initializer.add().dims.append(3)
    with pytest.raises(UnsupportedError, match="the model has sparse initializers, which this package would lose"):
        convert(model, "standard")


def test_failed_conversion_leaves_an_existing_file_alone(in_folder: Path) -> None:
    onnx.save(peers.model(cases.by_name("size_7"), form="plugin", opset=18, attributes={"group": 3}), "bad.onnx")
    Path("out.onnx").write_bytes(b"precious")
    with pytest.raises(InvalidModelError):
        convert_file("bad.onnx", "out.onnx", "standard")
    assert Path("out.onnx").read_bytes() == b"precious"
    with pytest.raises(InvalidArgumentError, match=r"output: expected a file name ending in .onnx, got 'out.txt'"):
        convert_file("bad.onnx", "out.txt", "standard")
    with pytest.raises(InvalidArgumentError, match=r"expected a file in an existing folder.*mkdir -p 'no/where'"):
        convert_file("bad.onnx", "no/where/out.onnx", "standard")
