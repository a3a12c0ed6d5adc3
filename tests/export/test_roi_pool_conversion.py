"""RoI pooling between the forms, from mmcv's nodes, beside convolutions in one model, and what is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import cases
import ml_dtypes
import numpy as np
import onnx
import peers
import pytest
from onnx import helper, numpy_helper

from dcn_deploy.errors import InvalidModelError, UnsupportedError
from dcn_deploy.export import convert, form_of
from dcn_deploy.ops import reference

DTYPES = {
    "float32": (np.float32, None),
    "mixed": (np.float16, np.float32),
    "half": (np.float16, None),
    "bfloat16": (ml_dtypes.bfloat16, {"rois": np.float32}),
}
DECOMPOSABLE = cases.where(lambda case: not case.is_aligned or case.sampling_ratio > 0, cases.ALL_ROI_CASES)
PLAIN = cases.by_name("roi_size_19x7")


def opset_of(model: onnx.ModelProto, domain: str = "") -> int | None:
    return next((entry.version for entry in model.opset_import if entry.domain == domain), None)


def nodes_with_shapes(model: onnx.ModelProto) -> tuple[list[onnx.NodeProto], list[str], list[Any], list[Any]]:
    graph = model.graph
    return list(graph.node), [t.name for t in graph.initializer], list(graph.input), list(graph.output)


def both_operators(opset: int = 19) -> onnx.ModelProto:
    """``Y = convolution of X``, ``P = RoI pooling of Y``: a backbone's layer and a head."""
    convolution = cases.Case("layer", n=2, c=6, m=4, h=9, w=11, pad_top=1, pad_left=1, pad_bottom=1, pad_right=1)
    pooling = cases.RoiCase("head", n=2, c=4, h=9, w=11, r=5)
    first, second = peers.model(convolution, form="plugin", opset=opset), peers.roi_model(pooling, opset=opset)
    node = second.graph.node[0]
    node.input[0], node.output[0] = "Y", "P"
    for value in second.graph.input:
        if value.name != "X":
            name = value.name if value.name == "rois" else f"roi_{value.name}"
            node.input[list(node.input).index(value.name)] = name
            value.name = name
            first.graph.input.append(value)
    first.graph.node.append(node)
    first.graph.output[0].name = "P"
    return first


# ---- round trips ----


@pytest.mark.parametrize("types", DTYPES)
@pytest.mark.parametrize("case", DECOMPOSABLE, ids=cases.name_of)
def test_round_trip_gives_the_same_nodes(case: cases.RoiCase, types: str) -> None:
    dtype, coordinates = DTYPES[types]
    model = peers.roi_model(case, opset=18, dtype=dtype, coordinate_dtype=coordinates)
    there = convert(model, "decomposed")
    assert form_of(there) == "decomposed"
    back = convert(there, "plugin")
    assert form_of(back) == "plugin"
    assert nodes_with_shapes(back) == nodes_with_shapes(model)
    assert opset_of(back, "dcn_deploy") == 1


def test_round_trip_of_defaults_names_and_dynamic_extents() -> None:
    """Absent attributes stay absent; nodes without a name, and two with the same one; shared extents."""
    layers = [PLAIN, cases.by_name("roi_classes_3_group_2"), PLAIN]
    model = peers.roi_model(layers, opset=18, attributes={"gamma": None, "spatial_scale": None, "part_size": None})
    model.graph.node[0].name = model.graph.node[1].name = "twin"
    model.graph.node[2].ClearField("name")
    for i, node in enumerate(model.graph.node):
        node.doc_string = f"head {i}"
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].Clear()
        value.type.tensor_type.shape.dim[0].dim_param = "n" if value.name[0] == "X" else "r"
    there = convert(model, "decomposed")
    onnx.checker.check_model(there, full_check=True)
    names = [node.name for node in there.graph.node if node.output[0][0] != "Y"]
    assert len(set(names)) == len(names)
    assert nodes_with_shapes(convert(there, "plugin")) == nodes_with_shapes(model)


def test_conversion_is_deterministic_and_idempotent() -> None:
    model = peers.roi_model([PLAIN, cases.by_name("roi_classes_3_group_2")], opset=18)
    before = model.SerializeToString()
    for form in ("plugin", "decomposed"):
        once = convert(model, form)
        assert once.SerializeToString() == convert(model, form).SerializeToString()
        assert once.SerializeToString() == convert(once, form).SerializeToString()
    assert model.SerializeToString() == before


