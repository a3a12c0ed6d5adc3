"""Operators that stand in for those of the onnx package's evaluator, against ONNX Runtime over the opsets."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from dcn_deploy import runtime
from dcn_deploy.errors import BackendError
from dcn_deploy.runtime.reference_operators import same_pads


@dataclasses.dataclass(frozen=True)
class One:
    """A node.

    Attributes:
        op_type: its operator.
        inputs: shapes of what the network gets, or arrays, which are weights.
        attributes: its attributes.
        opsets: versions of the standard that it is tried in.
    """

    op_type: str
    inputs: tuple[Any, ...]
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)
    opsets: tuple[int, ...] = (7, 11, 17, 22)

    def __str__(self) -> str:
        return f"{self.op_type} {self.attributes}"

    def feed(self, rng: np.random.Generator) -> dict[str, np.ndarray[Any, Any]]:
        return {
            f"x{i}": rng.normal(size=shape).astype(np.float32)
            for i, shape in enumerate(self.inputs)
            if isinstance(shape, tuple)
        }

    def model(self, opset: int, *, inside: str = "") -> onnx.ModelProto:
        """The node alone, or inside a function or the branch of an If."""
        graph_inputs, weights = [], []
        names = [f"x{i}" if given is not None else "" for i, given in enumerate(self.inputs)]
        for name, given in zip(names, self.inputs, strict=True):
            if isinstance(given, tuple):
                graph_inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, given))
            elif given is not None:
                weights.append(numpy_helper.from_array(np.asarray(given), name))
        y = onnx.ValueInfoProto(name="y")
        nodes = [helper.make_node(self.op_type, names, ["y"], **self.attributes)]
        functions = []
        imports = [helper.make_opsetid("", opset)]
        if inside == "function":
            called = [name for name in names if name]
            functions = [helper.make_function("mine", "Function", called, ["y"], nodes, imports)]
            nodes = [helper.make_node("Function", called, ["y"], domain="mine")]
            imports.append(helper.make_opsetid("mine", 1))
        elif inside == "branch":
            branch = helper.make_graph(nodes, "branch", [], [onnx.ValueInfoProto(name="y")])
            weights.append(numpy_helper.from_array(np.array(True), "always"))
            nodes = [helper.make_node("If", ["always"], ["z"], then_branch=branch, else_branch=branch)]
            y = onnx.ValueInfoProto(name="z")
        graph = helper.make_graph(nodes, "g", graph_inputs, [y], weights)
        return helper.make_model(graph, opset_imports=imports, functions=functions, ir_version=8)


def compare(one: One, opset: int, rng: np.random.Generator, *, inside: str = "") -> None:
    model, feed = one.model(opset, inside=inside), one.feed(rng)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (wanted,) = session.run(None, feed)
    output = model.graph.output[0]
    output.CopyFrom(
        helper.make_tensor_value_info(output.name, helper.np_dtype_to_tensor_dtype(wanted.dtype), wanted.shape)
    )
    with runtime.create("reference", model) as runner:
        (y,) = runner.infer(feed).values()
    assert y.shape == wanted.shape
    assert y.dtype == (np.float64 if wanted.dtype == np.float32 else wanted.dtype)
    np.testing.assert_allclose(y, wanted, rtol=2e-5, atol=2e-5)


F = np.float32
_MAP = (2, 3, 9, 8)
_STATISTICS = (F([1.5, -0.5, 2]), F([0.1, 0.2, -0.3]), F([0.5, -1, 0]), F([0.7, 1.3, 0.2]))


def _resizes() -> Iterator[One]:
    modes = [("nearest", "nearest_mode", mode) for mode in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")]
    modes += [("linear", "cubic_coeff_a", -0.75), ("cubic", "cubic_coeff_a", -0.5), ("cubic", "exclude_outside", 1)]
    coordinates = ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
    for (mode, name, value), coordinate in itertools.product(modes, coordinates):
        attributes = {"mode": mode, name: value, "coordinate_transformation_mode": coordinate}
        none = np.zeros(0, np.float32)
        yield One("Resize", ((1, 2, 5, 4), none, F([1, 1, 0.7, 2.5])), attributes, (11, 13, 19))
        sizes = np.array([1, 2, 8, 1], np.int64)
        yield One("Resize", ((1, 2, 5, 4), none, none, sizes), attributes, (11, 18))


def _pools() -> Iterator[One]:
    windows = [
        {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 2, 1]},
        {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": "SAME_LOWER"},
        {"kernel_shape": [2, 3], "strides": [2, 1], "auto_pad": "SAME_UPPER"},
        {"kernel_shape": [2, 2], "strides": [1, 3], "auto_pad": "VALID"},
    ]
    for window in windows:
        yield One("MaxPool", (_MAP,), window)
        yield One("LpPool", (_MAP,), {**window, "p": 3})
        for counted in (0, 1):
            yield One("AveragePool", (_MAP,), {**window, "count_include_pad": counted})
    # A stride that leaves pixels out: the map is cut. ONNX Runtime refuses that in other pools.
    for auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        yield One("LpPool", (_MAP,), {"kernel_shape": [1, 3], "strides": [3, 2], "auto_pad": auto_pad, "p": 2})
        yield One("LpPool", (_MAP,), {"kernel_shape": [2, 3], "strides": [3, 2], "auto_pad": auto_pad, "p": 1})
    ceiling = {"kernel_shape": [2, 2], "strides": [3, 2], "pads": [1, 0, 1, 1], "ceil_mode": 1}
    yield One("MaxPool", (_MAP,), ceiling, (10, 22))
    yield One("MaxPool", (_MAP,), {**ceiling, "dilations": [2, 3]}, (10, 22))
    yield One("AveragePool", (_MAP,), {**ceiling, "count_include_pad": 1}, (19, 22))
    yield One("AveragePool", (_MAP,), {**ceiling, "dilations": [2, 3]}, (19, 22))


def _transposed() -> Iterator[One]:
    for group, auto_pad in itertools.product((1, 2), ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")):
        attributes: dict[str, Any] = {"kernel_shape": [3, 2], "strides": [2, 1], "group": group, "auto_pad": auto_pad}
        bias = F(np.arange(3 * group))
        weight = F(np.random.default_rng(3).normal(size=(4, 3, 3, 2)))
        yield One("ConvTranspose", ((2, 4, 5, 6), weight, bias), attributes)
        if auto_pad == "NOTSET":
            more = {"pads": [1, 0, 0, 1], "output_padding": [1, 0], "dilations": [2, 3]}
            yield One("ConvTranspose", ((2, 4, 5, 6), weight), {**attributes, **more})
            yield One("ConvTranspose", ((1, 4, 5, 6), weight), {**attributes, "output_shape": [10, 6]})


NODES = [
    One("BatchNormalization", (_MAP, *_STATISTICS), {"epsilon": 1e-3}, (7, 9, 14, 15, 22)),
    One("GatherElements", ((4, 5), np.array([[0, -1], [2, 1]])), {"axis": 1}, (11, 13, 22)),
    One("GlobalLpPool", (_MAP,), {}, (7, 11, 21)),
    One("GlobalLpPool", (_MAP,), {"p": 3}, (7, 11, 21)),
    One("GridSample", ((1, 2, 5, 6), (1, 4, 3, 2)), {"mode": "bilinear", "padding_mode": "border"}, (16, 19)),
    One("LRN", ((2, 7, 4, 5),), {"size": 3, "alpha": 0.1, "beta": 0.7, "bias": 1.5}),
    One("MeanVarianceNormalization", (_MAP,), {}, (9, 13, 22)),
    One("MeanVarianceNormalization", (_MAP,), {"axes": [2, 3]}, (9, 13, 22)),
    One("Pad", ((1, 2, 5, 6),), {"pads": [0, 0, -1, 2, 0, 0, 1, -2], "value": 1.5}, (7, 10)),
    One("Pad", ((1, 2, 5, 6), np.array([0, 0, -1, 2, 0, 0, 1, -2]), F(1.5)), {"mode": "constant"}, (11, 13, 22)),
    One("Pad", ((1, 2, 5, 6), np.array([1, -1, 0, 2]), None, np.array([-2, 3])), {}, (18, 22)),
    One("Pad", ((1, 2, 5, 6), np.array([0, 0, 2, 1, 0, 0, 1, 2])), {"mode": "reflect"}, (11, 22)),
    One("Pad", ((1, 2, 5, 6), np.array([0, 0, 2, 1, 0, 0, 1, 2])), {"mode": "edge"}, (11, 22)),
    One("Resize", ((1, 2, 5, 4), F([1, 1, 0.6, 2.5])), {"mode": "nearest"}, (10,)),
    One("Resize", ((1, 2, 5, 4), F([1, 1, 0.6, 2.5])), {"mode": "linear"}, (10,)),
    One("Scatter", ((3, 4), np.array([[1, 0], [2, -1]]), (2, 2)), {"axis": 1}, (9, 10)),
    One("ScatterElements", ((3, 4), np.array([[1, 0], [2, -1]]), (2, 2)), {"axis": 1}, (11, 22)),
    One("ScatterElements", ((3,), np.array([1, 1, 0]), (3,)), {"reduction": "add"}, (16, 22)),
    One("Upsample", ((1, 2, 4, 5),), {"mode": "nearest", "scales": [1.0, 1.0, 2.0, 2.5]}, (7, 8)),
    One("Upsample", ((1, 2, 4, 5), F([1, 1, 2, 2.5])), {"mode": "linear"}, (9,)),
    *[
        One(op_type, ((2, 3, 4),), attributes)
        for op_type in ("Softmax", "LogSoftmax", "Hardmax")
        for attributes in ({}, {"axis": 1}, {"axis": -1})
    ],
    *_resizes(),
    *_pools(),
    *_transposed(),
]


@pytest.mark.parametrize(("one", "opset"), [(one, opset) for one in NODES for opset in one.opsets], ids=str)
def test_a_node_alone(one: One, opset: int, rng: np.random.Generator) -> None:
    compare(one, opset, rng)


@pytest.mark.parametrize("inside", ["function", "branch"])
@pytest.mark.parametrize("opset", [11, 17])
def test_inside_functions_and_branches(inside: str, opset: int, rng: np.random.Generator) -> None:
    """The opset is that of the place: Softmax means another thing below 13."""
    compare(One("Softmax", ((2, 3, 4),)), opset, rng, inside=inside)
    if inside == "function":
        compare(One("GlobalLpPool", ((2, 3, 4, 5),)), opset, rng, inside=inside)


@pytest.mark.parametrize(
    ("opset", "scale", "zero_point", "attributes"),
    [
        (10, F(0.1), np.int8(3), {}),
        (13, F([0.1, 0.2, 0.05]), np.array([1, -3, 5], np.int8), {"axis": 1}),
        (13, F([0.1, 0.2, 0.05]), None, {"axis": -2}),
        (21, F([0.1, 0.2, 0.05]), np.array([1, -3, 5], np.int8), {"axis": 1}),
        (21, F([[[0.1, 0.2]] * 3] * 2), None, {"axis": 2, "block_size": 2}),
    ],
    ids=str,
)
def test_dequantised(
    opset: int, scale: Any, zero_point: Any, attributes: dict[str, Any], rng: np.random.Generator
) -> None:
    x = rng.integers(-128, 128, size=(2, 3, 4)).astype(np.int8)
    compare(One("DequantizeLinear", (x, scale, *(() if zero_point is None else (zero_point,))), attributes), opset, rng)


def test_what_is_not_there_is_said(rng: np.random.Generator) -> None:
    one = One("Resize", ((1, 2, 8, 8), None, F([1, 1, 0.5, 0.5])), {"mode": "linear", "antialias": 1}, (18,))
    with pytest.raises(BackendError, match=r"\(Resize\).*NotImplementedError: Resize with antialias"):
        compare(one, 18, rng)


@pytest.mark.parametrize(("auto_pad", "pads"), [("SAME_UPPER", [1, 0, 1, 1]), ("SAME_LOWER", [1, 1, 1, 0])], ids=str)
def test_pads_of_equal_size(auto_pad: str, pads: list[int]) -> None:
    assert same_pads([9, 8], [3, 2], [1, 1], None, auto_pad) == pads
