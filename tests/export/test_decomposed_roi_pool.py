"""RoI pooling in the form ``decomposed`` in ONNX Runtime, without any library of ours, against the reference."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import cases
import ml_dtypes
import numpy as np
import onnx
import peers
import pytest
from onnx import helper

from dcn_deploy.errors import UnsupportedError
from dcn_deploy.export import convert, infer_shapes
from dcn_deploy.export.model_files import load
from dcn_deploy.export.node_reading import view_of
from dcn_deploy.export.operators import OPERATOR_EXPORTS
from dcn_deploy.ops import reference
from dcn_deploy.schema import DEFORM_ROI_POOL2D

ROW = OPERATOR_EXPORTS[DEFORM_ROI_POOL2D.op_type]


def is_decomposable(case: cases.RoiCase) -> bool:
    return not case.is_aligned or case.sampling_ratio > 0


DECOMPOSABLE = cases.where(is_decomposable, cases.ALL_ROI_CASES)
ADAPTIVE = cases.where(lambda case: not is_decomposable(case), cases.ALL_ROI_CASES)
SOME = [
    cases.by_name(name)
    for name in (
        "roi_size_19x7",
        "roi_scale_0.3",
        "roi_classes_3_group_2",
        "roi_classes_3_no_offset",
        "roi_neither_psroi",
        "roi_offsets_nonfinite_psroi",
        "roi_nonfinite",
    )
]


def bound(case: cases.RoiCase, inputs: cases.RoiInputs, storage: float = 0.0) -> float:
    """Relative RMS error to expect of correct float32 arithmetic.

    A position is the sum of the RoI's corner and a part of its size, each rounded: a few 2⁻²⁴ of the larger one, which
    a map of white noise turns into a relative error of about that size. ``storage`` is the rounding of the features'
    type.
    """
    corners = np.abs(np.nan_to_num(inputs.rois[:, 1:].astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0))
    reach = corners.max(initial=0.0) * case.scale
    return 1e-6 + 1e-7 * max(case.h, case.w, reach) + storage


def expected(case: cases.RoiCase, inputs: cases.RoiInputs) -> cases.Array:
    with np.errstate(invalid="ignore", over="ignore"):
        return reference.deform_roi_pool(*inputs.in_order(), **case.reference_arguments)


def relative_rms(actual: cases.Array, wanted: cases.Array) -> float:
    if wanted.size == 0:
        return 0.0
    assert np.isfinite(actual).all()
    scale = np.linalg.norm(wanted)
    return float(np.linalg.norm(actual.astype(np.float64) - wanted) / (scale if scale > 0 else 1.0))


def run(session: Any, inputs: cases.RoiInputs) -> cases.Array:
    (y,) = session.run(None, peers.feed(inputs))
    return np.asarray(y)


def with_dynamic_extents(model: onnx.ModelProto, names: str = "n h w r") -> onnx.ModelProto:
    """Give N, H, W of X and the number of RoIs names instead of numbers; a number stays one."""
    n, h, w, r = names.split()
    wanted = {"X": {0: n, 2: h, 3: w}, "rois": {0: r}, "offset": {0: r}, "mask": {0: r}}
    for value in model.graph.input:
        for axis, name in wanted.get(value.name, {}).items():
            dim = value.type.tensor_type.shape.dim[axis]
            dim.Clear()
            if name.isdigit():
                dim.dim_value = int(name)
            else:
                dim.dim_param = name
    return model


def types_of_values(model: onnx.ModelProto) -> dict[str, int]:
    values = [*model.graph.input, *model.graph.value_info, *model.graph.output]
    return {value.name: value.type.tensor_type.elem_type for value in values}


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("case", DECOMPOSABLE, ids=cases.name_of)
def test_float32_matches_the_reference(
    case: cases.RoiCase, dynamic: bool, rng: np.random.Generator, make_plain_session: Any
) -> None:
    inputs = cases.make_roi_inputs(case, rng, np.float32)
    model = peers.roi_model(case, opset=18)
    if dynamic:
        with_dynamic_extents(model)
    converted = convert(model, "decomposed")
    assert {node.domain for node in converted.graph.node} == {""}
    y = run(make_plain_session(converted), inputs)
    assert y.shape == case.output_shape
    assert relative_rms(y, expected(case, inputs)) <= bound(case, inputs)


def test_random_cases(rng: np.random.Generator, make_plain_session: Any) -> None:
    """Relative to the result for |X|: with one RoI and one channel the values may cancel to next to nothing."""
    count = 0
    while count < 150:
        case = cases.random_roi_case(rng, name=f"roi_random_{count}")
        if not is_decomposable(case):
            continue
        count += 1
        inputs = cases.make_roi_inputs(case, rng, np.float32)
        model = with_dynamic_extents(peers.roi_model(case, opset=18)) if count % 2 else peers.roi_model(case, opset=18)
        y = run(make_plain_session(convert(model, "decomposed")), inputs)
        assert y.shape == case.output_shape
        size = np.linalg.norm(expected(case, dataclasses.replace(inputs, X=np.abs(inputs.X))))
        assert np.linalg.norm(y - expected(case, inputs)) <= bound(case, inputs) * size, case


@pytest.mark.parametrize("case", SOME, ids=cases.name_of)
def test_float64_is_computed_in_float64(case: cases.RoiCase, rng: np.random.Generator, make_plain_session: Any) -> None:
    inputs = cases.make_roi_inputs(case, rng, np.float64)
    model = with_dynamic_extents(peers.roi_model(case, opset=18, dtype=np.float64))
    y = run(make_plain_session(convert(model, "decomposed")), inputs)
    assert y.dtype == np.float64
    assert relative_rms(y, expected(case, inputs)) <= 2e-9 * bound(case, inputs) / 1e-6


COORDINATES = {
    "mixed": np.float32,
    "all_half": np.float16,
    "only_rois_float32": {"rois": np.float32, "offset": np.float16, "mask": np.float16},
}


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("case", SOME, ids=cases.name_of)
def test_half_features_are_summed_at_float32_positions(
    case: cases.RoiCase, coordinates: str, rng: np.random.Generator, make_plain_session: Any
) -> None:
    types = COORDINATES[coordinates]
    inputs = cases.make_roi_inputs(case, rng, np.float16, types)
    model = peers.roi_model(case, opset=18, dtype=np.float16, coordinate_dtype=types)
    converted = convert(model, "decomposed")
    onnx.checker.check_model(converted, full_check=True)
    # Nothing but what comes in, its parts and what goes out is half.
    half = {name for name, kind in types_of_values(converted).items() if kind == onnx.TensorProto.FLOAT16}
    assert half <= {"X", "rois", "offset", "mask", "Y"}
    y = run(make_plain_session(converted), inputs)
    assert y.dtype == np.float16
    # One rounding of the result: 2⁻¹¹ of each number at most, and less in the mean.
    assert relative_rms(y, expected(case, inputs)) <= bound(case, inputs, storage=5e-4)


def between_casts(model: onnx.ModelProto) -> onnx.ModelProto:
    """Let bfloat16 inputs and outputs come and go as float32, which NumPy knows."""
    graph = model.graph
    front = []
    for value in graph.input:
        if value.type.tensor_type.elem_type == onnx.TensorProto.BFLOAT16:
            name, value.name = value.name, f"{value.name}_float"
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
            front.append(helper.make_node("Cast", [value.name], [name], to=onnx.TensorProto.BFLOAT16))
    nodes = [*front, *graph.node, helper.make_node("Cast", ["Y"], ["Y_float"], to=onnx.TensorProto.FLOAT)]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.output[0].name, graph.output[0].type.tensor_type.elem_type = "Y_float", onnx.TensorProto.FLOAT
    return model


@pytest.mark.parametrize("coordinates", [np.float32, ml_dtypes.bfloat16], ids=["mixed", "all_bfloat16"])
@pytest.mark.parametrize("case", SOME, ids=cases.name_of)
def test_bfloat16(case: cases.RoiCase, coordinates: Any, rng: np.random.Generator, make_plain_session: Any) -> None:
    """No operator but Cast meets bfloat16, so that ONNX Runtime runs it on the CPU, in any opset."""
    inputs = cases.make_roi_inputs(case, rng, ml_dtypes.bfloat16, coordinates)
    model = peers.roi_model(case, opset=15, dtype=ml_dtypes.bfloat16, coordinate_dtype=coordinates)
    converted = convert(between_casts(model), "decomposed")
    assert {entry.version for entry in converted.opset_import} == {15}
    session = make_plain_session(converted)
    named = inputs.named()
    feeds = {v.name: named[v.name.removesuffix("_float")].astype(np.float32) for v in session.get_inputs()}
    (y,) = session.run(None, feeds)
    assert relative_rms(y, expected(case, inputs)) <= bound(case, inputs, storage=4e-3)


@pytest.mark.parametrize("case", SOME, ids=cases.name_of)
def test_static_and_dynamic_are_bit_identical(
    case: cases.RoiCase, rng: np.random.Generator, make_plain_session: Any
) -> None:
    inputs = cases.make_roi_inputs(case, rng, np.float32)
    static = convert(peers.roi_model(case, opset=18), "decomposed")
    dynamic = convert(with_dynamic_extents(peers.roi_model(case, opset=18)), "decomposed")
    np.testing.assert_array_equal(run(make_plain_session(static), inputs), run(make_plain_session(dynamic), inputs))


@pytest.mark.parametrize("names", ["n 19 7 5", "2 h 7 5", "2 19 w 5", "2 19 7 r", "n h w 5"])
@pytest.mark.parametrize("name", ["roi_size_19x7", "roi_classes_2"])
def test_only_some_extents_dynamic(name: str, names: str, rng: np.random.Generator, make_plain_session: Any) -> None:
    case = cases.by_name(name)
    assert (case.n, case.h, case.w, case.r) == (2, 19, 7, 5)
    inputs = cases.make_roi_inputs(case, rng, np.float32)
    converted = convert(with_dynamic_extents(peers.roi_model(case, opset=18), names), "decomposed")
    assert relative_rms(run(make_plain_session(converted), inputs), expected(case, inputs)) <= bound(case, inputs)


def test_extents_without_names(rng: np.random.Generator, make_plain_session: Any) -> None:
    """Of the images only the channels are known: nothing may be shared between the two layers."""
    pair = [cases.by_name("roi_size_19x7"), cases.by_name("roi_classes_3_group_2")]
    model = peers.roi_model(pair, opset=18)
    for value in model.graph.input:
        for axis in (0, 2, 3) if value.name[0] == "X" else (0,):
            value.type.tensor_type.shape.dim[axis].Clear()
    inputs = [cases.make_roi_inputs(case, rng, np.float32) for case in pair]
    outputs = make_plain_session(convert(model, "decomposed")).run(None, peers.feed(inputs))
    for case, tensors, y in zip(pair, inputs, outputs, strict=True):
        assert relative_rms(y, expected(case, tensors)) <= bound(case, tensors)


def test_one_file_for_any_number_of_rois_and_images_of_any_size(
    rng: np.random.Generator, make_plain_session: Any
) -> None:
    for name in ("roi_size_19x7", "roi_classes_3_group_2"):
        first = cases.by_name(name)
        session = make_plain_session(convert(with_dynamic_extents(peers.roi_model(first, opset=18)), "decomposed"))
        for n, h, w, r in ((1, 19, 7, 1), (3, 1, 1, 7), (2, 33, 40, 0), (0, 5, 5, 0), (5, 7, 64, 40)):
            case = dataclasses.replace(first, n=n, h=h, w=w, r=r)
            inputs = cases.make_roi_inputs(case, rng, np.float32)
            y = run(session, inputs)
            assert y.shape == case.output_shape
            assert relative_rms(y, expected(case, inputs)) <= bound(case, inputs)


@pytest.mark.parametrize("variant", ["aligned", "psroi"])
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_image_out_of_range_gives_zeros(
    variant: str, dynamic: bool, rng: np.random.Generator, make_plain_session: Any
) -> None:
    case = cases.RoiCase("out_of_range", n=3, r=12, h=9, w=9, variant=variant, boxes="inside")
    inputs = cases.make_roi_inputs(case, rng, np.float32)
    below_one, below_three = np.nextafter(np.float32([1, 3]), np.float32(0))
    inputs.rois[:, 0] = (-1, 3, 2, -1e-30, below_one, below_three, math.nan, math.inf, -math.inf, 1e20, -1e20, 0.5)
    valid = {2: 2, 4: 0, 5: 2, 11: 0}
    model = peers.roi_model(case, opset=18)
    session = make_plain_session(convert(with_dynamic_extents(model) if dynamic else model, "decomposed"))
    y = run(session, inputs)
    for r in range(case.r):
        if r not in valid:
            assert not y[r].any()
            continue
        inputs.rois[r, 0] = valid[r]
        alone = cases.RoiInputs(
            inputs.X, *(None if a is None else a[r : r + 1] for a in (inputs.rois, inputs.offset, inputs.mask))
        )
        one = dataclasses.replace(case, r=1)
        assert relative_rms(y[r : r + 1], expected(one, alone)) <= bound(one, alone)


@pytest.mark.parametrize("name", ["roi_partly", "roi_partly_psroi", "roi_offsets_nonfinite", "roi_group_3"])
def test_what_is_not_sampled_is_not_read(name: str, rng: np.random.Generator, make_plain_session: Any) -> None:
    """A NaN in another image stays there, also for samples on the map's edge and off the map."""
    case = dataclasses.replace(cases.by_name(name), n=3)
    inputs = cases.make_roi_inputs(case, rng, np.float32)
    inputs.rois[:, 0] = 1
    inputs.X[0], inputs.X[2] = math.nan, math.inf
    y = run(make_plain_session(convert(peers.roi_model(case, opset=18), "decomposed")), inputs)
    assert relative_rms(y, expected(case, inputs)) <= bound(case, inputs)