@pytest.mark.parametrize("coordinates", [np.float32, None], ids=["mixed", "all_half"])
def test_bfloat16_and_old_opsets_need_opset_15(coordinates: Any) -> None:
    model = peers.roi_model(PLAIN, opset=11, dtype=ml_dtypes.bfloat16, coordinate_dtype=coordinates)
    converted = convert(model, "decomposed")
    assert opset_of(converted) == 15
    onnx.checker.check_model(converted, full_check=True)
    assert opset_of(convert(model, "plugin")) == 11


# ---- both operators in one model ----


def test_convolution_and_pooling_convert_in_one_go(rng: np.random.Generator, make_plain_session: Any) -> None:
    model = both_operators()
    converted = convert(model, "decomposed")
    assert form_of(converted) == "decomposed"
    assert {node.domain for node in converted.graph.node} == {""}
    # The output's shape, which was not in the file, is inferred on the way.
    assert nodes_with_shapes(convert(converted, "plugin"))[:3] == nodes_with_shapes(model)[:3]
    x = rng.normal(size=(2, 6, 9, 11)).astype(np.float32)
    values = {"X": x, "rois": np.float32([[r % 2, r, 1, r + 4, 7] for r in range(5)])}
    for name, shape in (("W", (4, 6, 3, 3)), ("offset", (2, 18, 9, 11)), ("B", (4,)), ("mask", (2, 9, 9, 11))):
        values[name] = rng.normal(size=shape).astype(np.float32)
    values["roi_offset"] = rng.normal(size=(5, 2, 3, 3)).astype(np.float32)
    values["roi_mask"] = rng.random((5, 1, 3, 3)).astype(np.float32)
    (p,) = make_plain_session(converted).run(None, values)
    names = ("X", "W", "offset", "B", "mask")
    y = reference.deform_conv2d(*(values[name] for name in names), pads=(1, 1, 1, 1))
    wanted = reference.deform_roi_pool(
        y, values["rois"], values["roi_offset"], values["roi_mask"], output_size=(3, 3), sampling_ratio=2,
        gamma=float(np.float32(0.1)),
    )  # fmt: skip
    assert np.linalg.norm(p - wanted) <= 5e-6 * np.linalg.norm(wanted)


def test_a_model_with_pooling_has_no_standard_form() -> None:
    message = (
        r"Node 'head': the ONNX standard has no operator for DeformRoIPool2d\. Use the form plugin or decomposed\."
    )
    with pytest.raises(UnsupportedError, match=message):
        convert(both_operators(), "standard")
    # Said before the opset is touched, which may fail for a reason of its own.
    old = peers.roi_model(dataclasses.replace(PLAIN, name="head"), opset=11)
    old.graph.node.append(helper.make_node("NoSuchOperator", ["Y"], ["Z"]))
    with pytest.raises(UnsupportedError, match=message):
        convert(old, "standard")
    adaptive = peers.roi_model(cases.by_name("roi_sampling_ratio_0"))
    with pytest.raises(UnsupportedError, match=r"no operator for DeformRoIPool2d\. Use the form plugin\."):
        convert(adaptive, "standard")


def test_a_half_converted_model_is_brought_to_one_form() -> None:
    model = both_operators()
    model.graph.node[0].domain, model.graph.node[0].op_type = "", "DeformConv"
    assert form_of(model) == "mixed"
    assert form_of(convert(model, "plugin")) == "plugin"
    assert (
        convert(model, "decomposed").SerializeToString() == convert(both_operators(), "decomposed").SerializeToString()
    )


def test_nodes_in_subgraphs(rng: np.random.Generator, make_plain_session: Any) -> None:
    plain = peers.roi_model(PLAIN, opset=18)
    node = plain.graph.node[0]
    node.output[0] = "branch_y"
    shape = PLAIN.output_shape
    zeros = helper.make_node("ConstantOfShape", ["shape"], ["other_y"])
    branch = helper.make_node(
        "If",
        ["condition"],
        ["Y"],
        then_branch=helper.make_graph([node], "then", [], [helper.make_tensor_value_info("branch_y", 1, shape)]),
        else_branch=helper.make_graph([zeros], "else", [], [helper.make_tensor_value_info("other_y", 1, shape)]),
    )
    graph = helper.make_graph(
        [branch],
        "main",
        [helper.make_tensor_value_info("condition", onnx.TensorProto.BOOL, []), *plain.graph.input],
        [helper.make_tensor_value_info("Y", 1, shape)],
        [numpy_helper.from_array(np.array(shape), "shape")],
    )
    model = helper.make_model(graph, opset_imports=plain.opset_import, ir_version=10)
    converted = convert(model, "decomposed")
    onnx.checker.check_model(converted, full_check=True)
    inputs = cases.make_roi_inputs(PLAIN, rng, np.float32)
    (y,) = make_plain_session(converted).run(None, {"condition": np.array(True), **peers.feed(inputs)})
    wanted = reference.deform_roi_pool(*inputs.in_order(), **PLAIN.reference_arguments)
    assert np.linalg.norm(y - wanted) <= 3e-6 * np.linalg.norm(wanted)
    assert nodes_with_shapes(convert(converted, "plugin")) == nodes_with_shapes(model)


