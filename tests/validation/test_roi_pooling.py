"""Networks with deformable RoI pooling: their forms agree layer by layer, and planted faults are found in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dcn_deploy import runtime
from dcn_deploy.export.conversion import convert
from dcn_deploy.validation import Divergence, Feed, first_divergence, validate
from dcn_deploy.validation.bounds import Bounds

_CHANNELS, _POOLED = 8, 3


def _node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.name == name)


def _two_stage(rng: np.random.Generator, variant: str, group_size: int = 1) -> onnx.ModelProto:
    """convolution → pooling → offsets from a matrix → deformable pooling → scores: image, rois → scores [r, 5]."""
    outputs = _CHANNELS // group_size**2

    def weight(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    values = {
        "stem.weight": weight(_CHANNELS, 3, 3, 3),
        "fc.weight": weight(2 * _POOLED**2, outputs * _POOLED**2),
        "head.weight": weight(5, outputs * _POOLED**2),
        "flat": np.array([0, -1], np.int64),
        "grid": np.array([-1, 2, _POOLED, _POOLED], np.int64),
        "order": np.array([1, 0], np.int64),
        "half": np.array(0.5, np.float32),
    }
    attributes: dict[str, Any] = {"variant": variant, "output_size": [_POOLED] * 2, "spatial_scale": 0.5, "gamma": 0.1}
    attributes |= {"sampling_ratio": 2} if variant == "aligned" else {"sample_per_part": 4, "group_size": group_size}
    pool = {"op_type": "DeformRoIPool2d", "domain": "dcn_deploy", **attributes}
    nodes = [
        helper.make_node("Conv", ["image", "stem.weight"], ["h"], "stem", pads=[1] * 4, strides=[2, 2]),
        helper.make_node(inputs=["h", "rois"], outputs=["plain"], name="pool_plain", **pool),
        helper.make_node("Reshape", ["plain", "flat"], ["plain_flat"], "flatten_plain"),
        helper.make_node("Gemm", ["plain_flat", "fc.weight"], ["offsets"], "fc", transB=1),
        helper.make_node("Reshape", ["offsets", "grid"], ["offset"], "to_grid"),
        helper.make_node(inputs=["h", "rois", "offset"], outputs=["pooled"], name="pool", **pool),
        helper.make_node("Reshape", ["pooled", "flat"], ["pooled_flat"], "flatten"),
        helper.make_node("Gemm", ["pooled_flat", "head.weight"], ["scores"], "head", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "two_stage",
        [
            helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 40, 60]),
            helper.make_tensor_value_info("rois", TensorProto.FLOAT, ["r", 5]),
        ],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["r", 5])],
        [numpy_helper.from_array(array, name) for name, array in values.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("dcn_deploy", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def _feed(rng: np.random.Generator, count: int = 40) -> Feed:
    """Boxes up to the last pixel of a 40 × 60 image: beyond it psroi has samples on the very edge of the map."""
    corners = np.sort(rng.uniform(0, 1, (count, 2, 2)), axis=1).reshape(count, 4) * (59, 39, 59, 39)
    rois = np.concatenate([rng.integers(0, 2, (count, 1)), corners], 1).astype(np.float32)
    return Feed("boxes", {"image": rng.standard_normal((2, 3, 40, 60)).astype(np.float32), "rois": rois})


def _compare(candidate: onnx.ModelProto, model: onnx.ModelProto, backend: str, feed: Feed) -> Divergence:
    return first_divergence(
        candidate,
        runtime.create("onnxruntime", candidate),
        runtime.create(backend, model),
        [feed],
        reference_model=model,
    )


_NETWORKS = [("aligned", 1), ("psroi", 1), ("psroi", 2)]


@pytest.mark.parametrize("backend", ["reference", "onnxruntime"])
@pytest.mark.parametrize("form", ["plugin", "decomposed"])
@pytest.mark.parametrize(("variant", "group_size"), _NETWORKS)
def test_both_forms_agree_layer_by_layer(
    variant: str, group_size: int, form: str, backend: str, rng: np.random.Generator, library: Any
) -> None:
    model = _two_stage(rng, variant, group_size)
    candidate = convert(model, form)
    result = _compare(candidate, model, backend, _feed(rng))
    assert result.first is None, result.summary
    steps = {step.tensor: step for step in result.steps}
    expected = ["h", "plain", "plain_flat", "offsets", "offset", "pooled", "pooled_flat", "scores"]
    assert list(steps) == expected
    for name in ("plain", "pooled"):
        step = steps[name]
        assert (len(step.nodes) > 20) == (form == "decomposed")
        assert step.own is not None
        assert step.own <= step.own_limit
    assert steps["pooled"].limit > steps["plain"].limit


@pytest.mark.parametrize(("variant", "group_size"), _NETWORKS)
def test_a_decomposed_pooling_in_float64_and_in_float32_is_one_step(
    variant: str, group_size: int, rng: np.random.Generator
) -> None:
    """The same file on both sides: everything inside has a twin by name, indices among it, and none is compared."""
    model = convert(_two_stage(rng, variant, group_size), "decomposed")
    result = _compare(model, model, "reference", _feed(rng))
    assert result.first is None, result.summary
    inner = Bounds(model).inner
    assert len(inner) > 100
    assert not inner & {step.tensor for step in result.steps}
    pooled = next(step for step in result.steps if step.tensor == "pooled")
    assert inner & {name for node in model.graph.node if node.name in pooled.nodes for name in node.output}


def _other_gamma(model: onnx.ModelProto) -> None:
    next(a for a in _node(model, "pool").attribute if a.name == "gamma").f = 0.101


def _swapped_offsets(model: onnx.ModelProto) -> None:
    """y first, as the convolution's offsets are."""
    _before(model, helper.make_node("Gather", ["offset", "order"], ["swapped"], "swap", axis=1), 2)