@pytest.mark.parametrize("variant", ["aligned", "psroi"])
def test_a_coordinate_that_is_not_finite_empties_its_roi(
    variant: str, rng: np.random.Generator, make_plain_session: Any
) -> None:
    """Whichever it is; psroi's smallest size would turn some of them into a RoI again."""
    case = cases.RoiCase("wild", n=1, r=13, h=9, w=9, variant=variant, boxes="inside", offset=False, mask=False)
    inputs = cases.make_roi_inputs(case, rng, np.float32)
    for i, (column, value) in enumerate((c, v) for c in range(1, 5) for v in (math.nan, math.inf, -math.inf)):
        inputs.rois[i, column] = value
    y = run(make_plain_session(convert(peers.roi_model(case, opset=18), "decomposed")), inputs)
    assert not y[:12].any()
    assert y[12].any()


def test_halves_are_rounded_away_from_zero(make_plain_session: Any) -> None:
    """The corner of a RoI, read off a map that is its own column number; 0.49999997 + ½ is 1 in float32."""
    coordinates = np.float32([0.5, 1.5, 2.5, 3.5, 0.49999997, 1.4999999, 6.5000005, -0.5, -0.49999997, -1.5, 0.0, 5.0])
    case = cases.RoiCase(
        "rounding", c=1, h=1, w=12, r=len(coordinates), variant="psroi", pooled_h=1, pooled_w=1, sample_per_part=1,
        offset=False, mask=False,
    )  # fmt: skip
    column = np.arange(12, dtype=np.float32).reshape(1, 1, 1, 12)
    zero = np.zeros_like(coordinates)
    rois = np.stack([zero, coordinates, zero, coordinates + 4, zero], 1)
    inputs = cases.RoiInputs(column, rois, None, None)
    y = run(make_plain_session(convert(peers.roi_model(case, opset=18), "decomposed")), inputs).reshape(-1)
    rounded = np.array([1, 2, 3, 4, 0, 1, 7, -1, 0, -2, 0, 5])
    start = rounded - 0.5
    np.testing.assert_array_equal(y, np.where(start < -0.5, 0, np.maximum(start, 0)))


