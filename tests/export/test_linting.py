"""Each rule of lint on a model that it is about, and on one next to it that it is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cases
import ml_dtypes
import numpy as np
import onnx
import peers
import pytest
from onnx import helper, numpy_helper

from dcn_deploy.errors import InvalidArgumentError
from dcn_deploy.export import Finding, convert, lint, unfold_quantisation
from dcn_deploy.export.linting import RULES, TARGETS, Report

PLAIN = cases.Case("plain", c=4, m=4, pad_top=1, pad_left=1, pad_bottom=1, pad_right=1)


def model(form: str, case: cases.Case = PLAIN, **arguments: Any) -> onnx.ModelProto:
    return peers.model(case, form=form, **{"opset": 19, **arguments})


def variant(**fields: Any) -> cases.Case:
    import dataclasses

    return dataclasses.replace(PLAIN, **fields)


def mutated(source: onnx.ModelProto, change: Callable[[onnx.ModelProto], object]) -> onnx.ModelProto:
    change(source)
    return source


def with_mask_producer(*op_types: str) -> onnx.ModelProto:
    """A model whose mask comes out of a chain of operators."""
    source = model("plugin")
    value = next(v for v in source.graph.input if v.name == "mask")
    value.name = "logits"
    names = ["logits", *(f"step{i}" for i in range(len(op_types) - 1)), "mask"]
    for i, op_type in reversed(list(enumerate(op_types))):
        source.graph.node.insert(0, helper.make_node(op_type, [names[i]], [names[i + 1]]))
    return source


def with_scaled_mask(activation: str, *, op_type: str = "Mul", constant_first: bool = False) -> onnx.ModelProto:
    """A model whose mask is that of an activation times 2, as in DCNv2's original code, or divided by 2."""
    source = with_mask_producer(activation, "Identity")
    source.graph.initializer.append(numpy_helper.from_array(np.float32(2), "two"))
    scaling = source.graph.node[1]
    scaling.op_type = op_type
    scaling.input.insert(0 if constant_first else 1, "two")
    return source


def with_bias() -> onnx.ModelProto:
    """A model whose bias is a weight."""
    source = model("plugin")
    source.graph.input.remove(next(v for v in source.graph.input if v.name == "B"))
    source.graph.initializer.append(numpy_helper.from_array(np.zeros(PLAIN.m, np.float32), "B"))
    return source


def int8_model() -> onnx.ModelProto:
    source = model("plugin", attributes={"x_scale": 0.1, "weight_scale": [0.01], "y_scale": 0.1})
    for value in (*source.graph.input, *source.graph.output):
        if value.name in ("X", "W", "Y"):
            value.type.tensor_type.elem_type = onnx.TensorProto.INT8
    return source


def foreign() -> onnx.ModelProto:
    source = model("plugin")
    node = source.graph.node[0]
    node.domain, node.op_type = "mmdeploy", "MMCVModulatedDeformConv2d"
    source.opset_import[1].domain = "mmdeploy"
    return source


def set_version(source: onnx.ModelProto, domain: str, version: int) -> None:
    next(e for e in source.opset_import if e.domain == domain).version = version


def roi_model(case: cases.RoiCase | None = None, **arguments: Any) -> onnx.ModelProto:
    return peers.roi_model(case or cases.RoiCase("roi"), **{"opset": 19, **arguments})


def without_roi_count(source: onnx.ModelProto) -> onnx.ModelProto:
    for value in source.graph.input:
        if value.name != "X":
            value.type.tensor_type.shape.dim[0].Clear()
    return source


ADAPTIVE = cases.RoiCase("adaptive", sampling_ratio=0)
LARGE_IMAGE = cases.RoiCase("large_image", h=40, w=30, spatial_scale=1 / 16)
MANY_ROIS = cases.RoiCase("many_rois", c=256, h=50, w=84, r=1000, pooled_h=7, pooled_w=7)
WIDE = variant(h=1, w=300, c=1, m=1, kernel_h=1, kernel_w=1, pad_top=0, pad_left=0, pad_bottom=0, pad_right=0)
LARGE = variant(c=64, m=1, h=200, w=200)