# ---- mmcv's nodes ----


def mmcv_model(case: cases.RoiCase, **attributes: Any) -> onnx.ModelProto:
    """As mmcv's symbolic function writes it: the sampling ratio is a float, there is no mask."""
    model = peers.roi_model(case, opset=18)
    written = {
        "pooled_height": case.pooled_h,
        "pooled_width": case.pooled_w,
        "spatial_scale": case.scale,
        "sampling_ratio": float(case.sampling_ratio),
        "gamma": case.factor,
        **attributes,
    }
    given = {name: value for name, value in written.items() if value is not None}
    names = [value.name for value in model.graph.input]
    node = helper.make_node("MMCVDeformRoIPool", names, ["Y"], name="foreign", domain="mmcv", **given)
    del model.graph.node[:]
    model.graph.node.append(node)
    del model.opset_import[:]
    model.opset_import.extend([helper.make_opsetid("", 18), helper.make_opsetid("mmcv", 1)])
    return model


@pytest.mark.parametrize("name", ["roi_no_mask", "roi_neither", "roi_neither_sampling_ratio_0", "roi_pooled_2x7"])
def test_mmcv_nodes(name: str) -> None:
    case = dataclasses.replace(cases.by_name(name), mask=False)
    model = mmcv_model(case)
    assert form_of(model) == "foreign"
    converted = convert(model, "plugin")
    assert opset_of(converted, "mmcv") is None
    (node,) = converted.graph.node
    assert (node.domain, node.op_type, node.name) == ("dcn_deploy", "DeformRoIPool2d", "foreign")
    expected = peers.roi_model(case, opset=18)
    expected.graph.node[0].name = "foreign"
    assert list(node.input) == list(expected.graph.node[0].input)
    found = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    assert found == {a.name: helper.get_attribute_value(a) for a in expected.graph.node[0].attribute}
    if case.sampling_ratio:
        expected = convert(expected, "decomposed")
        assert convert(model, "decomposed").graph == expected.graph


def test_mmcv_defaults_and_refusals() -> None:
    case = cases.by_name("roi_no_mask")
    bare = convert(mmcv_model(case, gamma=None, sampling_ratio=None, spatial_scale=None), "plugin")
    found = {a.name: helper.get_attribute_value(a) for a in bare.graph.node[0].attribute}
    assert found.pop("gamma") == pytest.approx(0.1)
    assert found == {"output_size": [3, 3], "sampling_ratio": 0, "spatial_scale": 1.0, "variant": b"aligned"}
    with pytest.raises(
        InvalidModelError, match=r"Node 'foreign', attribute sampling_ratio: expected a whole number, got 1\.5\."
    ):
        convert(mmcv_model(case, sampling_ratio=1.5), "plugin")
    with pytest.raises(InvalidModelError, match=r"attribute sampling_ratio: expected a whole number, got nan"):
        convert(mmcv_model(case, sampling_ratio=float("nan")), "plugin")
    with pytest.raises(InvalidModelError, match=r"'foreign', attribute pooled_width: expected an int, got nothing\."):
        convert(mmcv_model(case, pooled_width=None), "plugin")
    model = mmcv_model(case)
    model.graph.node[0].input.append("offset")
    with pytest.raises(InvalidModelError, match=r"expected at most 3 inputs \(X, rois, offset\), got 4"):
        convert(model, "plugin")


# ---- refusals ----


def _first(model: onnx.ModelProto, op_type: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.op_type == op_type)


def _change_scale(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.name.endswith("/start_scaled"))
    tensor = next(t for t in model.graph.initializer if t.name == node.input[1])
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(2), tensor.name))


def _drop_metadata(model: onnx.ModelProto) -> None:
    del next(node for node in model.graph.node if node.name.endswith("/rois_above")).metadata_props[:]