def test_the_edge_of_the_map(make_plain_session: Any) -> None:
    """At −1, at the extent and one float32 step beside them: in, or out, but never beyond the edge pixel's share."""
    case = cases.RoiCase(
        "edge", c=1, h=1, w=4, r=1, pooled_h=1, pooled_w=1, sampling_ratio=1, gamma=1.0, boxes="inside", mask=False
    )
    session = make_plain_session(convert(peers.roi_model(case, opset=18), "decomposed"))
    x = np.arange(1, 5, dtype=np.float32).reshape(1, 1, 1, 4)

    def sample(position: float) -> float:
        # A RoI of one pixel around position 0, moved.
        rois = np.float32([[0, 0, 0, 1, 1]])
        offset = np.float32([position, 0]).reshape(1, 2, 1, 1)
        return float(run(session, cases.RoiInputs(x, rois, offset, None)).item())

    exactly = {-1.0: 1.0, -0.5: 1.0, 0.0: 1.0, 0.5: 1.5, 3.0: 4.0, 3.5: 4.0, 4.0: 4.0}
    for position, value in exactly.items():
        assert sample(position) == value
    far = np.float32([-1.001, 4.001, -3e38, 3e38, 1e10, -1e10, math.nan, math.inf, -math.inf])
    assert [sample(float(position)) for position in far] == [0.0] * len(far)
    for edge, direction, value in ((-1.0, -2.0, 1.0), (4.0, 5.0, 4.0)):
        assert sample(float(np.nextafter(np.float32(edge), np.float32(direction)))) in (0.0, value)