#: rule, target, a model that it finds something in, a model that it does not.
EXAMPLES: list[tuple[str, str | None, Callable[[], onnx.ModelProto], Callable[[], onnx.ModelProto]]] = [
    (
        "broken-graph",
        None,
        lambda: mutated(model("plugin"), lambda m: m.graph.node[0].input.__setitem__(2, "nowhere")),
        lambda: model("plugin"),
    ),
    (
        "broken-weight",
        None,
        lambda: mutated(with_bias(), lambda m: setattr(m.graph.initializer[0], "raw_data", bytes(3))),
        lambda: with_bias(),
    ),
    (
        "unknown-operator",
        None,
        lambda: mutated(model("plugin"), lambda m: setattr(m.graph.node[0], "op_type", "DeformConv9d")),
        lambda: model("plugin"),
    ),
    (
        "domain-version",
        None,
        lambda: mutated(model("plugin"), lambda m: set_version(m, "dcn_deploy", 2)),
        lambda: model("plugin"),
    ),
    (
        "malformed-node",
        None,
        lambda: model("plugin", attributes={"group": 3}),
        lambda: model("plugin", attributes={"group": 1}),
    ),
    ("malformed-node", None, lambda: model("standard", attributes={"offset_group": 2}), lambda: model("standard")),
    ("foreign-node", None, foreign, lambda: model("plugin")),
    (
        "opset-too-low",
        None,
        lambda: mutated(model("standard"), lambda m: set_version(m, "", 18)),
        lambda: model("standard"),
    ),
    (
        "opset-too-low",
        None,
        lambda: mutated(convert(model("plugin"), "decomposed"), lambda m: set_version(m, "", 15)),
        lambda: convert(model("plugin"), "decomposed"),
    ),
    (
        "tensorrt-mask-without-bias",
        "tensorrt",
        lambda: model("standard", variant(bias=False)),
        lambda: model("standard", variant(bias=False, mask=False)),
    ),
    (
        "tensorrt-asymmetric-pads",
        "tensorrt",
        lambda: model("standard", variant(pad_bottom=2)),
        lambda: model("plugin", variant(pad_bottom=2)),
    ),
    ("no-plugins", "tensorrt-rtx", lambda: model("plugin"), lambda: convert(model("plugin"), "decomposed")),
    ("no-plugins", "openvino", lambda: model("plugin"), lambda: model("standard")),
    ("no-plugins", "any", lambda: model("plugin"), lambda: model("standard")),
    ("no-plugins", "openvino", roi_model, lambda: convert(roi_model(), "decomposed")),
    ("no-plugins", "any", roi_model, lambda: roi_model(ADAPTIVE)),
    *(
        ("not-decomposable", target, lambda: roi_model(ADAPTIVE), roi_model)
        for target in ("tensorrt-rtx", "openvino", "any")
    ),
    ("not-decomposable", "any", lambda: model("plugin", static=False), lambda: model("plugin")),
    ("no-plugins", "tensorrt-rtx", roi_model, lambda: convert(roi_model(), "decomposed")),
    *(
        ("tensorrt-float64", target, lambda: model("plugin", dtype=np.float64), lambda: model("plugin"))
        for target in ("tensorrt", "tensorrt-rtx")
    ),
    (
        "half-batch-index",
        None,
        lambda: roi_model(cases.RoiCase("roi", n=258, h=1, w=1), dtype=ml_dtypes.bfloat16),
        lambda: roi_model(cases.RoiCase("roi", n=257, h=1, w=1), dtype=ml_dtypes.bfloat16),
    ),
    (
        "half-batch-index",
        None,
        lambda: convert(roi_model(cases.RoiCase("roi", n=2050, h=1, w=1), dtype=np.float16), "decomposed"),
        lambda: roi_model(cases.RoiCase("roi", n=2050, h=1, w=1), dtype=np.float16, coordinate_dtype=np.float32),
    ),
    ("no-stock-plugin", "tensorrt-rtx", lambda: model("standard"), lambda: model("plugin")),
    (
        "tensorrt-swapped-axes",
        "tensorrt",
        lambda: model("standard", variant(stride_h=2)),
        lambda: model("standard", variant(stride_h=2, stride_w=2)),
    ),
    (
        "tensorrt-swapped-axes",
        "tensorrt",
        lambda: model("standard", variant(dilation_w=2)),
        lambda: model("plugin", variant(dilation_w=2)),
    ),
    (
        "tensorrt-half-coordinates",
        "tensorrt",
        lambda: model("standard", dtype=np.float16),
        lambda: convert(model("plugin", dtype=np.float16, coordinate_dtype=np.float32), "standard"),
    ),
    ("standard-not-everywhere", "any", lambda: model("standard"), lambda: convert(model("standard"), "decomposed")),
    ("float64-plugin", "onnxruntime", lambda: model("plugin", dtype=np.float64), lambda: model("plugin")),
    ("float64-plugin", "onnxruntime", lambda: roi_model(dtype=np.float64), roi_model),
    ("int8-plugin", "onnxruntime", int8_model, lambda: unfold_quantisation(int8_model())),
    (
        "float64-sampling",
        "onnxruntime",
        lambda: convert(model("plugin", dtype=np.float64), "decomposed"),
        lambda: convert(model("plugin"), "decomposed"),
    ),
    (
        "float64-sampling",
        "onnxruntime",
        lambda: convert(model("plugin", dtype=np.float64), "decomposed"),
        lambda: convert(roi_model(dtype=np.float64), "decomposed"),
    ),
    (
        "half-rois",
        None,
        lambda: roi_model(LARGE_IMAGE, dtype=np.float16),
        lambda: roi_model(LARGE_IMAGE, dtype=np.float16, coordinate_dtype={"rois": np.float32}),
    ),
    (
        "half-rois",
        None,
        lambda: convert(roi_model(LARGE_IMAGE, dtype=ml_dtypes.bfloat16), "decomposed"),
        lambda: convert(roi_model(dtype=ml_dtypes.bfloat16), "decomposed"),
    ),
    (
        "ir-version",
        "onnxruntime",
        lambda: mutated(model("plugin"), lambda m: setattr(m, "ir_version", 11)),
        lambda: model("plugin"),
    ),
    (
        "half-offset",
        None,
        lambda: model("plugin", WIDE, dtype=np.float16),
        lambda: model("plugin", WIDE, dtype=np.float16, coordinate_dtype=np.float32),
    ),
    ("half-offset", None, lambda: model("plugin", WIDE, dtype=np.float16), lambda: model("plugin", dtype=np.float16)),
    # bfloat16 is as coarse beyond pixel 32 as float16 is beyond 256.
    (
        "half-offset",
        None,
        lambda: model("plugin", variant(w=40), dtype=ml_dtypes.bfloat16),
        lambda: model("plugin", variant(w=40), dtype=np.float16),
    ),
    (
        "half-offset",
        None,
        lambda: model("plugin", WIDE, dtype=np.float16),
        lambda: roi_model(cases.RoiCase("roi", c=1, h=1, w=300), dtype=np.float16, coordinate_dtype=np.float16),
    ),
    ("onnxruntime-version", "onnxruntime", lambda: model("standard"), lambda: model("plugin")),
    ("non-finite-offset", None, lambda: model("standard"), lambda: model("plugin")),
    (
        "sampled-map-size",
        None,
        lambda: convert(model("plugin", LARGE), "decomposed"),
        lambda: convert(model("plugin"), "decomposed"),
    ),
    (
        "sampled-map-size",
        None,
        lambda: convert(roi_model(MANY_ROIS), "decomposed"),
        lambda: convert(roi_model(), "decomposed"),
    ),
    (
        "sampled-map-size",
        None,
        lambda: convert(without_roi_count(roi_model(MANY_ROIS)), "decomposed"),
        lambda: without_roi_count(roi_model(MANY_ROIS)),
    ),
    (
        "malformed-node",
        None,
        lambda: roi_model(attributes={"output_size": None}),
        lambda: roi_model(attributes={"gamma": None}),
    ),
    ("mask-without-sigmoid", None, lambda: with_mask_producer("Tanh"), lambda: with_mask_producer("Sigmoid")),
    (
        "mask-without-sigmoid",
        None,
        lambda: with_mask_producer("Tanh", "Identity"),
        lambda: with_mask_producer("Sigmoid", "Identity"),
    ),
    (
        "mask-without-sigmoid",
        None,
        lambda: convert(with_mask_producer("Tanh", "Identity"), "decomposed"),
        lambda: convert(with_mask_producer("Sigmoid", "Identity"), "decomposed"),
    ),
    ("mask-without-sigmoid", None, lambda: with_scaled_mask("Tanh"), lambda: with_scaled_mask("Sigmoid")),
    (
        "mask-without-sigmoid",
        None,
        lambda: with_scaled_mask("Tanh", constant_first=True),
        lambda: with_scaled_mask("Sigmoid", constant_first=True),
    ),
    (
        "mask-without-sigmoid",
        None,
        lambda: with_scaled_mask("Tanh", op_type="Div"),
        lambda: with_scaled_mask("Sigmoid", op_type="Div"),
    ),
    (
        "mask-without-sigmoid",
        None,
        # 2 / sigmoid is no modulation.
        lambda: with_scaled_mask("Sigmoid", op_type="Div", constant_first=True),
        lambda: with_scaled_mask("Sigmoid", op_type="Div"),
    ),
]