def _bypass_guard(model: onnx.ModelProto) -> None:
    guard = next(node for node in model.graph.node if node.name.endswith("/row_or_zeros"))
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            if name == guard.output[0]:
                node.input[i] = guard.input[1]


def _read_from_outside(model: onnx.ModelProto) -> None:
    model.graph.output.append(helper.make_tensor_value_info(_first(model, "MatMul").output[0], 1, [None] * 4))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (_change_scale, r"constant 'dcn_deploy/float32_.*' is another"),
        (_drop_metadata, r"the part 'rois_above', which held rois, is gone"),
        (_bypass_guard, r"is a Add, expected Where"),
        (_read_from_outside, r"'roi_scale_quarter/sum', a value inside it, is used from outside"),
    ],
    ids=["constant", "metadata", "wiring", "outside"],
)
def test_changed_expansions_are_not_turned_back(change: Callable[[onnx.ModelProto], None], why: str) -> None:
    converted = convert(peers.roi_model(cases.by_name("roi_scale_quarter"), opset=18), "decomposed")
    change(converted)
    with pytest.raises(InvalidModelError, match=rf"ends in node 'roi_scale_quarter' cannot be turned back .*{why}"):
        convert(converted, "plugin")


ALIGNED = cases.RoiCase("node", n=2, c=12, h=9, w=9, r=5, pooled_h=3, pooled_w=4)
PSROI = dataclasses.replace(ALIGNED, variant="psroi", classes=3, group_size=2, part_size=4)


@pytest.mark.parametrize(
    ("case", "attributes", "message"),
    [
        (ALIGNED, {"output_size": None}, r"attribute output_size: expected 2 ints, got nothing\."),
        (ALIGNED, {"output_size": [3]}, r"attribute output_size: expected 2 ints, got \[3\]\."),
        (ALIGNED, {"output_size": [3, 0]}, r"attribute output_size: expected values of at least 1, got \[3, 0\]\."),
        (ALIGNED, {"output_size": [4, 3]}, r"shape of offset, axis 2: expected pH = 4, got 3\."),
        (ALIGNED, {"variant": "roialign"}, r"attribute variant: expected one of aligned, psroi, got 'roialign'\."),
        (ALIGNED, {"variant": 1}, r"attribute variant: expected one of aligned, psroi, got 1\."),
        (ALIGNED, {"gamma": 1}, r"attribute gamma: expected a value of type float, got 1\."),
        (ALIGNED, {"gamma": float("nan")}, r"attribute gamma: expected a finite number, got nan\."),
        (ALIGNED, {"spatial_scale": 0.0}, r"attribute spatial_scale: expected a finite number above 0, got 0\.0\."),
        (ALIGNED, {"spatial_scale": float("inf")}, r"attribute spatial_scale: expected a finite number above 0"),
        (ALIGNED, {"sampling_ratio": -1}, r"attribute sampling_ratio: expected at least 0, got -1\."),
        (ALIGNED, {"sample_per_part": 0}, r"attribute sample_per_part: expected at least 1, got 0\."),
        (ALIGNED, {"part_size": -2}, r"attribute part_size: expected at least 0, got -2\."),
        (
            ALIGNED,
            {"group_size": 2},
            r"attribute group_size: expected 1 in the variant aligned, got 2\. Channel groups",
        ),
        (ALIGNED, {"output_channels": 3}, r"attribute output_channels: expected C = 12 \(or 0\) .* aligned, got 3\."),
        (ALIGNED, {"pooled": 3}, r"attribute pooled: expected one of gamma, group_size, .*, got 3\."),
        (PSROI, {"group_size": 0}, r"attribute group_size: expected at least 1, got 0\."),
        (PSROI, {"sampling_ratio": -1}, r"attribute sampling_ratio: expected at least 0, got -1\."),
        (PSROI, {"group_size": 5}, r"shape of X, axis 1: expected a multiple of group_size² = 25, got 12\."),
        (
            PSROI,
            {"output_channels": 6},
            r"shape of X, axis 1: expected output_channels·group_size² = 6·2² = 24, got 12\.",
        ),
        (
            PSROI,
            {"group_size": 1, "output_channels": 0, "variant": "psroi", "part_size": 3},
            r"shape of offset, axis 2: expected part_size = 3, got 4\.",
        ),
    ],
)
@pytest.mark.parametrize("form", ["plugin", "decomposed"])
def test_malformed_attributes_are_refused(
    form: str, case: cases.RoiCase, attributes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidModelError, match=rf"Node 'node' \(DeformRoIPool2d\): {message}"):
        convert(peers.roi_model(case, opset=18, attributes=attributes), form)