@pytest.mark.parametrize("opset", [15, 16, 17, 18, 19, 20, 21, 22, 23])
@pytest.mark.parametrize("name", ["roi_size_19x7", "roi_classes_3_group_2"])
def test_every_opset(name: str, opset: int, rng: np.random.Generator, make_plain_session: Any) -> None:
    case = cases.by_name(name)
    converted = convert(with_dynamic_extents(peers.roi_model(case, opset=opset)), "decomposed")
    assert [entry.version for entry in converted.opset_import] == [opset]
    onnx.checker.check_model(converted, full_check=True)
    inputs = cases.make_roi_inputs(case, rng, np.float32)
    assert relative_rms(run(make_plain_session(converted), inputs), expected(case, inputs)) <= bound(case, inputs)


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("name", ["roi_size_19x7", "roi_classes_3_group_2", "roi_neither_psroi"])
def test_openvino_computes_the_same(name: str, dynamic: bool, rng: np.random.Generator) -> None:
    import openvino

    case = cases.by_name(name)
    model = peers.roi_model(case, opset=18)
    converted = convert(with_dynamic_extents(model) if dynamic else model, "decomposed")
    core = openvino.Core()
    config = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(converted.SerializeToString()), "CPU", config)
    inputs = cases.make_roi_inputs(case, rng, np.float32)
    y = np.array(compiled(peers.feed(inputs))[0])
    assert relative_rms(y, expected(case, inputs)) <= bound(case, inputs)


