"""Inputs: which are optional, which may change between runs, and which shapes are refused, and when."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cases
import numpy as np
import peers
import pytest
from cases import Case, Inputs

from dcn_deploy.ops import reference

NAMES = ("X", "W", "offset", "B", "mask")
CASE = cases.by_name("unequal_groups")
UNKNOWN_RANKS = dict.fromkeys(NAMES)


def _assert_right(case: Case, inputs: Inputs, actual: Any) -> None:
    expected = reference.deform_conv2d(*peers.as_float64(inputs).in_order(), **case.reference_arguments)
    peers.assert_within(actual, expected, peers.error_bound(case, inputs, "float32"))


# Optional inputs.


@pytest.mark.parametrize("constant", [True, False], ids=["constant", "fed"])
@pytest.mark.parametrize("static", [True, False], ids=["static", "unknown-ranks"])
@pytest.mark.parametrize(
    ("names", "bias", "mask"),
    [
        (["X", "W", "offset"], False, False),
        (["X", "W", "offset", ""], False, False),
        (["X", "W", "offset", "", ""], False, False),
        (["X", "W", "offset", "B"], True, False),
        (["X", "W", "offset", "B", ""], True, False),
        (["X", "W", "offset", "", "mask"], False, True),
        (["X", "W", "offset", "B", "mask"], True, True),
    ],
    ids=lambda value: ",".join(name or "-" for name in value) if isinstance(value, list) else "",
)
def test_each_combination_of_optional_inputs(
    names: list[str],
    bias: bool,
    mask: bool,
    static: bool,
    constant: bool,
    rng: Any,
    make_model: Any,
    make_session: Any,
) -> None:
    case = replace(CASE, bias=bias, mask=mask)
    inputs = cases.make_inputs(case, rng, np.float32)
    feed = inputs.named()
    constants = {name: feed.pop(name) for name in ("W", "B") if name in feed} if constant else {}
    shapes = {} if static else UNKNOWN_RANKS
    session = make_session(make_model(case, inputs=names, shapes=shapes, constants=constants))
    (y,) = session.run(None, feed)
    _assert_right(case, inputs, y)


@pytest.mark.parametrize("missing", ["X", "W", "offset"])
def test_the_other_inputs_are_required(missing: str, make_model: Any, make_session: Any) -> None:
    names = ["" if name == missing else name for name in NAMES]
    with pytest.raises(Exception, match=r"backbone\.dcn"):
        make_session(make_model(CASE, inputs=names))


# Weights that change, and weights that do not.


def test_weights_may_change_between_runs(rng: Any, make_model: Any, make_session: Any) -> None:
    session = make_session(make_model(CASE))
    answers = []
    for _ in range(3):
        inputs = cases.make_inputs(CASE, rng, np.float32)
        answers.append(session.run(None, inputs.named())[0])
        _assert_right(CASE, inputs, answers[-1])
    assert not np.array_equal(answers[0], answers[1])


def test_weights_may_change_their_shape_between_runs(rng: Any, make_model: Any, make_session: Any) -> None:
    session = make_session(make_model(CASE, shapes=UNKNOWN_RANKS, attributes={"kernel_shape": None}))
    for case in (CASE, replace(CASE, kernel_h=1, kernel_w=4, m=2), replace(CASE, m=10), CASE):
        inputs = cases.make_inputs(case, rng, np.float32)
        _assert_right(case, inputs, session.run(None, inputs.named())[0])


def test_weights_computed_in_the_graph_are_not_taken_for_constants(
    rng: Any, make_model: Any, make_session: Any
) -> None:
    from onnx import helper

    model = make_model(CASE)
    model.graph.node[0].input[1] = "twice"
    model.graph.node.insert(0, helper.make_node("Add", ["W", "W"], ["twice"]))
    session = make_session(model)
    for _ in range(2):
        inputs = cases.make_inputs(CASE, rng, np.float32)
        (y,) = session.run(None, inputs.named())
        _assert_right(CASE, replace(inputs, W=2 * inputs.W), y)


def test_constant_weights_give_the_bits_of_fed_ones(rng: Any, make_model: Any, make_session: Any) -> None:
    feed = cases.make_inputs(CASE, rng, np.float32).named()
    (fed,) = make_session(make_model(CASE)).run(None, feed)
    for constant in (["W"], ["B"], ["W", "B"]):
        rest = {name: array for name, array in feed.items() if name not in constant}
        session = make_session(make_model(CASE, constants={name: feed[name] for name in constant}))
        for _ in range(2):  # what was packed at creation serves every run
            np.testing.assert_array_equal(session.run(None, rest)[0], fed, err_msg=str(constant))


def test_an_initialiser_that_may_be_overridden_is_no_constant(rng: Any, make_model: Any, make_session: Any) -> None:
    """An initialiser that is a graph input as well is only the default of that input."""
    from onnx import numpy_helper

    default, other = (cases.make_inputs(CASE, rng, np.float32) for _ in range(2))
    model = make_model(CASE)
    model.graph.initializer.append(numpy_helper.from_array(default.W, "W"))
    session = make_session(model)
    rest = {name: array for name, array in default.named().items() if name != "W"}
    _assert_right(CASE, default, session.run(None, rest)[0])
    _assert_right(CASE, replace(default, W=other.W), session.run(None, {**rest, "W": other.W})[0])


# Shapes that do not fit: (what changes, message).

_WRONG = [
    ({"X": (2, 12, 19)}, "input X: expected rank 4 [N, C, H, W], got rank 3"),
    ({"X": (2, 10, 7, 19)}, "input W, axis 1 (C/group): expected 5 (X has 10 channels, group is 2), got 6"),
    ({"X": (2, 11, 7, 19)}, "attribute group: expected a divisor of the 11 channels of X, got 2"),
    ({"X": (3, 12, 7, 19)}, "input offset, axis 0 (N): expected 3 (the batch of X), got 2"),
    ({"X": (2, 12, 0, 19)}, "input X [N, C, H, W]: expected at least 1 along axis 2, got 0"),
    ({"W": (8, 6, 3)}, "input W: expected rank 4 [M, C/group, kH, kW], got rank 3"),
    ({"W": (8, 6, 2, 2)}, "input W, axis 2 (kH): expected 3 (kernel_shape[0]), got 2"),
    ({"W": (0, 6, 3, 2)}, "input W [M, C/group, kH, kW]: expected at least 1 along axis 0, got 0"),
    ({"W": (7, 6, 3, 2)}, "attribute group: expected a divisor of the 7 output channels of W, got 2"),
    ({"offset": (2, 36, 4, 19, 1)}, "input offset: expected rank 4 [N, offset_group·kH·kW·2, Ho, Wo], got rank 5"),
    ({"offset": (2, 18, 4, 19)}, "input offset, axis 1: expected 36 (offset_group·kH·kW·2), got 18"),
    ({"offset": (1, 36, 4, 19)}, "input offset, axis 0 (N): expected 2 (the batch of X), got 1"),
    ({"offset": (2, 36, 5, 19)}, "input offset, axis 2 (Ho): expected 4 (the output height), got 5"),
    ({"offset": (2, 36, 4, 18)}, "input offset, axis 3 (Wo): expected 19 (the output width), got 18"),
    ({"B": (1,)}, "input B, axis 0: expected 8 (the output channels of W), got 1"),
    ({"B": (8, 1)}, "input B: expected rank 1 [M], got rank 2"),
    ({"mask": (2, 36, 4, 19)}, "input mask, axis 1: expected 18 (offset_group·kH·kW), got 36"),
    ({"mask": (2, 18, 4)}, "input mask: expected rank 4 [N, offset_group·kH·kW, Ho, Wo], got rank 3"),
    ({"mask": (1, 18, 4, 19)}, "input mask, axis 0 (N): expected 2 (the batch of X), got 1"),
    ({"mask": (2, 18, 7, 19)}, "input mask, axis 2 (Ho): expected 4 (the output height), got 7"),
    ({"mask": (2, 18, 4, 1)}, "input mask, axis 3 (Wo): expected 19 (the output width), got 1"),
]


def _id(value: Any) -> str:
    return "-".join(f"{name}{list(shape)}" for name, shape in value.items()) if isinstance(value, dict) else ""


def test_the_sizes_of_the_messages_are_those_of_the_case() -> None:
    assert (CASE.x_shape, CASE.weight_shape) == ((2, 12, 7, 19), (8, 6, 3, 2))
    assert (CASE.offset_shape, CASE.mask_shape) == ((2, 36, 4, 19), (2, 18, 4, 19))


@pytest.mark.parametrize(("wrong", "message"), _WRONG, ids=_id)
def test_static_shape_is_refused_when_the_session_is_made(
    wrong: dict[str, Any], message: str, make_model: Any, refused: Any
) -> None:
    refused(make_model(CASE, shapes=wrong), message)


@pytest.mark.parametrize("dynamic", ["unknown-ranks", "unknown-dims"])
@pytest.mark.parametrize(("wrong", "message"), _WRONG, ids=_id)
def test_dynamic_shape_is_refused_in_the_run_and_the_session_goes_on(
    wrong: dict[str, Any],
    message: str,
    dynamic: str,
    rng: Any,
    make_model: Any,
    make_session: Any,
    refused_in_run: Any,
) -> None:
    inputs = cases.make_inputs(CASE, rng, np.float32)
    bad = {**inputs.named(), **{name: np.zeros(shape, np.float32) for name, shape in wrong.items()}}
    shapes: dict[str, Any] = UNKNOWN_RANKS
    if dynamic == "unknown-dims":
        shapes = {name: [None] * array.ndim for name, array in inputs.named().items()}
        if any(bad[name].ndim != len(shape) for name, shape in shapes.items()):
            shapes |= dict.fromkeys(wrong)  # ONNX Runtime itself would refuse the feed's rank
    session = make_session(make_model(CASE, shapes=shapes))
    for _ in range(2):
        refused_in_run(session, bad, message)
        _assert_right(CASE, inputs, session.run(None, inputs.named())[0])


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((8, 6, 3, 3), "input W, axis 3 (kW): expected 2 (kernel_shape[1]), got 3"),
        ((8, 5, 3, 2), "input W, axis 1 (C/group): expected 6 (X has 12 channels, group is 2), got 5"),
        ((8, 36), "input W: expected rank 4 [M, C/group, kH, kW], got rank 2"),
        ((9, 6, 3, 2), "attribute group: expected a divisor of the 9 output channels of W, got 2"),
    ],
    ids=str,
)
def test_constant_weight_that_does_not_fit_is_refused_when_the_session_is_made(
    shape: tuple[int, ...], message: str, make_model: Any, refused: Any
) -> None:
    free = {"X": [None, 12, None, None], "offset": None, "mask": None, "B": None}
    refused(make_model(CASE, shapes=free, constants={"W": np.ones(shape, np.float32)}), message)


def test_constant_weight_alone_settles_the_channels_of_the_offset(make_model: Any, refused: Any) -> None:
    free = {"X": None, "offset": ["n", 20, "h", "w"], "mask": None, "B": None}
    model = make_model(
        CASE,
        shapes=free,
        attributes={"kernel_shape": None},
        constants={"W": np.ones(CASE.weight_shape, np.float32)},
    )
    refused(model, "input offset, axis 1: expected 36 (offset_group·kH·kW·2), got 20")


def test_map_smaller_than_the_kernel_is_refused_in_the_run(
    rng: Any, make_model: Any, make_session: Any, refused_in_run: Any
) -> None:
    case = Case("valid", c=2, h=7, w=7, m=2)
    session = make_session(make_model(case, shapes=UNKNOWN_RANKS))
    inputs = cases.make_inputs(case, rng, np.float32)
    small = {**inputs.named(), "X": inputs.X[:, :, :2]}
    refused_in_run(session, small, "height of X: expected at least 3 with padding", "got 2 (size 2, pads 0 and 0)")
    _assert_right(case, inputs, session.run(None, inputs.named())[0])


@pytest.mark.parametrize("name", ["empty_batch", "empty_batch_unequal", "empty_batch_v1"])
def test_empty_batch_among_others(name: str, rng: Any, make_model: Any, make_session: Any) -> None:
    case = cases.by_name(name)
    session = make_session(make_model(case, shapes=UNKNOWN_RANKS))
    for n in (0, 2, 0, 1):
        sized = replace(case, n=n)
        inputs = cases.make_inputs(sized, rng, np.float32)
        _assert_right(sized, inputs, session.run(None, inputs.named())[0])