@pytest.mark.parametrize(
    ("rule", "target", "triggering", "harmless"),
    EXAMPLES,
    ids=[f"{rule}-{i}" for i, (rule, *_) in enumerate(EXAMPLES)],
)
def test_rule(
    rule: str, target: str | None, triggering: Callable[[], onnx.ModelProto], harmless: Callable[[], onnx.ModelProto]
) -> None:
    found = [f for f in lint(triggering(), target=target) if f.rule == rule]
    assert len(found) == 1
    (row,) = [r for r in RULES if r.id == rule]
    assert found[0].severity == row.severity
    assert found[0].message.endswith(".")
    assert found[0].remedy == row.remedy
    assert not [f for f in lint(harmless(), target=target) if f.rule == rule]


def test_every_rule_has_an_example() -> None:
    assert {rule.id for rule in RULES} == {rule for rule, *_ in EXAMPLES}
    assert len({rule.id for rule in RULES}) == len(RULES)


@pytest.mark.parametrize("target", [None, *TARGETS])
def test_rules_for_a_target_are_silent_elsewhere(target: str | None) -> None:
    hostile = model("standard", variant(bias=False, stride_h=2, pad_bottom=2), dtype=np.float16)
    found = {f.rule for f in lint(hostile, target=target)}
    for rule in RULES:
        if rule.targets is not None and target not in rule.targets:
            assert rule.id not in found
    assert ("tensorrt-swapped-axes" in found) == (target == "tensorrt")


