"""Q/DQ around a deformable convolution, folded into one int8 node and written out again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cases
import numpy as np
import onnx
import peers
import pytest
from onnx import TensorProto, helper, numpy_helper
from quantised import LEFT_CASE, X_SCALE, Y_SCALE, qdq_model, weight_scales

from dcn_deploy import runtime
from dcn_deploy.errors import BackendError, InvalidModelError, UnsupportedError
from dcn_deploy.export import convert, fold_quantisation, form_of, infer_shapes, lint, unfold_quantisation
from dcn_deploy.ops.reference_int8 import deform_conv2d_int8, round_to_int8

CASES = [
    cases.by_name(name)
    for name in (
        "size_7",
        "unequal_small",
        "asymmetric_pads",
        "no_mask",
        "no_bias",
        "depthwise",
        "group_2_offset_group_4",
        "batch_3",
        "offsets_large",
    )
]


def run(backend: str, model: onnx.ModelProto, feed: dict[str, Any]) -> cases.Array:
    with runtime.create(backend, model) as runner:
        (y,) = runner.infer(feed).values()
    return np.asarray(y)


def convolution_of(model: onnx.ModelProto) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.op_type == "DeformConv2d")


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def rounding_of_samples(case: cases.Case, model: onnx.ModelProto) -> cases.Array:
    """The most that half a unit in every sample does to an output: [M]."""
    weight = next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == "w").astype(np.float64)
    scale = next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == "w_scale")
    return 0.5 * X_SCALE * np.abs(weight).sum(axis=(1, 2, 3)) * scale


# ---- what is folded ----


@pytest.mark.parametrize("quantised_y", [True, False], ids=["int8", "float32"])
@pytest.mark.parametrize("per_channel", [True, False], ids=["per_channel", "per_tensor"])
@pytest.mark.parametrize("case", CASES, ids=cases.name_of)
def test_folded_node_against_the_qdq_file_in_onnxruntime(
    case: cases.Case, per_channel: bool, quantised_y: bool, rng: np.random.Generator
) -> None:
    model, feed = qdq_model(case, rng, per_channel=per_channel, quantised_y=quantised_y)
    result = fold_quantisation(model)
    assert result.folded == ("conv",)
    assert result.left == ()
    node = convolution_of(result.model)
    given = attributes_of(node)
    assert given["x_scale"] == pytest.approx(X_SCALE)
    assert given["weight_scale"] == pytest.approx(weight_scales(case, per_channel).tolist())
    assert ("y_scale" in given) == quantised_y
    kept = ["QuantizeLinear", "DeformConv2d", *(["DequantizeLinear"] if quantised_y else [])]
    assert [n.op_type for n in result.model.graph.node] == kept
    assert list(node.input)[:2] == ["x_int8", "w"]

    plain = run("onnxruntime", model, feed)
    folded = run("reference", result.model, feed)
    bound = rounding_of_samples(case, model)[None, :, None, None] + (Y_SCALE if quantised_y else 0) + 1e-4
    peers.assert_within(folded, plain, np.broadcast_to(bound, plain.shape))
    # In the mean it is far less: a sample is off by an eighth of a unit or so, either way.
    assert np.sqrt(np.mean((folded - plain) ** 2)) < 0.25 * float(bound.mean())


@pytest.mark.parametrize("case", [cases.by_name("no_mask")], ids=cases.name_of)
def test_where_samples_are_whole_the_two_forms_agree(case: cases.Case, rng: np.random.Generator) -> None:
    model, feed = qdq_model(case, rng, quantised_y=False)
    feed["offset"] = np.rint(feed["offset"])
    plain = run("onnxruntime", model, feed)
    folded = run("reference", fold_quantisation(model).model, feed)
    np.testing.assert_allclose(folded, plain, rtol=0, atol=1e-5 * float(np.abs(plain).max()))


def test_weights_that_are_quantised_in_the_file(rng: np.random.Generator) -> None:
    """As training with simulated quantisation writes them: float weights, Q, DQ."""
    case = cases.by_name("size_7")
    model, feed = qdq_model(case, rng)
    weight = next(t for t in model.graph.initializer if t.name == "w")
    floats = numpy_helper.to_array(weight).astype(np.float32) * weight_scales(case, True)[:, None, None, None]
    weight.CopyFrom(numpy_helper.from_array(floats, "w_trained"))
    quantise = helper.make_node("QuantizeLinear", ["w_trained", "w_scale", "w_zero"], ["w"], axis=0)
    model.graph.node.insert(0, quantise)
    result = fold_quantisation(model)
    assert result.folded == ("conv",)
    assert [n.op_type for n in result.model.graph.node].count("QuantizeLinear") == 2
    peers.assert_within(
        run("reference", result.model, feed),
        run("onnxruntime", model, feed),
        np.full(case.output_shape, float(rounding_of_bound(case, floats)) + Y_SCALE),
    )


def rounding_of_bound(case: cases.Case, weight: cases.Array) -> float:
    return 0.5 * X_SCALE * float(np.abs(weight).sum(axis=(1, 2, 3)).max()) + 1e-4


def test_what_else_uses_the_floats_keeps_them(rng: np.random.Generator) -> None:
    model, _ = qdq_model(cases.by_name("size_7"), rng)
    model.graph.node.append(helper.make_node("Relu", ["x_float"], ["also"]))
    model.graph.output.append(helper.make_tensor_value_info("also", TensorProto.FLOAT, cases.by_name("size_7").x_shape))
    result = fold_quantisation(model)
    assert result.folded == ("conv",)
    assert [n.op_type for n in result.model.graph.node].count("DequantizeLinear") == 2
    onnx.checker.check_model(result.model)


def test_y_that_goes_to_two_places_stays_float32(rng: np.random.Generator) -> None:
    model, feed = qdq_model(cases.by_name("size_7"), rng)
    model.graph.node.append(helper.make_node("Relu", ["y_float"], ["also"]))
    model.graph.output.append(helper.make_tensor_value_info("also", TensorProto.FLOAT, [None] * 4))
    result = fold_quantisation(model)
    assert result.folded == ("conv",)
    assert "y_scale" not in attributes_of(convolution_of(result.model))
    assert [n.op_type for n in result.model.graph.node].count("QuantizeLinear") == 2
    with runtime.create("reference", result.model) as runner:
        assert np.isfinite(runner.infer(feed)["also"]).all()


def test_a_standard_node_is_folded_too(rng: np.random.Generator) -> None:
    model, _ = qdq_model(cases.by_name("size_7"), rng)
    node = convolution_of(model)
    node.op_type, node.domain = "DeformConv", ""
    result = fold_quantisation(model)
    assert result.folded == ("conv",)
    assert form_of(result.model) == "plugin"


def test_a_network_without_quantisation_is_left_in_peace() -> None:
    result = fold_quantisation(peers.model(cases.by_name("size_7"), form="plugin", opset=19))
    assert (result.folded, result.left) == ((), ())


# ---- what is not ----

_LEFT = {
    "asymmetric": ({"x_zero": np.int8(3)}, "zero point of X: expected 0, got 3. Quantise symmetrically."),
    "asymmetric_weights": (
        {"w_zero": np.array([0, -5, 0, 0, 0], dtype=np.int8)},
        "zero point of W: expected 0, got -5. Quantise symmetrically.",
    ),
    "scale_of_zero": ({"x_scale": np.float32(0)}, "scale of X: expected positive, finite numbers, got 0.0."),
    "per_channel_activations": (
        {"x_scale": np.full(4, 0.03, dtype=np.float32), "x_zero": np.zeros(4, dtype=np.int8)},
        "scale of X: expected one, got 4 along axis 1.",
    ),
}


@pytest.mark.parametrize("name", _LEFT)
def test_what_cannot_be_folded_stays_and_is_told(name: str, rng: np.random.Generator) -> None:
    changes, reason = _LEFT[name]
    model, _ = qdq_model(LEFT_CASE, rng, **changes)
    result = fold_quantisation(model)
    assert result.folded == ()
    assert result.left == (("conv", reason),)
    assert [n.op_type for n in result.model.graph.node] == [n.op_type for n in model.graph.node]


def test_uint8_is_left(rng: np.random.Generator) -> None:
    zero = np.uint8(0)
    model, _ = qdq_model(LEFT_CASE, rng, x_zero=zero)
    assert fold_quantisation(model).left == (("conv", "element type of X, quantised: expected int8, got uint8."),)
    # Of Y it is no obstacle: the node gives float32, and the QuantizeLinear stays.
    model, _ = qdq_model(LEFT_CASE, rng, y_zero=zero)
    result = fold_quantisation(model)
    assert result.folded == ("conv",)
    assert "y_scale" not in attributes_of(convolution_of(result.model))


def test_weights_with_scales_along_another_axis_are_left(rng: np.random.Generator) -> None:
    model, _ = qdq_model(LEFT_CASE, rng, w_scale=np.full(4, 0.01, np.float32), w_zero=np.zeros(4, np.int8))
    node = next(n for n in model.graph.node if n.output[0] == "w_float")
    node.attribute[0].i = 1
    assert fold_quantisation(model).left == (
        ("conv", "scale of W: expected one, or one for each place of axis 0, got 4 along axis 1."),
    )
    # Counted from the end, axis 0 is -4.
    model, _ = qdq_model(LEFT_CASE, rng)
    next(n for n in model.graph.node if n.output[0] == "w_float").attribute[0].i = -4
    assert fold_quantisation(model).folded == ("conv",)


def test_weights_that_are_not_quantised_are_left(rng: np.random.Generator) -> None:
    model, _ = qdq_model(LEFT_CASE, rng)
    next(n for n in model.graph.node if n.output[0] == "w_float").op_type = "Cast"
    node = next(n for n in model.graph.node if n.output[0] == "w_float")
    del node.input[1:]
    del node.attribute[:]
    node.attribute.append(helper.make_attribute("to", TensorProto.FLOAT))
    assert fold_quantisation(model).left == (("conv", "W comes from Cast, not from DequantizeLinear."),)


def test_a_scale_that_is_computed_is_left(rng: np.random.Generator) -> None:
    model, _ = qdq_model(LEFT_CASE, rng)
    scale = next(t for t in model.graph.initializer if t.name == "x_scale")
    model.graph.initializer.remove(scale)
    model.graph.input.append(helper.make_tensor_value_info("x_scale", TensorProto.FLOAT, []))
    assert fold_quantisation(model).left == (
        ("conv", "scale of X: expected a constant, got 'x_scale', which is computed."),
    )


def test_a_scale_that_a_caller_may_override_is_left(rng: np.random.Generator) -> None:
    model, _ = qdq_model(LEFT_CASE, rng)
    model.graph.input.append(helper.make_tensor_value_info("x_scale", TensorProto.FLOAT, []))
    result = fold_quantisation(model)
    assert result.left == (
        ("conv", "scale of X: expected a constant, got 'x_scale', which is a default, for an input of the graph."),
    )
    assert result.folded == ()


def test_half_features_want_a_quantised_y(rng: np.random.Generator) -> None:
    for quantised_y in (True, False):
        model, _ = qdq_model(
            cases.Case("half", c=4, m=5, bias=False),
            rng,
            quantised_y=quantised_y,
            **{name: np.float16(value) for name, value in (("x_scale", X_SCALE), ("y_scale", Y_SCALE))},
            w_scale=np.full(5, 0.01, dtype=np.float16),
        )
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
        result = fold_quantisation(model)
        if quantised_y:
            assert result.folded == ("conv",)
        else:
            assert result.left == (
                (
                    "conv",
                    "Y would be float16, and an int8 node gives int8 or float32: Y is an output of the graph.",
                ),
            )


# ---- and back ----


@pytest.mark.parametrize("quantised_y", [True, False], ids=["int8", "float32"])
@pytest.mark.parametrize("per_channel", [True, False], ids=["per_channel", "per_tensor"])
@pytest.mark.parametrize("case", CASES, ids=cases.name_of)
def test_unfolding_gives_what_was_folded(
    case: cases.Case, per_channel: bool, quantised_y: bool, rng: np.random.Generator
) -> None:
    model, feed = qdq_model(case, rng, per_channel=per_channel, quantised_y=quantised_y)
    folded = fold_quantisation(model).model
    again = unfold_quantisation(folded)
    onnx.checker.check_model(again)
    assert [n.op_type for n in again.graph.node] == [n.op_type for n in model.graph.node]
    assert convolution_of(again).name == "conv"
    np.testing.assert_array_equal(run("onnxruntime", again, feed), run("onnxruntime", model, feed))
    assert fold_quantisation(again).folded == ("conv",)


def test_unfolded_the_node_has_every_form(rng: np.random.Generator) -> None:
    case = cases.by_name("size_7")
    model, feed = qdq_model(case, rng)
    plain = run("onnxruntime", model, feed)
    for form in ("standard", "decomposed"):
        converted = convert(unfold_quantisation(fold_quantisation(model).model), form)
        assert form_of(converted) == form
        # One unit of Y where the last rounding falls the other way.
        peers.assert_within(run("onnxruntime", converted, feed), plain, np.full(plain.shape, Y_SCALE * 1.001))


# ---- what others make of such a node ----


def folded_model(rng: np.random.Generator, **arguments: Any) -> onnx.ModelProto:
    return fold_quantisation(qdq_model(LEFT_CASE, rng, **arguments)[0]).model


@pytest.mark.parametrize("form", ["standard", "decomposed"])
def test_it_has_no_other_form(form: str, rng: np.random.Generator) -> None:
    with pytest.raises(UnsupportedError, match=r"its features are int8. Write it with .*dcn-deploy convert --int8 qdq"):
        convert(folded_model(rng), form)


def test_onnxruntime_says_what_runs_there(rng: np.random.Generator) -> None:
    message = r"at node 'conv'.*The library has no int8 kernels\..*convert --int8 qdq"
    with pytest.raises(BackendError, match=message):
        run("onnxruntime", folded_model(rng), {})


def test_shapes_and_types_pass_through(rng: np.random.Generator) -> None:
    for quantised_y, expected in ((True, TensorProto.INT8), (False, TensorProto.FLOAT)):
        model = folded_model(rng, quantised_y=quantised_y)
        del model.graph.value_info[:]
        name = convolution_of(model).output[0]
        inferred = infer_shapes(model)
        value = next(v for v in (*inferred.graph.value_info, *inferred.graph.output) if v.name == name)
        assert value.type.tensor_type.elem_type == expected
        assert [d.dim_value for d in value.type.tensor_type.shape.dim] == list(LEFT_CASE.output_shape)


def test_lint_knows_where_it_runs(rng: np.random.Generator) -> None:
    model = folded_model(rng)
    assert [f for f in lint(model) if f.severity == "error"] == []
    (finding,) = [f for f in lint(model, target="onnxruntime") if f.severity == "error"]
    assert finding.rule == "int8-plugin"
    assert "The Q/DQ form runs there: dcn-deploy convert --int8 qdq." in str(finding)
    for target in ("tensorrt-rtx", "openvino", "any"):
        (finding,) = [f for f in lint(model, target=target) if f.severity == "error"]
        assert finding.rule == "not-decomposable"
        assert "its features are int8" in finding.message
    assert [f for f in lint(unfold_quantisation(model), target="onnxruntime") if f.severity == "error"] == []


_MALFORMED = {
    "no_x_scale": ({"x_scale": None}, "attribute x_scale: expected a scale beside weight_scale, y_scale, got nothing."),
    "no_weight_scale": ({"weight_scale": None}, "attribute weight_scale: expected a scale beside x_scale, y_scale"),
    "negative": ({"y_scale": -1.0}, "attribute y_scale: expected positive, finite numbers, got -1.0."),
    "nan": ({"x_scale": float("nan")}, "attribute x_scale: expected positive, finite numbers, got nan."),
    "count": (
        {"weight_scale": [0.1] * 3},
        "attribute weight_scale: expected 1 number, or one for each of the 5 output channels, got 3.",
    ),
    "empty": ({"weight_scale": []}, "attribute weight_scale: expected 1 number, or one for each of the 5"),
    "kind": ({"x_scale": [0.1]}, "attribute x_scale: expected a value of type float, got [0.1"),
}


@pytest.mark.parametrize("name", _MALFORMED)
def test_malformed_scales(name: str, rng: np.random.Generator) -> None:
    changes, message = _MALFORMED[name]
    model = folded_model(rng)
    node = convolution_of(model)
    for attribute, value in changes.items():
        node.attribute.remove(next(a for a in node.attribute if a.name == attribute))
        if value is not None:
            kind = onnx.AttributeProto.FLOATS if isinstance(value, list) else None
            node.attribute.append(helper.make_attribute(attribute, value, attr_type=kind))
    (finding,) = [f for f in lint(model) if f.severity == "error"]
    assert finding.rule == "malformed-node"
    assert message in finding.message
    with pytest.raises(InvalidModelError, match="attribute"):
        convert(model, "plugin")


def test_scales_beside_float_features(rng: np.random.Generator) -> None:
    model = peers.model(LEFT_CASE, form="plugin", opset=19, attributes={"x_scale": 0.1, "weight_scale": [0.1]})
    with pytest.raises(
        InvalidModelError, match="element type of X, beside int8 scales: expected one of int8, got float32"
    ):
        convert(model, "plugin")


def test_the_standard_operator_has_no_scales() -> None:
    model = peers.model(LEFT_CASE, form="standard", opset=19, attributes={"x_scale": 0.1})
    (finding,) = [f for f in lint(model) if f.severity == "error"]
    assert "attribute x_scale: expected one of dilations" in finding.message


# ---- the reference ----


def test_reference_rounds_to_even_saturates_and_takes_nan_for_zero() -> None:
    values = [0.5, 1.5, -0.5, -1.5, 126.5, 127.5, 1e9, -128.5, -129, float("nan"), float("-inf")]
    np.testing.assert_array_equal(round_to_int8(values), [0, 2, 0, -2, 126, 127, 127, -128, -128, 0, -128])


def test_reference_by_hand() -> None:
    """One tap half a pixel along, two channels: samples 1.5 → 2 and −4 · 2 = −8, masked by 0.5 → 1 and −4."""
    x = np.array([[[[1, 2]], [[-8, -8]]]], dtype=np.int8)
    w = np.array([[[[3]], [[-2]]]], dtype=np.int8)
    offset = np.zeros((1, 2, 1, 2))
    offset[0, 1, 0, 0] = 0.5
    mask = np.array([[[[1.0, 0.5]]]])
    arguments = {"x_scale": 0.5, "weight_scale": [0.25]}
    y = deform_conv2d_int8(x, w, offset, [10.0], mask, **arguments)
    np.testing.assert_array_equal(y, [[[[10 + 0.125 * (3 * 2 + 2 * 8), 10 + 0.125 * (3 * 1 + 2 * 4)]]]])
    quantised = deform_conv2d_int8(x, w, offset, [10.0], mask, **arguments, y_scale=0.5)
    assert quantised.dtype == np.int8
    np.testing.assert_array_equal(quantised, [[[[26, 23]]]])  # 12.75/0.5 = 25.5 and 11.375/0.5 = 22.75


def test_a_file_on_disk(tmp_path: Path, rng: np.random.Generator) -> None:
    model, _ = qdq_model(LEFT_CASE, rng)
    onnx.save(model, tmp_path / "model.onnx")
    assert fold_quantisation(tmp_path / "model.onnx").folded == ("conv",)


@pytest.mark.parametrize(("precision", "coordinates"), [("fp16", TensorProto.FLOAT16), ("mixed", TensorProto.FLOAT)])
def test_another_precision_leaves_what_int8_fixes(precision: str, coordinates: int, rng: np.random.Generator) -> None:
    model = folded_model(rng)
    before, after = (infer_shapes(each) for each in (model, convert(model, precision=precision)))
    types = [
        {info.name: info.type.tensor_type.elem_type for info in (*m.graph.input, *m.graph.value_info, *m.graph.output)}
        | {tensor.name: tensor.data_type for tensor in m.graph.initializer}
        for m in (before, after)
    ]
    nodes = [convolution_of(each) for each in (before, after)]
    old, new = (
        [of.get(name, 0) for name in (*node.input, *node.output)] for of, node in zip(types, nodes, strict=True)
    )
    assert attributes_of(nodes[0]) == attributes_of(nodes[1])
    assert [new[i] for i in (0, 1, 3, 5)] == [old[i] for i in (0, 1, 3, 5)], "X, W, B, Y"
    assert new[0] == new[1] == TensorProto.INT8
    assert new[2] == new[4] == coordinates, "offset, mask"
