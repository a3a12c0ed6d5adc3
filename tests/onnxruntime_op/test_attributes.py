"""Attributes: their defaults, and what is refused when the session is made."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cases
import numpy as np
import pytest
from cases import Case

from dcn_deploy.ops.schema import DEFORM_CONV2D

PLAIN = Case("plain", c=4, h=7, w=9, m=4)  # every attribute has its default
UNEQUAL = cases.by_name("unequal_groups")  # every attribute has another value than its default

DEFAULTS = {
    "strides": [1, 1],
    "pads": [0, 0, 0, 0],
    "dilations": [1, 1],
    "group": 1,
    "offset_group": 1,
    "kernel_shape": list(PLAIN.kernel_shape),  # that of W
}


def test_every_attribute_of_the_schema_is_covered() -> None:
    assert set(DEFAULTS) == {attribute.name for attribute in DEFORM_CONV2D.attributes}


@pytest.mark.parametrize("left_out", [*([name] for name in DEFAULTS), list(DEFAULTS)], ids="-".join)
@pytest.mark.parametrize("static", [True, False], ids=["static", "dynamic"])
def test_left_out_is_the_default_written_out(
    left_out: list[str], static: bool, rng: Any, make_model: Any, make_session: Any
) -> None:
    shapes = {} if static else dict.fromkeys(("X", "W", "offset", "mask"))
    feed = cases.make_inputs(PLAIN, rng, np.float32).named()
    answers = [
        make_session(make_model(PLAIN, shapes=shapes, attributes=attributes)).run(None, feed)[0]
        for attributes in (DEFAULTS, dict.fromkeys(left_out))
    ]
    assert np.ptp(answers[0]) > 0
    np.testing.assert_array_equal(answers[1], answers[0])


# What makes a node malformed whatever its inputs are: refused even if no shape is known.
_MALFORMED = [
    ({"strides": [0, 1]}, "attribute strides[0]: expected at least 1, got 0"),
    ({"strides": [2, -3]}, "attribute strides[1]: expected at least 1, got -3"),
    ({"strides": [1]}, "attribute strides: expected 2 values, got 1"),
    ({"strides": [1, 1, 1]}, "attribute strides: expected 2 values, got 3"),
    ({"strides": 2}, "attribute strides: expected a list of integers, got another type of attribute"),
    ({"strides": [1.0, 2.0]}, "attribute strides: expected a list of integers, got another type of attribute"),
    ({"dilations": [0, 1]}, "attribute dilations[0]: expected at least 1, got 0"),
    ({"dilations": [1, 0]}, "attribute dilations[1]: expected at least 1, got 0"),
    ({"dilations": [1, 1, 1, 1]}, "attribute dilations: expected 2 values, got 4"),
    ({"dilations": "same"}, "attribute dilations: expected a list of integers, got another type of attribute"),
    ({"pads": [-1, 0, 0, 0]}, "attribute pads[0] (top): expected at least 0, got -1"),
    ({"pads": [0, -2, 0, 0]}, "attribute pads[1] (left): expected at least 0, got -2"),
    ({"pads": [0, 0, -3, 0]}, "attribute pads[2] (bottom): expected at least 0, got -3"),
    ({"pads": [0, 0, 0, -4]}, "attribute pads[3] (right): expected at least 0, got -4"),
    ({"pads": [1, 1]}, "attribute pads: expected 4 values, got 2"),
    ({"kernel_shape": [3]}, "attribute kernel_shape: expected 2 values, got 1"),
    ({"kernel_shape": [0, 3]}, "attribute kernel_shape[0]: expected at least 1, got 0"),
    ({"kernel_shape": [3, -1]}, "attribute kernel_shape[1]: expected at least 1, got -1"),
    ({"group": 0}, "attribute group: expected at least 1, got 0"),
    ({"group": [1, 1]}, "attribute group: expected an integer, got another type of attribute"),
    ({"group": 1.0}, "attribute group: expected an integer, got another type of attribute"),
    ({"offset_group": -2}, "attribute offset_group: expected at least 1, got -2"),
    ({"dilations": [2**62, 1]}, "height of the kernel: expected dilation·(kernel − 1) + 1 to fit in 64 bits"),
    ({"pads": [2**62, 0, 2**62, 0]}, "height of X with its padding: expected at most 2^30 = 1073741824 pixels"),
    ({"offset_group": "2"}, "attribute offset_group: expected an integer, got another type of attribute"),
]


def _id(value: Any) -> str | None:
    return " ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else ""


@pytest.mark.parametrize(("attributes", "message"), _MALFORMED, ids=_id)
@pytest.mark.parametrize("static", [True, False], ids=["static", "unknown-ranks"])
def test_malformed_attribute_is_refused(
    attributes: dict[str, Any], message: str, static: bool, make_model: Any, refused: Any
) -> None:
    shapes = {} if static else dict.fromkeys(("X", "W", "offset", "B", "mask"))
    refused(make_model(PLAIN, shapes=shapes, attributes=attributes), message)


# What does not go with the inputs of UNEQUAL: X has 12 channels, W is 8×6×3×2, offset has 36 channels.
_UNFIT = [
    ({"kernel_shape": [2, 2]}, "input W, axis 2 (kH): expected 2 (kernel_shape[0]), got 3"),
    ({"kernel_shape": [3, 3]}, "input W, axis 3 (kW): expected 3 (kernel_shape[1]), got 2"),
    ({"group": 5}, "attribute group: expected a divisor of the 12 channels of X, got 5"),
    ({"group": 3}, "input W, axis 1 (C/group): expected 4 (X has 12 channels, group is 3), got 6"),
    ({"offset_group": 5}, "attribute offset_group: expected a divisor of the 12 channels of X, got 5"),
    ({"offset_group": 4}, "input offset, axis 1: expected 48 (offset_group·kH·kW·2), got 36"),
    ({"strides": [3, 1]}, "input offset, axis 2 (Ho): expected 3 (the output height), got 4"),
    ({"pads": [2, 0, 1, 0]}, "input offset, axis 3 (Wo): expected 16 (the output width), got 19"),
    ({"dilations": [1, 40]}, "width of X: expected at least 41 with padding, which is what kernel 2 with dilation 40"),
]


@pytest.mark.parametrize(("attributes", "message"), _UNFIT, ids=_id)
def test_attribute_that_does_not_fit_the_inputs_is_refused(
    attributes: dict[str, Any], message: str, make_model: Any, refused: Any
) -> None:
    refused(make_model(UNEQUAL, attributes=attributes), message)


@pytest.mark.parametrize(("attributes", "message"), _UNFIT, ids=_id)
def test_attribute_that_does_not_fit_is_refused_in_the_run_if_the_shapes_come_late(
    attributes: dict[str, Any], message: str, rng: Any, make_model: Any, make_session: Any, refused_in_run: Any
) -> None:
    shapes = dict.fromkeys(("X", "W", "offset", "B", "mask"))
    session = make_session(make_model(UNEQUAL, shapes=shapes, attributes=attributes))
    refused_in_run(session, cases.make_inputs(UNEQUAL, rng, np.float32).named(), message)


def test_group_must_divide_the_output_channels(make_model: Any, refused: Any) -> None:
    case = replace(PLAIN, m=6)
    model = make_model(case, shapes={"W": (6, 1, 3, 3)}, attributes={"group": 4})
    refused(model, "attribute group: expected a divisor of the 6 output channels of W, got 4")


def test_a_node_without_a_name_is_called_by_its_output(make_model: Any, make_session: Any) -> None:
    with pytest.raises(Exception, match="DeformConv2d node with output 'Y': attribute strides"):
        make_session(make_model(PLAIN, name="", attributes={"strides": [0, 0]}))