def test_messages_name_the_numbers() -> None:
    def message(source: onnx.ModelProto, rule: str, target: str | None = None) -> Finding:
        return next(f for f in lint(source, target=target) if f.rule == rule)

    found = message(model("plugin", attributes={"group": 3}), "malformed-node")
    assert found.node == "plain"
    assert found.message == "attribute group: expected a divisor of C = 4, got 3."
    swapped = message(
        model("standard", variant(stride_h=2, pad_left=2, pad_right=2)), "tensorrt-swapped-axes", "tensorrt"
    )
    assert "strides [2, 1], pads [1, 2, 1, 2]" in swapped.message
    large = message(convert(model("plugin", LARGE), "decomposed"), "sampled-map-size")
    assert f"{64 * 9 * 200 * 200 * 4 / 2**20:.0f} MiB" in large.message
    assert str(found) == (
        "error [malformed-node] node 'plain': attribute group: expected a divisor of C = 4, got 3. "
        "Correct the node, or export the network again."
    )


def test_findings_are_sorted_errors_first_then_by_place() -> None:
    source = peers.model(
        [variant(name="b"), variant(name="a")], form="standard", opset=19, attributes={"strides": [2, 1]}
    )
    good = peers.model([variant(name="b", stride_h=2), variant(name="a", stride_h=2)], form="standard", opset=19)
    assert [f.node for f in lint(source) if f.rule == "malformed-node"] == ["b_0", "a_1"]
    severities = [f.severity for f in lint(good, target="tensorrt")]
    assert severities == sorted(severities, key=["error", "warning", "note"].index)
    assert [f.node for f in lint(good, target="tensorrt") if f.severity == "warning"] == ["b_0", "a_1"]