@pytest.mark.parametrize(
    ("case", "tensor", "shape", "message"),
    [
        (ALIGNED, "X", (12, 9, 9), r"shape of X: expected 4 dimension\(s\), got \[12, 9, 9\]\."),
        (ALIGNED, "X", (2, 12, 0, 9), r"shape of X: expected H of at least 1, got 0\."),
        (ALIGNED, "rois", (5, 4), r"shape of rois, axis 1: expected 5: \(batch index, x1, y1, x2, y2\), got 4\."),
        (ALIGNED, "rois", (7, 5), r"shape of offset, axis 0: expected R = 7, got 5\."),
        (ALIGNED, "offset", (5, 18, 3, 4), r"shape of offset, axis 1: expected channels = 2, got 18\."),
        (ALIGNED, "mask", (5, 2, 3, 4), r"shape of mask, axis 1: expected channels = 1, got 2\."),
        (ALIGNED, "mask", (5, 1, 3, 3), r"shape of mask, axis 3: expected pW = 4, got 3\."),
        (PSROI, "offset", (5, 5, 4, 4), r"shape of offset, axis 1: expected a positive multiple of 2, got 5\."),
        (PSROI, "offset", (5, 0, 4, 4), r"shape of offset, axis 1: expected a positive multiple of 2, got 0\."),
        (PSROI, "mask", (5, 1, 4, 4), r"shape of mask, axis 1: expected classes = 3, got 1\."),
        (PSROI, "mask", (5, 3, 4, 7), r"shape of mask, axis 3: expected part_size = 4, got 7\."),
        (
            dataclasses.replace(PSROI, mask=False),
            "offset",
            (5, 4, 4, 4),
            r"number of classes of offset or mask: expected a divisor of Cout = 3, got 2\.",
        ),
    ],
)
def test_malformed_shapes_are_refused(case: cases.RoiCase, tensor: str, shape: tuple[int, ...], message: str) -> None:
    model = peers.roi_model(case, opset=18)
    value = next(value for value in model.graph.input if value.name == tensor)
    value.CopyFrom(helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, shape))
    with pytest.raises(InvalidModelError, match=rf"Node 'node' \(DeformRoIPool2d\): {message}"):
        convert(model, "plugin")


def test_parts_must_be_square_where_no_attribute_says_so() -> None:
    model = peers.roi_model(PSROI, opset=18, attributes={"part_size": 0})
    for value in model.graph.input:
        if value.name in ("offset", "mask"):
            value.type.tensor_type.shape.dim[3].dim_value = 5
    with pytest.raises(
        InvalidModelError, match=r"shape of offset, axis 3: expected that of offset and mask = 4, got 5\."
    ):
        convert(model, "plugin")


def test_attributes_of_the_other_variant_are_ignored(rng: np.random.Generator, make_plain_session: Any) -> None:
    for case, others in ((ALIGNED, {"sample_per_part": 3, "part_size": 9}), (PSROI, {"sampling_ratio": 7})):
        inputs = cases.make_roi_inputs(case, rng, np.float32)
        ys = [
            make_plain_session(convert(peers.roi_model(case, opset=18, attributes=attributes), "decomposed")).run(
                None, peers.feed(inputs)
            )[0]
            for attributes in ({}, others)
        ]
        np.testing.assert_array_equal(*ys)


def test_element_types_that_do_not_go_together_are_refused() -> None:
    for tensor, wrong in (("rois", np.float64), ("offset", ml_dtypes.bfloat16), ("mask", np.float64)):
        model = peers.roi_model(ALIGNED, opset=18, dtype=np.float16, coordinate_dtype={tensor: wrong})
        name = np.dtype(wrong).name
        with pytest.raises(
            InvalidModelError,
            match=rf"element type of {tensor}: expected float32 or that of X, float16, got {name}",
        ):
            convert(model, "decomposed")


def test_missing_and_superfluous_inputs_are_refused() -> None:
    model = peers.roi_model(ALIGNED, opset=18)
    model.graph.node[0].input[1] = ""
    with pytest.raises(InvalidModelError, match=r"input rois \(position 1\): expected a tensor, got nothing"):
        convert(model, "plugin")
    model = peers.roi_model(ALIGNED, opset=18)
    model.graph.node[0].input.append("X")
    with pytest.raises(InvalidModelError, match=r"number of inputs: expected at most 4, got 5"):
        convert(model, "plugin")
