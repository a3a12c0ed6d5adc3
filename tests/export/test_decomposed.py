"""The form ``decomposed`` in ONNX Runtime, without any library of ours, against the float64 reference."""

from __future__ import annotations

import math
from typing import Any

import cases
import numpy as np
import onnx
import peers
import pytest

from dcn_deploy.export import convert, infer_shapes
from dcn_deploy.ops import reference

# No kernel of ours: what is measured is the decomposition itself.
ALL = cases.CASES + cases.NONFINITE_CASES + cases.EMPTY_CASES


def bound(case: cases.Case, storage: float = 0.0) -> float:
    """Relative RMS error to expect of correct float32 arithmetic.

    A coordinate is rounded when it is formed, normalised and un-normalised again by GridSample: a few 2⁻²⁴
    of the map's extent, which a map of white noise turns into a relative error of about that size.
    ``storage`` is the rounding of the features' type.
    """
    return 1e-6 + 1e-7 * max(case.h, case.w) + storage


def expected(case: cases.Case, inputs: cases.Inputs) -> cases.Array:
    return reference.deform_conv2d(*inputs.in_order(), **case.reference_arguments)


def relative_rms(actual: cases.Array, wanted: cases.Array) -> float:
    if wanted.size == 0:
        return 0.0
    assert np.isfinite(actual).all()
    scale = np.linalg.norm(wanted)
    return float(np.linalg.norm(actual.astype(np.float64) - wanted) / (scale if scale > 0 else 1.0))


def run(session: Any, inputs: cases.Inputs) -> cases.Array:
    (y,) = session.run(None, peers.feed(inputs))
    return np.asarray(y)


def with_dynamic_extents(model: onnx.ModelProto, names: str = "n h w oh ow") -> onnx.ModelProto:
    """Give N, H, W of X and N, Ho, Wo of offset and mask names instead of numbers."""
    n, h, w, oh, ow = names.split()
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        wanted = {"X": {0: n, 2: h, 3: w}, "offset": {0: n, 2: oh, 3: ow}, "mask": {0: n, 2: oh, 3: ow}}
        for axis, name in wanted.get(value.name, {}).items():
            dims[axis].Clear()
            dims[axis].dim_param = name
    return model


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("case", ALL, ids=cases.name_of)
def test_float32_matches_the_reference(
    case: cases.Case, dynamic: bool, rng: np.random.Generator, make_plain_session: Any
) -> None:
    inputs = cases.make_inputs(case, rng, np.float32)
    model = peers.model(case, form="plugin", opset=18)
    if dynamic:
        with_dynamic_extents(model)
    converted = convert(model, "decomposed")
    assert {node.domain for node in converted.graph.node} == {""}
    y = run(make_plain_session(converted), inputs)
    assert y.shape == case.output_shape
    assert relative_rms(y, expected(case, inputs)) <= bound(case)


@pytest.mark.parametrize("coordinates", [np.float32, np.float16], ids=["mixed", "all_half"])
@pytest.mark.parametrize(
    "case",
    [cases.by_name(n) for n in ("unequal_groups", "size_19", "no_bias", "v1_offset_group_4", "nonfinite")],
    ids=cases.name_of,
)
def test_half_features_keep_float32_coordinates(
    case: cases.Case, coordinates: Any, rng: np.random.Generator, make_plain_session: Any
) -> None:
    inputs = cases.make_inputs(case, rng, np.float16, coordinates)
    model = peers.model(case, form="plugin", opset=18, dtype=np.float16, coordinate_dtype=coordinates)
    converted = convert(model, "decomposed")
    grid = next(node for node in converted.graph.node if node.op_type == "GridSample")
    types = {v.name: v.type.tensor_type.elem_type for v in converted.graph.value_info}
    assert types[grid.input[1]] == onnx.TensorProto.FLOAT
    y = run(make_plain_session(converted), inputs)
    assert y.dtype == np.float16
    assert relative_rms(y, expected(case, inputs)) <= bound(case, storage=1e-3)


def test_static_and_dynamic_are_bit_identical(rng: np.random.Generator, make_plain_session: Any) -> None:
    case = cases.by_name("unequal_groups")
    inputs = cases.make_inputs(case, rng, np.float32)
    static = convert(peers.model(case, form="plugin", opset=18), "decomposed")
    dynamic = convert(with_dynamic_extents(peers.model(case, form="plugin", opset=18)), "decomposed")
    np.testing.assert_array_equal(run(make_plain_session(static), inputs), run(make_plain_session(dynamic), inputs))


