"""What ONNX Runtime knows of the output's shape before a run."""

from __future__ import annotations

from typing import Any

import cases
import numpy as np
import pytest
from cases import Case

#: 3×3, "same" padding: the size is kept.
SAME = cases.by_name("size_7")
#: Everything unequal: X is 2×12×7×19, Y is 2×8×4×19.
UNEQUAL = cases.by_name("unequal_groups")

UNKNOWN = dict.fromkeys(("X", "W", "offset", "B", "mask"))


@pytest.fixture
def shape_of(make_model: Any, make_session: Any) -> Any:
    """``shape_of(case, shapes, ...)``: shape of Y, an unknown axis as None (its made-up name must be new)."""

    def infer(case: Case, shapes: dict[str, Any], **options: Any) -> list[Any]:
        session = make_session(make_model(case, shapes=shapes, **options))
        (y,) = session.get_outputs()
        made_up = [dim for dim in y.shape if str(dim).startswith("dcn_deploy_unknown_")]
        assert len(set(made_up)) == len(made_up), "axes of one name are taken to be equal"
        return [None if dim in made_up else dim for dim in y.shape]

    return infer


@pytest.mark.parametrize("case", cases.CASES[::5], ids=cases.name_of)
def test_static_shapes(case: Case, shape_of: Any) -> None:
    assert shape_of(case, {}) == list(case.output_shape)


@pytest.mark.parametrize(
    ("case", "shapes", "expected"),
    [
        # Symbols pass through where the size is kept, and from the offset where it is not.
        (SAME, {"X": ["n", 8, "h", "w"], "offset": None, "mask": None}, ["n", 8, "h", "w"]),
        (SAME, {"X": ["n", 8, "h", 7], "offset": ["n", 18, "h", 7], "mask": None}, ["n", 8, "h", 7]),
        (UNEQUAL, {"X": ["n", 12, "h", "w"], "offset": None, "mask": None}, ["n", 8, None, "w"]),
        (UNEQUAL, {"X": ["n", 12, "h", 19], "offset": ["n", 36, "ho", 19], "mask": None}, ["n", 8, "ho", 19]),
        (UNEQUAL, {"X": ["n", 12, 7, "w"], "offset": None, "mask": None}, ["n", 8, 4, "w"]),
        # The mask is the last to tell.
        (UNEQUAL, {"X": None, "offset": None, "mask": ["n", 18, "ho", "wo"]}, ["n", 8, "ho", "wo"]),
        # Unknown ranks and axes.
        (UNEQUAL, {"X": None}, [2, 8, 4, 19]),
        (UNEQUAL, {"X": None, "offset": None, "mask": None}, [None, 8, None, None]),
        (UNEQUAL, {"W": None, "B": None}, [2, None, 4, 19]),  # kernel_shape gives the kernel
        (UNEQUAL, {"X": [None] * 4, "offset": None, "mask": None}, [None, 8, None, None]),
        (UNEQUAL, UNKNOWN, [None] * 4),
    ],
    ids=str,
)
def test_symbolic_and_unknown_shapes(case: Case, shapes: dict[str, Any], expected: list[Any], shape_of: Any) -> None:
    assert shape_of(case, shapes) == expected


def test_kernel_from_a_constant_weight(shape_of: Any) -> None:
    shapes = {"offset": None, "B": None, "mask": None}
    constants = {"W": np.ones(UNEQUAL.weight_shape, np.float32)}
    assert shape_of(UNEQUAL, shapes, constants=constants, attributes={"kernel_shape": None}) == [2, 8, 4, 19]


def test_no_kernel_no_size(shape_of: Any) -> None:
    shapes = {"W": None, "offset": None, "mask": None}
    assert shape_of(UNEQUAL, shapes, attributes={"kernel_shape": None}) == [2, None, None, None]


@pytest.mark.parametrize("mask", [True, False], ids=["mask", "no-mask"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
def test_optional_inputs_make_no_difference(bias: bool, mask: bool, shape_of: Any) -> None:
    names = ["X", "W", "offset", "B" if bias else "", "mask" if mask else ""]
    assert shape_of(UNEQUAL, {}, inputs=names) == [2, 8, 4, 19]


def test_inferred_shape_is_that_of_the_run(rng: Any, make_model: Any, make_session: Any) -> None:
    session = make_session(make_model(SAME, shapes={"X": ["n", 8, "h", "w"], "offset": None, "mask": None}))
    for n, h, w in ((1, 1, 33), (3, 19, 2)):
        case = Case("sized", n=n, c=8, m=8, h=h, w=w, pad_top=1, pad_left=1, pad_bottom=1, pad_right=1)
        (y,) = session.run(None, cases.make_inputs(case, rng, np.float32).named())
        assert y.shape == (n, 8, h, w) == case.output_shape


def test_shapes_go_on_to_the_nodes_behind(make_model: Any, make_session: Any) -> None:
    """A later node's constant shape is computed from the inferred one: the graph has no dynamic axis left."""
    from onnx import helper

    model = make_model(UNEQUAL)
    model.graph.node.append(helper.make_node("Transpose", ["Y"], ["Z"], perm=[3, 2, 1, 0]))
    model.graph.output[0].name = "Z"
    (z,) = make_session(model).get_outputs()
    assert z.shape == [19, 4, 8, 2]


def test_declared_shape_that_is_wrong_is_refused(make_model: Any, make_session: Any) -> None:
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail

    make_session(make_model(UNEQUAL, output=(np.float32, [2, 8, 4, 19])))
    with pytest.raises(Fail, match="Y"):
        make_session(make_model(UNEQUAL, output=(np.float16, [2, 8, 4, 19])))
