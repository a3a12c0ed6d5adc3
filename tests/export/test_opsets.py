"""Raising the opset: the network computes afterwards what it computed before, by ONNX Runtime, or it is refused."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from dcn_deploy.errors import UnsupportedError
from dcn_deploy.export import convert, opsets

F32 = np.float32
SHAPE = (2, 4, 6, 8)
node = helper.make_node


@dataclass(frozen=True)
class Row:
    """Nodes from ``x`` to ``o`` in an old opset; ``constants`` and ``also`` (inputs with what they are fed)."""

    opset: int
    nodes: Sequence[onnx.NodeProto]
    constants: Mapping[str, Any] = field(default_factory=dict)
    also: Mapping[str, Any] = field(default_factory=dict)
    functions: Sequence[onnx.FunctionProto] = ()

    def model(self) -> onnx.ModelProto:
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)]
        inputs += [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.asarray(array).dtype), [None])
            for name, array in self.also.items()
        ]
        graph = helper.make_graph(
            list(self.nodes),
            "raised",
            inputs,
            [helper.make_tensor_value_info("o", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(np.asarray(array), name) for name, array in self.constants.items()],
        )
        domains = {function.domain for function in self.functions}
        imports = [helper.make_opsetid("", self.opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
        return helper.make_model(graph, opset_imports=imports, ir_version=8, functions=self.functions)


def one(opset: int, op_type: str, inputs: str = "x", constants: Any = None, also: Any = None, **attributes: Any) -> Row:
    return Row(opset, [node(op_type, inputs.split(" "), ["o"], **attributes)], constants or {}, also or {})


def in_if(*nodes: onnx.NodeProto) -> list[onnx.NodeProto]:
    """``nodes``, from ``x`` to ``b``, in a branch that is taken."""
    result = [helper.make_tensor_value_info("b", TensorProto.FLOAT, None)]
    then = helper.make_graph(list(nodes), "then", [], result)
    otherwise = helper.make_graph([node("Identity", ["x"], ["b"])], "else", [], result)
    return [node("If", ["yes"], ["o"], then_branch=then, else_branch=otherwise)]


def scales(height: float, width: float) -> dict[str, Any]:
    return {"scales": np.array([1, 1, height, width], F32)}


_ROIS = {"rois": np.array([[1, 1, 13, 11]], F32), "batch": np.array([0])}
_ROI_ALIGN = {"output_height": 3, "output_width": 3, "spatial_scale": 0.5, "sampling_ratio": 2}
_PER_GROUP = {"scale": np.array([2, 3], F32), "bias": np.array([1, -1], F32)}
_SHAPE_INPUT = {"shape": np.array(SHAPE)}

ROWS = {
    # ---- rules of this project ----
    "upsample_8_linear": one(8, "Upsample", mode="linear", scales=[1.0, 1.0, 2.0, 1.5]),
    "upsample_9_linear": one(9, "Upsample", "x scales", scales(1.7, 2.3), mode="linear"),
    "upsample_9_nearest": one(9, "Upsample", "x scales", scales(1.7, 2.3)),
    "upsample_9_nearest_dynamic": one(9, "Upsample", "x scales", also=scales(1.7, 2.3)),
    "resize_10_linear": one(10, "Resize", "x scales", scales(2, 2), mode="linear"),
    "resize_10_linear_shrinks": one(10, "Resize", "x scales", scales(0.7, 0.6), mode="linear"),
    "resize_10_linear_dynamic": one(10, "Resize", "x scales", also=scales(0.7, 1.6), mode="linear"),
    "resize_10_nearest": one(10, "Resize", "x scales", scales(1.3, 1.6)),
    "resize_10_nearest_shrinks": one(10, "Resize", "x scales", scales(0.4, 0.7)),
    "resize_10_nearest_both": one(10, "Resize", "x scales", scales(0.7, 1.6)),
    "resize_10_nearest_dynamic": one(10, "Resize", "x scales", also=scales(1.6, 0.7)),
    "hardmax_9": one(9, "Hardmax"),
    "hardmax_11_axis_0": one(11, "Hardmax", axis=0),
    "hardmax_11_axis_3": one(11, "Hardmax", axis=3),
    "hardmax_12_negative": one(12, "Hardmax", axis=-2),
    "hardmax_of_unknown_rank": Row(
        11, [node("Reshape", ["x", "shape"], ["u"]), node("Hardmax", ["u"], ["o"], axis=2)], also=_SHAPE_INPUT
    ),
    "hardmax_in_if": Row(11, in_if(node("Hardmax", ["x"], ["b"], axis=1)), {"yes": True}),
    "group_norm_18": one(18, "GroupNormalization", "x scale bias", _PER_GROUP, num_groups=2),
    "group_norm_18_without_types": Row(
        18,
        [node("Relu", ["x"], ["r"]), node("GroupNormalization", ["r", "scale", "bias"], ["o"], num_groups=2)],
        _PER_GROUP,
    ),
    "group_norm_18_in_a_function": Row(
        18,
        [node("F", ["x", "scale", "bias"], ["o"], domain="somebody")],
        _PER_GROUP,
        functions=[
            helper.make_function(
                "somebody",
                "F",
                ["a", "s", "b"],
                ["y"],
                [node("Relu", ["a"], ["r"]), node("GroupNormalization", ["r", "s", "b"], ["y"], num_groups=2)],
                [helper.make_opsetid("", 18)],
            )
        ],
    ),
    "softmax_11_in_a_function": Row(
        11,
        [node("F", ["x"], ["o"], domain="somebody")],
        functions=[
            helper.make_function(
                "somebody", "F", ["a"], ["y"], [node("Softmax", ["a"], ["y"])], [helper.make_opsetid("", 11)]
            )
        ],
    ),
    # ---- what the converters do themselves: they might cease to ----
    "softmax_8": one(8, "Softmax"),
    "softmax_11_axis_0": one(11, "Softmax", axis=0),
    "log_softmax_11_axis_2": one(11, "LogSoftmax", axis=2),
    "softmax_of_unknown_rank": Row(
        11, [node("Reshape", ["x", "shape"], ["u"]), node("Softmax", ["u"], ["o"], axis=2)], also=_SHAPE_INPUT
    ),
    "softmax_in_if": Row(11, in_if(node("Softmax", ["x"], ["b"], axis=1)), {"yes": True}),
    "roi_align_10": one(10, "RoiAlign", "x rois batch", _ROIS, **_ROI_ALIGN),
    "roi_align_12_in_if": Row(
        12, in_if(node("RoiAlign", ["x", "rois", "batch"], ["b"], **_ROI_ALIGN)), {"yes": True, **_ROIS}
    ),
    "resize_11_cubic": one(
        11,
        "Resize",
        "x roi scales",
        {"roi": np.zeros(0, F32), **scales(1.7, 0.6)},
        mode="cubic",
        coordinate_transformation_mode="pytorch_half_pixel",
        exclude_outside=1,
    ),
    "resize_13_ceil": one(13, "Resize", "x  scales", scales(0.7, 1.5), nearest_mode="ceil"),
    "resize_18_antialias": one(18, "Resize", "x  scales", scales(0.5, 0.6), mode="linear", antialias=1),
    "batch_norm_8": one(
        8, "BatchNormalization", "x g z z g", {"g": np.full(4, 2, F32), "z": np.ones(4, F32)}, epsilon=1e-3
    ),
    "dropout_7": one(7, "Dropout", ratio=0.3),
    "dropout_11": one(11, "Dropout"),
    "clip_6": one(8, "Clip", min=-0.1, max=0.2),
    "clip_6_without_max": one(8, "Clip", min=-0.1),
    "pad_8": one(8, "Pad", pads=[0, 0, -1, 1, 0, 0, 2, -2], value=3.0),
    "pad_10_reflect": one(10, "Pad", pads=[0, 0, 1, 1, 0, 0, 2, 1], mode="reflect"),
    "slice_9": one(9, "Slice", starts=[1, -3], ends=[3, 9999], axes=[1, 3]),
    "top_k_9": Row(9, [node("TopK", ["x"], ["o", "indices"], k=2, axis=-1)]),
    "split_11": Row(11, [node("Split", ["x"], ["o", "rest"], axis=1, split=[1, 3])]),
    "split_17": Row(17, [node("Split", ["x"], ["o", "rest"], axis=-1)]),
    "squeeze_12": Row(12, [node("Unsqueeze", ["x"], ["u"], axes=[0, 5]), node("Squeeze", ["u"], ["o"], axes=[0])]),
    "reduce_sum_11": one(11, "ReduceSum", axes=[1], keepdims=0),
    "reduce_mean_13_all": one(13, "ReduceMean"),
    "reduce_max_in_if": Row(12, in_if(node("ReduceMax", ["x"], ["b"], axes=[-1])), {"yes": True}),
    "scatter_10": one(
        10, "Scatter", "x i u", {"i": np.zeros((1, 1, 6, 8), np.int64), "u": np.ones((1, 1, 6, 8), F32)}, axis=1
    ),
    "max_pool_10_ceil": one(10, "MaxPool", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    "average_pool_10_ceil": one(
        10, "AveragePool", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1, count_include_pad=1, pads=[1, 1, 1, 1]
    ),
    "lp_pool_11": one(11, "LpPool", kernel_shape=[2, 3], strides=[1, 2], pads=[1, 1, 1, 1]),
    "conv_transpose_10": one(
        10,
        "ConvTranspose",
        "x w",
        {"w": np.arange(128, dtype=F32).reshape(4, 2, 4, 4)},
        strides=[2, 2],
        output_shape=[11, 15],
    ),
    "gemm_8": Row(
        8,
        [node("Flatten", ["x"], ["f"]), node("Gemm", ["f", "w", "c"], ["o"])],
        {"w": np.eye(192, 3, dtype=F32), "c": np.ones(3, F32)},
    ),
    "prelu_8": one(8, "PRelu", "x slope", {"slope": np.full((4, 1, 1), 0.2, F32)}),
    "quantise_10": Row(
        10,
        [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["o"])],
        {"s": F32(0.05), "z": np.int8(0)},
    ),
    "grid_sample_16": one(
        16, "GridSample", "x grid", {"grid": np.linspace(-1, 1, 100, dtype=F32).reshape(2, 5, 5, 2)}, mode="bilinear"
    ),
    "dft_17": Row(17, [node("Unsqueeze", ["x", "last"], ["u"]), node("DFT", ["u"], ["o"])], {"last": np.array([-1])}),
    "loop_11": Row(
        11,
        [
            node(
                "Loop",
                ["trips", "yes", "x"],
                ["o"],
                body=helper.make_graph(
                    [node("Softmax", ["c"], ["d"]), node("Identity", ["b"], ["e"])],
                    "body",
                    [
                        helper.make_tensor_value_info("i", TensorProto.INT64, []),
                        helper.make_tensor_value_info("b", TensorProto.BOOL, []),
                        helper.make_tensor_value_info("c", TensorProto.FLOAT, SHAPE),
                    ],
                    [
                        helper.make_tensor_value_info("e", TensorProto.BOOL, []),
                        helper.make_tensor_value_info("d", TensorProto.FLOAT, SHAPE),
                    ],
                ),
            )
        ],
        {"trips": np.array(2), "yes": True},
    ),
}
# 16 and 19 are what the forms need, 21 is the last one for which ONNX Runtime has every operator of these.
_TARGETS = (16, 19, 21)


@pytest.mark.parametrize("name", ROWS)
def test_what_is_computed_stays(name: str, rng: np.random.Generator, make_plain_session: Any) -> None:
    row = ROWS[name]
    model = row.model()
    feed = {"x": rng.standard_normal(SHAPE).astype(F32), **row.also}
    before = make_plain_session(model).run(["o"], feed)[0]
    for target in _TARGETS:
        if target > row.opset:
            raised = ir.to_proto(opsets.raise_to(ir.from_proto(model), target))
            assert raised.opset_import[0].version == target
            if raised.graph.output[0].type.tensor_type.HasField("shape"):  # else its rank is unknown
                onnx.checker.check_model(raised, full_check=True)
            after = make_plain_session(raised).run(["o"], feed)[0]
            np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6, err_msg=f"opset {target}")


_SCAN_BODY = helper.make_graph(
    [node("Relu", ["s"], ["r"])],
    "body",
    [helper.make_tensor_value_info("s", TensorProto.FLOAT, [6, 8])],
    [helper.make_tensor_value_info("r", TensorProto.FLOAT, [6, 8])],
)
_FOUR = {"g": np.ones(4, F32), "z": np.zeros(4, F32)}
REFUSED = {
    "scan_8": (one(8, "Scan", " x", num_scan_inputs=1, body=_SCAN_BODY), r"node 'o' \(Scan\): below opset 9"),
    "dropout_mask": (
        Row(10, [node("Dropout", ["x"], ["d", "mask"]), node("Where", ["mask", "x", "d"], ["o"])]),
        r"node 'd' \(Dropout\): the content of its mask is not defined below opset 12",
    ),
    "batch_norm_pixels": (
        one(8, "BatchNormalization", "x g g g g", {"g": np.ones((4, 6, 8), F32)}, spatial=0),
        r"node 'o' \(BatchNormalization\): since opset 9 .* \(spatial=0\)",
    ),
    "batch_norm_trains": (
        Row(
            13,
            [
                node("BatchNormalization", ["x", "g", "z", "z", "g"], ["n", "mean", "var"], name="bn"),
                node("Add", ["n", "var"], ["o"]),
            ],
            _FOUR,
        ),
        r"node 'bn' \(BatchNormalization\): .* Export the network in evaluation mode",
    ),
    "group_norm_channels": (
        Row(
            18,
            [
                node("Reshape", ["x", "shape"], ["u"]),
                node("GroupNormalization", ["u", "scale", "bias"], ["o"], name="gn", num_groups=2),
            ],
            _PER_GROUP,
            {"shape": np.array(SHAPE)},
        ),
        r"node 'gn' \(GroupNormalization\): .* got None channels, 2 scales and 2 biases. Fix the channels",
    ),
    "opset_6": (one(6, "Relu"), "changed with opset 7"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_change_is_refused_by_name(name: str) -> None:
    row, message = REFUSED[name]
    with pytest.raises(UnsupportedError, match=rf"needs opset 21, .*{message}.*opset_version=21 or more"):
        opsets.raise_to(ir.from_proto(row.model()), 21)


def test_a_node_that_the_converter_skips_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxscript import version_converter

    def skips(model: ir.Model, target: int, **_: Any) -> None:
        logging.getLogger("onnxscript.version_converter._version_converter").warning("Skipping node %s", "n")
        model.opset_imports[""] = target

    monkeypatch.setattr(version_converter, "convert_version", skips)
    with pytest.raises(UnsupportedError, match="the converter says: Skipping node n"):
        opsets.raise_to(ir.from_proto(one(18, "Relu").model()), 21)


@pytest.mark.parametrize("options", [{"form": "standard"}, {"form": "decomposed"}])
def test_a_network_with_an_old_upsample(options: Any, rng: np.random.Generator, make_session: Any) -> None:
    row = Row(
        9,
        [
            node("MMCVDeformConv2d", ["x", "offset", "w"], ["d"], domain="mmdeploy", stride=[1, 1], padding=[1, 1]),
            node("Upsample", ["d", "scales"], ["o"], mode="linear"),
        ],
        {"w": rng.standard_normal((4, 4, 3, 3)).astype(F32), **scales(2, 2)},
    )
    model = row.model()
    model.opset_import.append(helper.make_opsetid("mmdeploy", 1))
    model.graph.input.append(helper.make_tensor_value_info("offset", TensorProto.FLOAT, (2, 18, 6, 8)))
    feed = {name: rng.standard_normal((2, c, 6, 8)).astype(F32) for name, c in (("x", 4), ("offset", 18))}
    plugin, converted = (
        make_session(convert(model, **each)).run(None, feed)[0] for each in ({"form": "plugin"}, options)
    )
    np.testing.assert_allclose(converted, plugin, rtol=1e-4, atol=1e-4)


def test_bfloat16_finds_the_channels_of_a_group_normalization_behind_a_plugin() -> None:
    row = Row(
        18,
        [
            node("DeformConv2d", ["x", "w", "offset"], ["d"], domain="dcn_deploy", pads=[1, 1, 1, 1]),
            node("GroupNormalization", ["d", "scale", "bias"], ["o"], num_groups=2),
        ],
        {"w": np.ones((4, 4, 3, 3), F32), **_PER_GROUP},
    )
    model = row.model()
    model.opset_import.append(helper.make_opsetid("dcn_deploy", 1))
    model.graph.input.append(helper.make_tensor_value_info("offset", TensorProto.FLOAT, (2, 18, 6, 8)))
    converted = convert(model, precision="bf16")
    (norm,) = (each for each in converted.graph.node if each.op_type == "GroupNormalization")
    from dcn_deploy.export import infer_shapes

    shapes = {value.name: value.type.tensor_type.shape for value in infer_shapes(converted).graph.value_info}
    assert [shapes[name].dim[0].dim_value for name in norm.input[1:]] == [4, 4]