# ---- the graph ----


def test_static_graph_is_small_and_computes_no_shapes() -> None:
    def kinds(name: str) -> list[str]:
        return [node.op_type for node in convert(peers.roi_model(cases.by_name(name)), "decomposed").graph.node]

    for name, length in (("roi_size_19x7", 83), ("roi_neither", 79), ("roi_size_1_psroi", 116)):
        found = kinds(name)
        assert not {"Shape", "If", "Loop", "Scan", "NonZero", "GridSample"} & set(found)
        assert len(found) == length


def test_dynamic_extents_of_one_name_are_read_once() -> None:
    twice = peers.roi_model([cases.by_name("roi_size_19x7")] * 2)
    for value in twice.graph.input:
        if value.name[0] == "X":
            for axis, name in {0: "n", 2: "h", 3: "w"}.items():
                value.type.tensor_type.shape.dim[axis].Clear()
                value.type.tensor_type.shape.dim[axis].dim_param = name
    kinds = [node.op_type for node in convert(twice, "decomposed").graph.node]
    assert kinds.count("Shape") == 4  # H and W together, each alone, N


@pytest.mark.parametrize("name", ["roi_size_19x7", "roi_size_33_psroi", "roi_group_7", "roi_classes_3_group_2"])
def test_largest_tensor_is_as_large_as_said(name: str) -> None:
    model = peers.roi_model(cases.by_name(name), opset=18)
    view = view_of(load(model).graph[0], DEFORM_ROI_POOL2D)
    inferred = infer_shapes(convert(model, "decomposed"))
    sizes = {onnx.TensorProto.FLOAT: 4, onnx.TensorProto.INT64: 8, onnx.TensorProto.BOOL: 1}
    largest = max(
        math.prod(dim.dim_value for dim in value.type.tensor_type.shape.dim) * sizes[value.type.tensor_type.elem_type]
        for value in inferred.graph.value_info
    )
    assert ROW.decomposed_bytes(view) == largest