def test_messages_about_rois() -> None:
    def found(source: onnx.ModelProto, rule: str, target: str | None = None) -> str:
        return str(next(f for f in lint(source, target=target) if f.rule == rule))

    adaptive = found(roi_model(ADAPTIVE), "not-decomposable", "openvino")
    assert adaptive.startswith(
        "error [not-decomposable] node 'adaptive': openvino takes no plugins, and the node cannot be decomposed: with "
        "sampling_ratio 0 the number of samples follows each RoI's size"
    )
    assert lint(roi_model(ADAPTIVE), target="tensorrt") == []
    assert found(roi_model(), "no-plugins", "tensorrt-rtx") == (
        "error [no-plugins] node 'roi': tensorrt-rtx takes no plugins. Convert the file with --form decomposed."
    )
    assert found(roi_model(LARGE_IMAGE, dtype=np.float16), "half-rois") == (
        "warning [half-rois] node 'large_image': rois are float16 for images of up to 640 pixels: beyond 512 a corner "
        "is off by up to a quarter of a pixel, and by twice as much with each doubling. "
        "Keep rois in float32; half features go with them."
    )
    dynamic = roi_model(LARGE_IMAGE, dtype=np.float16)
    dynamic.graph.input[0].type.tensor_type.shape.dim[3].Clear()
    assert "rois are float16 for images of a dynamic number of pixels: beyond 512" in found(dynamic, "half-rois")
    batch = roi_model(cases.RoiCase("roi", n=300, h=1, w=1), dtype=ml_dtypes.bfloat16)
    assert "exactly up to 256 only, and there are 300 images" in found(batch, "half-batch-index")
    large = convert(roi_model(MANY_ROIS), "decomposed")
    assert "The largest tensor of the decomposition takes 191 MiB while this node runs." in found(
        large, "sampled-map-size"
    )
    unknown = convert(without_roi_count(roi_model(MANY_ROIS)), "decomposed")
    assert "takes 191 MiB while this node runs if there are 1000 RoIs." in found(unknown, "sampled-map-size")
    for target in TARGETS:
        assert lint(convert(roi_model(), "decomposed"), target=target) == []
    assert lint(roi_model(ADAPTIVE), target="onnxruntime") == []


def test_lint_uses_inferred_shapes() -> None:
    """The contradiction is behind another node, whose output shape is not in the file."""
    source = model("plugin")
    node = source.graph.node[0]
    source.graph.node.insert(0, helper.make_node("Concat", ["X", "X"], ["twice"], axis=1))
    node = source.graph.node[1]
    node.input[0] = "twice"
    (found,) = lint(source)
    assert found.message == "shape of W, axis 1: expected C/group = 8/1 = 8, got 4."


def test_a_model_without_deformable_nodes_and_one_that_is_fine() -> None:
    relu = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", 1, [1])],
        [helper.make_tensor_value_info("y", 1, [1])],
    )
    assert lint(helper.make_model(relu, ir_version=10)) == []
    assert lint(model("plugin"), target="tensorrt") == []
    assert lint(convert(model("plugin"), "decomposed"), target="any") == []


def test_unknown_target_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match=r"target: expected one of onnxruntime, tensorrt, .*, got 'phone'"):
        lint(model("plugin"), target="phone")


def test_report() -> None:
    findings = tuple(lint(model("standard", variant(pad_bottom=2)), target="tensorrt"))
    report = Report("m.onnx", "tensorrt", findings)
    assert report.has_errors
    assert report.to_json()["counts"] == {"error": 1, "warning": 0, "note": 1}
    assert report.to_json()["findings"][0] == {
        "rule": "tensorrt-asymmetric-pads",
        "severity": "error",
        "node": "plain",
        "message": "TensorRT's stock plugin refuses asymmetric pads [1, 1, 2, 1].",
        "remedy": "Convert the file with --form plugin and use this project's library.",
    }
    assert not Report("m.onnx", None, ()).has_errors
