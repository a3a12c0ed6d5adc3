"""What ONNX Runtime knows of the shape of DeformRoIPool2d's output before a run."""

from __future__ import annotations

from typing import Any

import cases
import numpy as np
import pytest
from cases import RoiCase

ALIGNED = RoiCase("aligned", n=2, c=6, h=9, w=12, r=5, pooled_h=3, pooled_w=4)
#: X is 2×24×9×12, offset 5×6×7×7, mask 5×3×7×7, Y 5×6×3×3.
PSROI = RoiCase("psroi", n=2, c=24, h=9, w=12, r=5, variant="psroi", group_size=2, classes=3, part_size=7)

UNKNOWN = dict.fromkeys(("X", "rois", "offset", "mask"))
FREE = {"output_channels": None}


@pytest.fixture
def shape_of(make_roi_model: Any, make_session: Any) -> Any:
    """``shape_of(case, shapes, ...)``: shape of Y, an unknown axis as None (its made-up name must be new)."""

    def infer(case: RoiCase, shapes: dict[str, Any], **options: Any) -> list[Any]:
        session = make_session(make_roi_model(case, shapes=shapes, **options))
        (y,) = session.get_outputs()
        made_up = [dim for dim in y.shape if str(dim).startswith("dcn_deploy_unknown_")]
        assert len(set(made_up)) == len(made_up), "axes of one name are taken to be equal"
        return [None if dim in made_up else dim for dim in y.shape]

    return infer


@pytest.mark.parametrize("case", cases.ALL_ROI_CASES[::5], ids=cases.name_of)
def test_static_shapes(case: RoiCase, shape_of: Any) -> None:
    assert shape_of(case, {}) == list(case.output_shape)


@pytest.mark.parametrize(
    ("case", "shapes", "attributes", "expected"),
    [
        # The number of RoIs stays a symbol, whichever input tells it.
        (ALIGNED, {"rois": ["r", 5]}, {}, ["r", 6, 3, 4]),
        (ALIGNED, {"rois": None}, {}, [5, 6, 3, 4]),
        (ALIGNED, {"rois": [None, 5], "offset": ["r", 2, 3, 4], "mask": None}, {}, ["r", 6, 3, 4]),
        (ALIGNED, {"rois": None, "offset": None, "mask": ["r", 1, 3, 4]}, {}, ["r", 6, 3, 4]),
        (PSROI, {"rois": ["r", 5], "offset": None, "mask": None}, {}, ["r", 6, 3, 3]),
        # Channels: a symbol of X where they are the same, a number from the attribute or from C = Cout·group_size².
        (ALIGNED, {"X": ["n", "c", "h", "w"]}, {}, [5, "c", 3, 4]),
        (ALIGNED, {"X": None}, {}, [5, None, 3, 4]),
        (PSROI, {"X": ["n", "c", "h", "w"]}, {}, [5, 6, 3, 3]),
        (PSROI, {"X": ["n", "c", "h", "w"]}, FREE, [5, None, 3, 3]),
        (PSROI, {"X": ["n", "c", "h", "w"]}, {**FREE, "group_size": 1}, [5, "c", 3, 3]),
        (PSROI, {"X": ["n", 24, "h", "w"]}, FREE, [5, 6, 3, 3]),
        (PSROI, {"X": None}, FREE, [5, None, 3, 3]),
        (ALIGNED, UNKNOWN, {}, [None, None, 3, 4]),
        (PSROI, UNKNOWN, FREE, [None, None, 3, 3]),
    ],
    ids=str,
)
def test_symbolic_and_unknown_shapes(
    case: RoiCase, shapes: dict[str, Any], attributes: dict[str, Any], expected: list[Any], shape_of: Any
) -> None:
    assert shape_of(case, shapes, attributes=attributes) == expected


@pytest.mark.parametrize("mask", [True, False], ids=["mask", "no-mask"])
@pytest.mark.parametrize("offset", [True, False], ids=["offset", "no-offset"])
def test_optional_inputs_make_no_difference(offset: bool, mask: bool, shape_of: Any) -> None:
    names = ["X", "rois", "offset" if offset else "", "mask" if mask else ""]
    assert shape_of(ALIGNED, {"rois": ["r", 5], "offset": None, "mask": None}, inputs=names) == ["r", 6, 3, 4]


def test_inferred_shape_is_that_of_the_run(rng: Any, make_roi_model: Any, make_session: Any) -> None:
    from dataclasses import replace

    shapes = {"X": ["n", 24, "h", "w"], "rois": ["r", 5], "offset": None, "mask": None}
    session = make_session(make_roi_model(PSROI, shapes=shapes))
    assert session.get_outputs()[0].shape == ["r", 6, 3, 3]
    for r, h, w in ((1, 1, 33), (0, 19, 2)):
        case = replace(PSROI, r=r, h=h, w=w)
        (y,) = session.run(None, cases.make_roi_inputs(case, rng, np.float32).named())
        assert y.shape == (r, 6, 3, 3)


def test_shapes_go_on_to_the_nodes_behind(make_roi_model: Any, make_session: Any) -> None:
    from onnx import helper

    model = make_roi_model(ALIGNED, shapes={"rois": ["r", 5], "offset": None, "mask": None})
    model.graph.node.append(helper.make_node("Transpose", ["Y"], ["Z"], perm=[3, 2, 1, 0]))
    model.graph.output[0].name = "Z"
    (z,) = make_session(model).get_outputs()
    assert z.shape == [4, 3, 6, "r"]


def test_declared_shape_that_is_wrong_is_refused(make_roi_model: Any, make_session: Any) -> None:
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail

    make_session(make_roi_model(ALIGNED, output=(np.float32, [5, 6, 3, 4])))
    with pytest.raises(Fail, match="Y"):
        make_session(make_roi_model(ALIGNED, output=(np.float16, [5, 6, 3, 4])))