@pytest.mark.parametrize("names", ["n 19 w 9 ow", "2 h 33 oh 32", "n 19 33 9 32"], ids=["width", "height", "batch"])
def test_only_some_extents_dynamic(names: str, rng: np.random.Generator, make_plain_session: Any) -> None:
    case = cases.Case("some_dynamic", n=2, h=19, w=33, stride_h=2, kernel_h=2, kernel_w=2, c=4, m=4)
    assert (case.out_h, case.out_w) == (9, 32)
    inputs = cases.make_inputs(case, rng, np.float32)
    model = peers.model(case, form="plugin", opset=18)
    for value in with_dynamic_extents(model, names).graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param.isdigit():
                dim.dim_value = int(dim.dim_param)
    converted = convert(model, "decomposed")
    y = run(make_plain_session(converted), inputs)
    assert relative_rms(y, expected(case, inputs)) <= bound(case)


def test_extents_without_names(rng: np.random.Generator, make_plain_session: Any) -> None:
    """Only ranks are known, of W the shape: nothing may be shared between the two layers."""
    pair = [cases.by_name("size_19"), cases.by_name("size_33")]
    model = peers.model(pair, form="plugin", opset=18)
    for value in model.graph.input:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if value.name[0] in "Xom" and not (value.name[0] == "X" and axis == 1):
                dim.Clear()
    converted = convert(model, "decomposed")
    inputs = [cases.make_inputs(case, rng, np.float32) for case in pair]
    outputs = make_plain_session(converted).run(None, peers.feed(inputs))
    for case, tensors, y in zip(pair, inputs, outputs, strict=True):
        assert relative_rms(y, expected(case, tensors)) <= bound(case)


def test_coordinates_are_as_good_as_float32_allows(rng: np.random.Generator, make_plain_session: Any) -> None:
    """Not more than 15 % above the error of the best grid there is: the exact one, rounded to float32 once."""
    size = 256
    x = rng.normal(size=(1, 2, size, size)).astype(np.float32)
    offset = (2 * rng.normal(size=(1, 2, size, size))).astype(np.float32)
    case = cases.Case("identity", c=2, m=2, h=size, w=size, kernel_h=1, kernel_w=1, bias=False, mask=False)
    weight = np.eye(2, dtype=np.float32).reshape(2, 2, 1, 1)
    ours = run(
        make_plain_session(convert(peers.model(case, form="plugin", opset=18), "decomposed")),
        cases.Inputs(x, weight, offset, None, None),
    )
    position = (
        np.stack(np.meshgrid(np.arange(size), np.arange(size)), -1)[None]
        + offset.astype(np.float64).transpose(0, 2, 3, 1)[..., ::-1]
    )
    exact_grid = (2 * position + 1) / size - 1

    def sample(grid: cases.Array) -> cases.Array:
        helper = onnx.helper
        node = helper.make_node("GridSample", ["x", "grid"], ["y"], mode="bilinear")
        graph = helper.make_graph(
            [node],
            "sample",
            [helper.make_tensor_value_info(n, peers.element_type(np.float32), [None] * 4) for n in ("x", "grid")],
            [helper.make_tensor_value_info("y", peers.element_type(np.float32), [None] * 4)],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)
        return np.asarray(make_plain_session(model).run(None, {"x": x, "grid": grid.astype(np.float32)})[0])

    import torch

    truth = torch.nn.functional.grid_sample(
        torch.from_numpy(x).double(), torch.from_numpy(exact_grid), align_corners=False
    ).numpy()
    best = relative_rms(sample(exact_grid), truth)
    assert relative_rms(ours, truth) <= 1.15 * best


def test_static_graph_is_small_and_computes_no_shapes() -> None:
    converted = convert(peers.model(cases.by_name("size_7"), form="plugin", opset=18), "decomposed")
    kinds = [node.op_type for node in converted.graph.node]
    assert "Shape" not in kinds
    assert kinds.count("GridSample") == kinds.count("Conv") == 1
    assert len(kinds) == 16
    v1 = convert(peers.model(cases.by_name("no_mask"), form="plugin", opset=18), "decomposed")
    assert len(v1.graph.node) == 12


@pytest.mark.parametrize("dynamic", [False, True])
def test_no_coordinates_of_the_offsets_size_are_made(dynamic: bool) -> None:
    """Rows and columns are added one after the other: a runtime that folds constants would keep their sum."""
    model = peers.model(cases.by_name("size_7"), form="plugin", opset=18)
    converted = infer_shapes(convert(with_dynamic_extents(model) if dynamic else model, "decomposed"))
    adds = [node for node in converted.graph.node if node.name.endswith(("/position_y", "/position"))]
    own = {tensor.name: list(tensor.dims) for tensor in converted.graph.initializer}
    for value in converted.graph.value_info:
        own[value.name] = [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]
    assert [own[node.input[1]][-2:].count(1) for node in adds] == [1, 1]


