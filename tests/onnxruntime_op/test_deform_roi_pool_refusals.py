"""DeformRoIPool2d in ONNX Runtime: defaults of the attributes, and what is refused, when, in which words."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import cases
import ml_dtypes
import numpy as np
import peers
import pytest
from cases import RoiCase

from dcn_deploy.ops import reference
from dcn_deploy.ops.schema import DEFORM_ROI_POOL2D

NAMES = ("X", "rois", "offset", "mask")
UNKNOWN_RANKS = dict.fromkeys(NAMES)
FEATURES = (np.float32, np.float16, ml_dtypes.bfloat16)

#: Every attribute that has a default has it.
PLAIN = RoiCase("plain", c=4, h=7, w=9, sampling_ratio=0)
PLAIN_PSROI = replace(PLAIN, name="plain_psroi", variant="psroi", sampling_ratio=2)

ALIGNED = RoiCase("aligned", n=2, c=6, h=9, w=12, r=5, pooled_h=3, pooled_w=4)
#: X is 2×24×9×12, offset 5×6×7×7, mask 5×3×7×7, Y 5×6×3×3.
PSROI = RoiCase("psroi", n=2, c=24, h=9, w=12, r=5, variant="psroi", group_size=2, classes=3, part_size=7)

DEFAULTS: dict[str, Any] = {
    "variant": "aligned",
    "spatial_scale": 1.0,
    "gamma": float(np.float32(0.1)),
    "sampling_ratio": 0,
    "sample_per_part": 4,
    "group_size": 1,
    "part_size": 0,
    "output_channels": 0,
}


@pytest.fixture
def refused_roi(refused: Any) -> Any:
    return partial(refused, op_type="DeformRoIPool2d")


@pytest.fixture
def refused_roi_in_run(refused_in_run: Any) -> Any:
    return partial(refused_in_run, op_type="DeformRoIPool2d")


def _assert_right(case: RoiCase, inputs: Any, actual: Any) -> None:
    expected = reference.deform_roi_pool(*peers.as_float64(inputs).in_order(), **case.reference_arguments)
    peers.assert_within(actual, expected, peers.roi_error_bound(case, inputs))


def test_every_attribute_of_the_schema_is_covered() -> None:
    optional = {attribute.name for attribute in DEFORM_ROI_POOL2D.attributes if not attribute.required}
    assert set(DEFAULTS) == optional


@pytest.mark.parametrize("left_out", [*([name] for name in DEFAULTS), list(DEFAULTS)], ids="-".join)
@pytest.mark.parametrize("static", [True, False], ids=["static", "dynamic"])
@pytest.mark.parametrize("case", [PLAIN, PLAIN_PSROI], ids=cases.name_of)
def test_left_out_is_the_default_written_out(
    case: RoiCase, left_out: list[str], static: bool, rng: Any, make_roi_model: Any, make_session: Any
) -> None:
    shapes = {} if static else UNKNOWN_RANKS
    feed = cases.make_roi_inputs(case, rng, np.float32).named()
    written = {**DEFAULTS, "variant": case.variant}
    if not case.is_aligned:
        left_out = [name for name in left_out if name != "variant"]
    answers = [
        make_session(make_roi_model(case, shapes=shapes, attributes=attributes)).run(None, feed)[0]
        for attributes in (written, {**written, **dict.fromkeys(left_out)})
    ]
    assert np.ptp(answers[0]) > 0
    np.testing.assert_array_equal(answers[1], answers[0])


@pytest.mark.parametrize(
    ("case", "foreign"),
    [
        (ALIGNED, {"sample_per_part": 9, "part_size": 5, "output_channels": 6, "group_size": 1}),
        (PSROI, {"sampling_ratio": 9}),
    ],
    ids=str,
)
def test_attributes_of_the_other_variant_change_nothing(
    case: RoiCase, foreign: dict[str, Any], rng: Any, make_roi_model: Any, make_session: Any
) -> None:
    feed = cases.make_roi_inputs(case, rng, np.float32).named()
    (own,) = make_session(make_roi_model(case)).run(None, feed)
    (both,) = make_session(make_roi_model(case, attributes=foreign)).run(None, feed)
    np.testing.assert_array_equal(both, own)


# What makes a node malformed whatever its inputs are: refused even if no shape is known.
_MALFORMED: list[tuple[dict[str, Any], str]] = [
    ({"variant": "Aligned"}, 'attribute variant: expected "aligned" or "psroi", got "Aligned"'),
    ({"variant": ""}, 'attribute variant: expected "aligned" or "psroi", got ""'),
    ({"variant": 1}, "attribute variant: expected a string, got another type of attribute"),
    ({"variant": ["aligned"]}, "attribute variant: expected a string, got another type of attribute"),
    ({"output_size": None}, "attribute output_size: expected 2 values, got none"),
    ({"output_size": [3]}, "attribute output_size: expected 2 values, got 1"),
    ({"output_size": [3, 3, 3]}, "attribute output_size: expected 2 values, got 3"),
    ({"output_size": 3}, "attribute output_size: expected a list of integers, got another type of attribute"),
    ({"output_size": [3.0, 3.0]}, "attribute output_size: expected a list of integers, got another type of attribute"),
    ({"output_size": [0, 3]}, "attribute output_size[0]: expected at least 1, got 0"),
    ({"output_size": [3, -1]}, "attribute output_size[1]: expected at least 1, got -1"),
    ({"spatial_scale": 0.0}, "attribute spatial_scale: expected a finite number above 0, got 0"),
    ({"spatial_scale": -0.25}, "attribute spatial_scale: expected a finite number above 0, got -0.25"),
    ({"spatial_scale": float("nan")}, "attribute spatial_scale: expected a finite number above 0, got nan"),
    ({"spatial_scale": float("inf")}, "attribute spatial_scale: expected a finite number above 0, got inf"),
    ({"spatial_scale": 1}, "attribute spatial_scale: expected a real number, got another type of attribute"),
    ({"spatial_scale": [1.0, 1.0]}, "attribute spatial_scale: expected a real number, got another type of attribute"),
    ({"gamma": float("-inf")}, "attribute gamma: expected a finite number, got -inf"),
    ({"gamma": "0.1"}, "attribute gamma: expected a real number, got another type of attribute"),
    ({"sampling_ratio": -1}, "attribute sampling_ratio: expected at least 0, got -1"),
    ({"sampling_ratio": 2.0}, "attribute sampling_ratio: expected an integer, got another type of attribute"),
    ({"sample_per_part": 0}, "attribute sample_per_part: expected at least 1, got 0"),
    ({"group_size": 0}, "attribute group_size: expected at least 1, got 0"),
    ({"group_size": [1, 1]}, "attribute group_size: expected an integer, got another type of attribute"),
    ({"part_size": -7}, "attribute part_size: expected at least 0, got -7"),
    ({"output_channels": -1}, "attribute output_channels: expected at least 0, got -1"),
]


def _id(value: Any) -> str | None:
    return " ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else ""


@pytest.mark.parametrize(("attributes", "message"), _MALFORMED, ids=_id)
@pytest.mark.parametrize("static", [True, False], ids=["static", "unknown-ranks"])
@pytest.mark.parametrize("case", [PLAIN, PLAIN_PSROI], ids=cases.name_of)
def test_malformed_attribute_is_refused(
    case: RoiCase, attributes: dict[str, Any], message: str, static: bool, make_roi_model: Any, refused_roi: Any
) -> None:
    refused_roi(make_roi_model(case, shapes={} if static else UNKNOWN_RANKS, attributes=attributes), message)


_UNFIT: list[tuple[RoiCase, dict[str, Any], str]] = [
    (ALIGNED, {"group_size": 2}, "attribute group_size: expected 1 (variant aligned has no channel groups), got 2"),
    (
        ALIGNED,
        {"output_channels": 3},
        "attribute output_channels: expected 6 (the channels of X, with variant aligned), got 3",
    ),
    (ALIGNED, {"output_size": [4, 4]}, "input offset, axis 2 (pH): expected 4 (output_size[0]), got 3"),
    (ALIGNED, {"output_size": [3, 3]}, "input offset, axis 3 (pW): expected 3 (output_size[1]), got 4"),
    (
        PSROI,
        {"group_size": 5, "output_channels": None},
        "attribute group_size: expected one whose square divides the 24 channels of X, got 5",
    ),
    (
        PSROI,
        {"output_channels": 3},
        "attribute output_channels: expected 6 (X has 24 channels, group_size is 2), got 3",
    ),
    (PSROI, {"part_size": 3}, "input offset, axis 2: expected 3 (part_size), got 7"),
    (
        PSROI,
        {"variant": "aligned", "group_size": None, "output_channels": None},
        "input offset, axis 1: expected 2 (x and y, with variant aligned), got 6",
    ),
]


@pytest.mark.parametrize(("case", "attributes", "message"), _UNFIT, ids=_id)
def test_attribute_that_does_not_fit_the_inputs_is_refused(
    case: RoiCase, attributes: dict[str, Any], message: str, make_roi_model: Any, refused_roi: Any
) -> None:
    refused_roi(make_roi_model(case, attributes=attributes), message)


@pytest.mark.parametrize(("case", "attributes", "message"), _UNFIT, ids=_id)
def test_attribute_that_does_not_fit_is_refused_in_the_run_if_the_shapes_come_late(
    case: RoiCase,
    attributes: dict[str, Any],
    message: str,
    rng: Any,
    make_roi_model: Any,
    make_session: Any,
    refused_roi: Any,
    refused_roi_in_run: Any,
) -> None:
    model = make_roi_model(case, shapes=UNKNOWN_RANKS, attributes=attributes)
    if "channel groups" in message:  # needs no shape
        refused_roi(model, message)
        return
    refused_roi_in_run(make_session(model), cases.make_roi_inputs(case, rng, np.float32).named(), message)


def test_a_node_without_a_name_is_called_by_its_output(make_roi_model: Any, make_session: Any) -> None:
    with pytest.raises(Exception, match="DeformRoIPool2d node with output 'Y': attribute output_size"):
        make_session(make_roi_model(PLAIN, name="", attributes={"output_size": [0, 0]}))


# Shapes that do not fit: (case, what changes, message).

_WRONG: list[tuple[RoiCase, dict[str, Any], str]] = [
    (ALIGNED, {"X": (2, 6, 9)}, "input X: expected rank 4 [N, C, H, W], got rank 3"),
    (ALIGNED, {"X": (2, 6, 9, 0)}, "input X [N, C, H, W]: expected at least 1 along axis 3, got 0"),
    (ALIGNED, {"rois": (5,)}, "input rois: expected rank 2 [R, 5], got rank 1"),
    (ALIGNED, {"rois": (5, 4)}, "input rois, axis 1: expected 5 (batch index, x1, y1, x2, y2), got 4"),
    (ALIGNED, {"rois": (4, 5)}, "input offset, axis 0 (R): expected 4 (the RoIs of rois), got 5"),
    (ALIGNED, {"offset": (5, 2, 3)}, "input offset: expected rank 4 [R, 2, pH, pW], got rank 3"),
    (ALIGNED, {"offset": (5, 1, 3, 4)}, "input offset, axis 1: expected 2 (x and y, with variant aligned), got 1"),
    (ALIGNED, {"offset": (5, 2, 3, 3)}, "input offset, axis 3 (pW): expected 4 (output_size[1]), got 3"),
    (ALIGNED, {"mask": (5, 2, 3, 4)}, "input mask, axis 1: expected 1 (with variant aligned), got 2"),
    (ALIGNED, {"mask": (6, 1, 3, 4)}, "input mask, axis 0 (R): expected 5 (the RoIs of rois), got 6"),
    (ALIGNED, {"mask": (5, 1, 4, 4)}, "input mask, axis 2 (pH): expected 3 (output_size[0]), got 4"),
    (
        PSROI,
        {"X": (2, 22, 9, 12)},
        "attribute group_size: expected one whose square divides the 22 channels of X, got 2",
    ),
    (
        PSROI,
        {"X": (2, 48, 9, 12)},
        "attribute output_channels: expected 12 (X has 48 channels, group_size is 2), got 6",
    ),
    (PSROI, {"offset": (5, 6, 7)}, "input offset: expected rank 4 [R, 2·classes, part, part], got rank 3"),
    (PSROI, {"offset": (5, 5, 7, 7)}, "input offset, axis 1: expected an even number (2·classes), got 5"),
    (PSROI, {"offset": (5, 6, 7, 8)}, "input offset, axis 3: expected 7 (part_size), got 8"),
    (PSROI, {"mask": (5, 2, 7, 7)}, "input mask, axis 1: expected 3 (the classes of offset), got 2"),
    (
        PSROI,
        {"offset": (5, 8, 7, 7), "mask": (5, 4, 7, 7)},
        "input offset, axis 1: expected a number of classes that divides the 6 output channels, got 4 classes",
    ),
]


@pytest.mark.parametrize(("case", "wrong", "message"), _WRONG, ids=_id)
def test_static_shape_is_refused_when_the_session_is_made(
    case: RoiCase, wrong: dict[str, Any], message: str, make_roi_model: Any, refused_roi: Any
) -> None:
    refused_roi(make_roi_model(case, shapes=wrong), message)


@pytest.mark.parametrize(("case", "wrong", "message"), _WRONG, ids=_id)
def test_dynamic_shape_is_refused_in_the_run_and_the_session_goes_on(
    case: RoiCase,
    wrong: dict[str, Any],
    message: str,
    rng: Any,
    make_roi_model: Any,
    make_session: Any,
    refused_roi_in_run: Any,
) -> None:
    inputs = cases.make_roi_inputs(case, rng, np.float32)
    bad = {**inputs.named(), **{name: np.zeros(shape, np.float32) for name, shape in wrong.items()}}
    session = make_session(make_roi_model(case, shapes=UNKNOWN_RANKS))
    for _ in range(2):
        refused_roi_in_run(session, bad, message)
        _assert_right(case, inputs, session.run(None, inputs.named())[0])


def test_parts_of_offset_and_mask_must_agree_where_no_attribute_says(make_roi_model: Any, refused_roi: Any) -> None:
    shapes = {"offset": (5, 6, 7, 7), "mask": (5, 3, 6, 6)}
    model = make_roi_model(PSROI, shapes=shapes, attributes={"part_size": 0})
    refused_roi(model, "input mask, axis 2: expected 7 (the parts of offset), got 6")


# Batch indices.


@pytest.mark.parametrize(
    ("index", "shown"), [(2.0, "2"), (-1.0, "-1"), (-0.5, "-0.5"), (np.nan, "nan"), (np.inf, "inf"), (1e9, "1e+09")]
)
@pytest.mark.parametrize("case", [ALIGNED, PSROI], ids=cases.name_of)
def test_batch_index_outside_the_batch_is_refused_and_the_session_goes_on(
    case: RoiCase, index: float, shown: str, rng: Any, make_roi_model: Any, make_session: Any, refused_roi_in_run: Any
) -> None:
    inputs = cases.make_roi_inputs(case, rng, np.float32)
    session = make_session(make_roi_model(case))
    for roi in (0, 4):
        rois = inputs.rois.copy()
        rois[roi, 0] = index
        message = f"input rois, RoI {roi}: expected a batch index in [0, 2), got {shown}"
        refused_roi_in_run(session, {**inputs.named(), "rois": rois}, message)
        _assert_right(case, inputs, session.run(None, inputs.named())[0])


def test_rois_of_no_image_are_refused(
    rng: Any, make_roi_model: Any, make_session: Any, refused_roi_in_run: Any
) -> None:
    feed = cases.make_roi_inputs(ALIGNED, rng, np.float32).named()
    session = make_session(make_roi_model(ALIGNED, shapes=UNKNOWN_RANKS))
    message = "input rois, RoI 0: expected a batch index in [0, 0), got"
    refused_roi_in_run(session, {**feed, "X": feed["X"][:0]}, message)


# Element types.


def _wrong_types() -> list[Any]:
    rows = []
    for features in FEATURES:
        name = np.dtype(features).name
        for key in NAMES[1:]:
            for dtype in (*FEATURES, np.float64, np.int64):
                if dtype in (np.float32, features):
                    continue
                expected = f"the type of X, {name}"
                if features is not np.float32:
                    expected = f"float32 or {expected}"
                message = f"input {key}: expected {expected}, got {np.dtype(dtype).name}"
                rows.append(
                    pytest.param({"X": features, key: dtype}, message, id=f"{name}-{key}-{np.dtype(dtype).name}")
                )
    return rows


@pytest.mark.parametrize("static", [True, False], ids=["static", "unknown-ranks"])
@pytest.mark.parametrize(("dtypes", "message"), _wrong_types())
def test_wrong_type_is_refused(
    dtypes: dict[str, Any], message: str, static: bool, make_roi_model: Any, refused_roi: Any
) -> None:
    refused_roi(make_roi_model(PSROI, dtypes=dtypes, shapes={} if static else UNKNOWN_RANKS), message)


@pytest.mark.parametrize("dtype", [np.float64, np.int32, np.uint8], ids=lambda dtype: np.dtype(dtype).name)
def test_features_of_another_type_have_no_kernel(dtype: Any, make_roi_model: Any, make_session: Any) -> None:
    """X tells the overloads apart, so ONNX Runtime refuses by itself."""
    with pytest.raises(Exception, match="DeformRoIPool2d"):
        make_session(make_roi_model(PSROI, dtypes=dict.fromkeys(NAMES, dtype)))


def test_wrong_node_in_a_branch_of_an_if_is_refused(make_roi_model: Any, refused_roi: Any) -> None:
    from onnx import TensorProto, helper

    model = make_roi_model(PSROI, attributes={"sample_per_part": 0})
    (node,) = model.graph.node
    node.output[0] = "Y_then"
    graphs = [
        helper.make_graph(
            [each], name, [], [helper.make_tensor_value_info(each.output[0], TensorProto.FLOAT, [None] * 4)]
        )
        for name, each in (("then", node), ("else", helper.make_node("Identity", ["X"], ["Y_else"])))
    ]
    branch = helper.make_node("If", ["deform"], ["Y"], name="if", then_branch=graphs[0], else_branch=graphs[1])
    model.graph.input.append(helper.make_tensor_value_info("deform", TensorProto.BOOL, []))
    del model.graph.node[:]
    model.graph.node.append(branch)
    refused_roi(model, "attribute sample_per_part: expected at least 1, got 0")