def test_a_thousand_rois_need_no_more_than_200_mib_at_a_time() -> None:
    case = cases.RoiCase("usual", c=256, h=50, w=84, r=1000, pooled_h=7, pooled_w=7)
    (node,) = load(peers.roi_model(case)).graph
    assert ROW.decomposed_bytes(view_of(node, DEFORM_ROI_POOL2D)) == 1000 * 49 * 256 * 4 * 4  # 191 MiB
    (node,) = load(with_dynamic_extents(peers.roi_model(case))).graph
    assert ROW.decomposed_bytes(view_of(node, DEFORM_ROI_POOL2D)) is None


# ---- refusals ----


@pytest.mark.parametrize("case", ADAPTIVE, ids=cases.name_of)
def test_a_grid_that_follows_the_roi_is_refused(case: cases.RoiCase) -> None:
    with pytest.raises(
        UnsupportedError,
        match=rf"Node '{case.name}' cannot be decomposed: with sampling_ratio 0 .* only the form plugin can do\. "
        r"Use that form, or export the network with a fixed sampling_ratio, such as 2\.",
    ):
        convert(peers.roi_model(case), "decomposed")


@pytest.mark.parametrize(
    ("name", "tensor", "attribute", "what"),
    [
        ("roi_size_19x7", "X", None, "number of channels of X"),
        ("roi_classes_2", "offset", None, "number of classes of offset or mask"),
        ("roi_size_7x19_psroi", "offset", "part_size", "number of parts of offset or mask"),
    ],
)
def test_unknown_extents_that_the_graph_is_made_of_are_refused(
    name: str, tensor: str, attribute: str | None, what: str
) -> None:
    """The number of RoIs, of images and the size of the map are not among them."""
    case = cases.by_name(name)
    model = peers.roi_model(case, attributes={} if attribute is None else {attribute: 0})
    for value in model.graph.input:
        if value.name == tensor or (tensor == "offset" and value.name == "mask"):
            for axis in (1,) if attribute is None else (2, 3):
                value.type.tensor_type.shape.dim[axis].Clear()
    with pytest.raises(
        UnsupportedError,
        match=rf"Node '{name}' cannot be decomposed: the {what} must be fixed, but it is unknown\. Run shape inference",
    ):
        convert(model, "decomposed")