def test_layers_of_equal_geometry_share_their_coordinates() -> None:
    def shared(model: onnx.ModelProto) -> list[str]:
        return [n.name for n in model.graph.node if any(p.key == "dcn_deploy.shared" for p in n.metadata_props)]

    def coordinates(model: onnx.ModelProto) -> set[str]:
        adds = [node for node in model.graph.node if node.name.endswith(("/position_y", "/position"))]
        return {node.input[1] for node in adds}

    case = cases.by_name("size_7")
    one = convert(peers.model(case, form="plugin", opset=18), "decomposed")
    three = convert(peers.model([case] * 3, form="plugin", opset=18), "decomposed")
    assert shared(three) == shared(one) == []  # of fixed extents they are constants
    assert len(three.graph.initializer) == len(one.graph.initializer)

    other = cases.Case("other", c=8, m=8, h=9, w=7, pad_top=1, pad_left=1, pad_bottom=1, pad_right=1)
    both = coordinates(convert(peers.model([case, other], form="plugin", opset=18), "decomposed"))
    # Of the second layer, the columns are the first one's.
    assert len(both) == len(coordinates(one)) + 1

    dynamic = convert(with_dynamic_extents(peers.model(case, form="plugin", opset=18)), "decomposed")
    twice = peers.model([case] * 2, form="plugin", opset=18)
    for value in twice.graph.input:
        names = {"X": {0: "n", 2: "h", 3: "w"}, "o": {2: "oh", 3: "ow"}, "m": {2: "oh", 3: "ow"}}
        for axis, name in names.get(value.name[0], {}).items():
            value.type.tensor_type.shape.dim[axis].Clear()
            value.type.tensor_type.shape.dim[axis].dim_param = name
    assert len(shared(convert(twice, "decomposed"))) == len(shared(dynamic))


@pytest.mark.parametrize(("opset", "mode"), [(16, b"bilinear"), (18, b"bilinear"), (20, b"linear"), (22, b"linear")])
def test_name_of_the_bilinear_mode_follows_the_opset(
    opset: int, mode: bytes, rng: np.random.Generator, make_plain_session: Any
) -> None:
    case = cases.by_name("size_7")
    converted = convert(peers.model(case, form="plugin", opset=opset), "decomposed")
    onnx.checker.check_model(converted, full_check=True)
    grid = next(node for node in converted.graph.node if node.op_type == "GridSample")
    assert {a.name: a.s for a in grid.attribute}["mode"] == mode
    inputs = cases.make_inputs(case, rng, np.float32)
    assert relative_rms(run(make_plain_session(converted), inputs), expected(case, inputs)) <= bound(case)


def test_positions_at_the_edge_of_the_map_are_not_cut_off(make_plain_session: Any) -> None:
    """Just inside (−1, W) the sample is the last pixel's, with a small weight; a one-pixel map is the hardest."""
    case = cases.Case("edge", h=1, w=1, c=1, m=1, kernel_h=1, kernel_w=1, bias=False, mask=False)
    session = make_plain_session(convert(peers.model(case, form="plugin", opset=18), "decomposed"))
    ones = np.ones((1, 1, 1, 1), np.float32)
    for dx in (0.999, -0.999, 0.25, -0.25, 0.0):
        offset = np.array([0, dx], np.float32).reshape(1, 2, 1, 1)
        y = run(session, cases.Inputs(ones, ones, offset, None, None))
        assert math.isclose(float(y[0, 0, 0, 0]), 1 - abs(dx), abs_tol=1e-6)
    for dx in (1.0, -1.0, 2.0, math.nan, math.inf, -math.inf, 3e38):
        offset = np.array([0, dx], np.float32).reshape(1, 2, 1, 1)
        assert float(run(session, cases.Inputs(ones, ones, offset, None, None))[0, 0, 0, 0]) == 0.0


def test_unknown_weight_shape_is_refused() -> None:
    from dcn_deploy.errors import UnsupportedError

    model = peers.model(cases.by_name("size_7"), form="plugin", opset=18, static=False)
    with pytest.raises(
        UnsupportedError, match=r"'size_7' cannot be decomposed: the shape of its weight W must be fixed"
    ):
        convert(model, "decomposed")