def _offsets_in_half_precision(model: onnx.ModelProto) -> None:
    _before(model, helper.make_node("Cast", ["narrow"], ["wide"], "widen", to=TensorProto.FLOAT), 2)
    place = [node.name for node in model.graph.node].index("widen")
    model.graph.node.insert(place, helper.make_node("Cast", ["offset"], ["narrow"], "narrow", to=TensorProto.FLOAT16))


def _moved_boxes(model: onnx.ModelProto) -> None:
    """By half a pixel of the image, as with another idea of where a pixel's centre is."""
    _before(model, helper.make_node("Add", ["rois", "half"], ["moved"], "move"), 1)


def _no_offset(model: onnx.ModelProto) -> None:
    del _node(model, "pool").input[2]


def _fewer_samples(model: onnx.ModelProto) -> None:
    for attribute in _node(model, "pool").attribute:
        if attribute.name in ("sampling_ratio", "sample_per_part"):
            attribute.i -= 1


def _before(model: onnx.ModelProto, node: onnx.NodeProto, place: int) -> None:
    """Put a node in front of an input of the deformable pooling."""
    index = [each.name for each in model.graph.node].index("pool")
    model.graph.node[index].input[place] = node.output[0]
    model.graph.node.insert(index, node)


_FAULTS = [_other_gamma, _swapped_offsets, _offsets_in_half_precision, _moved_boxes, _no_offset, _fewer_samples]


@pytest.mark.parametrize("form", ["plugin", "decomposed"])
@pytest.mark.parametrize("fault", _FAULTS, ids=lambda fault: fault.__name__.strip("_"))
@pytest.mark.parametrize("variant", ["aligned", "psroi"])
def test_a_planted_fault_is_found_at_its_node(
    variant: str, fault: Callable[[onnx.ModelProto], None], form: str, rng: np.random.Generator, library: Any
) -> None:
    model = _two_stage(rng, variant)
    faulty = onnx.ModelProto()
    faulty.CopyFrom(model)
    fault(faulty)
    candidate = convert(faulty, form)
    feed = _feed(rng)
    runners = runtime.create("onnxruntime", candidate), runtime.create("reference", model)
    report = validate([runners[0]], runners[1], [feed], model=candidate)
    assert not report.passed
    result = _compare(candidate, model, "reference", feed)
    assert result.first is not None
    assert result.first.tensor == "pooled"
    if fault is _other_gamma and form == "plugin":
        assert any("attribute gamma of 'pool'" in difference for difference in result.differences)
