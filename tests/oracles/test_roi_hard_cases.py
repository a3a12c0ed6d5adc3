"""What breaks kernels of RoI pooling that pass every ordinary test: enormous RoIs, many RoIs, threads, old memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cases
import numpy as np
import peers
import pytest
import roi_engines
from cases import Array, RoiCase, RoiInputs
from roi_engines import RoiEngine

_ENGINES = ["float64 reference", "torch float64", "torch float32", "onnxruntime"]


@pytest.fixture(params=_ENGINES)
def engine(request: pytest.FixtureRequest) -> RoiEngine:
    if request.param == "onnxruntime":
        return roi_engines.onnxruntime_operator(request.getfixturevalue("make_session"))
    if request.param == "float64 reference":
        return roi_engines.reference()
    return roi_engines.torch_operator(str(request.param).removeprefix("torch "))


def _boxes(*rows: tuple[float, ...]) -> Array:
    """[R, 5] from (batch index, x1, y1, x2, y2)."""
    return np.array(rows)


# RoIs of any size.


@pytest.mark.parametrize(("h", "w"), [(1, 1), (4, 7)])
def test_a_roi_of_a_billion_pixels(h: int, w: int, engine: RoiEngine, rng: Any, agreed: Any) -> None:
    """One bin of 10⁹ × 10⁹ samples a pixel apart, on whole pixels: -1, 0, 1, ... size are on the map.

    The first and the last of them are moved to the edge, so the sum counts the pixels of the edges twice (that of a
    one-pixel map three times); the divisor is all of the grid, 10¹⁸.
    """
    case = RoiCase(
        "roi_billion", c=3, h=h, w=w, r=1, pooled_h=1, pooled_w=1, sampling_ratio=0, offset=False, mask=False
    )
    X = rng.normal(0.0, 1.0, case.x_shape).astype(engine.dtype)
    rois = _boxes((0, -5e8, -5e8, 5e8, 5e8)).astype(engine.dtype)
    counts = [np.bincount(np.clip(np.arange(-1, size + 1), 0, size - 1)) for size in (h, w)]
    expected = np.einsum("nchw,h,w->nc", X.astype(np.float64), *counts)[:, :, None, None] / 1e18
    actual = engine.run(case, RoiInputs(X, rois, None, None))
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    agreed("DeformRoIPool2d", engine.name, "closed form of a RoI of a billion pixels")


@pytest.mark.parametrize("variant", ["aligned", "psroi"])
@pytest.mark.parametrize("far", [1e10, 1e20, 1e30, 3.4e38])
def test_the_largest_coordinates(far: float, variant: str, engine: RoiEngine) -> None:
    """Around the map, beside it, and inverted: an answer without delay, finite, and 0 but for a sample by chance."""
    case = RoiCase("roi_far", c=3, r=4, h=5, w=6, variant=variant, sampling_ratio=0, offset=False, mask=False)
    rois = _boxes((0, -far, -far, far, far), (0, far / 2, 0, far, 4), (0, 0, 0, far, far), (0, far, far, -far, -far))
    y = engine.run(case, RoiInputs(np.ones(case.x_shape, engine.dtype), rois.astype(engine.dtype), None, None))
    assert np.isfinite(y).all()
    assert ((y >= 0) & (y <= 1)).all()
    assert not y[1].any()


def test_a_grid_of_a_billion_samples_beside_the_map_is_empty(engine: RoiEngine, rng: Any) -> None:
    """What lies outside is not visited: RoIs that begin a billion pixels away, and offsets that push one there."""
    case = RoiCase("roi_beside", c=3, r=3, h=5, w=6, sampling_ratio=0, mask=False)
    rois = _boxes((0, 1e9, 0, 2e9, 4), (0, -2e9, -2e9, -1e9, -1e9), (0, 0, 0, 6, 5)).astype(engine.dtype)
    offset = rng.choice([-1e9, 1e9], case.offset_shape).astype(engine.dtype)
    y = engine.run(case, RoiInputs(np.ones(case.x_shape, engine.dtype), rois, offset, None))
    assert not y.any()


@pytest.mark.parametrize("engine", _ENGINES[1:], indirect=True)  # the reference would take minutes
def test_two_hundred_thousand_rois(engine: RoiEngine, rng: Any) -> None:
    """Forty RoIs, each five thousand times, in any order: each the result that it has among the forty."""
    few = RoiCase("roi_forty", n=3, c=3, h=7, w=9, r=40, pooled_h=2, pooled_w=2, sampling_ratio=0)
    many = replace(few, name="roi_many", r=200_000)
    inputs = cases.make_roi_inputs(few, rng, np.dtype(engine.dtype))
    expected = roi_engines.reference().run(few, inputs)
    order = rng.permutation(np.repeat(np.arange(few.r), many.r // few.r))
    rois, offset, mask = (None if a is None else a[order] for a in inputs.in_order()[1:])
    assert rois is not None
    y = engine.run(many, RoiInputs(inputs.X, rois, offset, mask))
    assert y.shape == many.output_shape
    bound = engine.bound(few, inputs)
    worst = np.zeros(few.output_shape)
    np.maximum.at(worst, order, np.abs(y.astype(np.float64) - expected[order]))
    peers.assert_within(worst, np.zeros_like(worst), bound)


@pytest.mark.parametrize("variant", ["aligned", "psroi"])
def test_channels_a_multiple_of_nothing(variant: str, engine: RoiEngine, rng: Any) -> None:
    case = RoiCase("roi_131", n=2, c=131, h=19, w=23, r=20, pooled_h=7, pooled_w=7, variant=variant, boxes="partly")
    inputs = cases.make_roi_inputs(case, rng, np.dtype(engine.dtype))
    peers.assert_within(engine.run(case, inputs), roi_engines.reference().run(case, inputs), engine.bound(case, inputs))


# The batch index.


@pytest.mark.parametrize("index", [-1.0, -0.5, 2.0, 1e9, 3e38, np.nan, np.inf, -np.inf])
def test_a_batch_index_out_of_range_is_an_error_that_names_it(index: float, engine: RoiEngine, rng: Any) -> None:
    """Compared as a number, before it is truncated: -0.5 is not image 0."""
    case = RoiCase("roi_index", n=2, c=3, r=5)
    inputs = cases.make_roi_inputs(case, rng, np.dtype(engine.dtype))
    inputs.rois[3, 0] = index
    # The RoI's number, the range and, where it has a short form, the value.
    value = {-1.0: "-1", -0.5: "-0.5", 2.0: "2", 1e9: "1(e\\+0?9|000000000)"}.get(index, "")
    with pytest.raises(
        Exception, match=rf"(rois\[3, 0\]|RoI 3\b).*expected a (batch index|number) in \[0, 2\).*got {value}"
    ):
        engine.run(case, inputs)


def test_a_batch_index_is_truncated(engine: RoiEngine, rng: Any) -> None:
    case = RoiCase("roi_index", n=2, c=3, r=4)
    inputs = cases.make_roi_inputs(case, rng, np.dtype(engine.dtype))
    inputs.rois[:, 0] = (0, 0, 1, 1)
    expected = engine.run(case, inputs)
    inputs.rois[:, 0] = (-0.0, 0.99, 1.0, 1.75)
    np.testing.assert_array_equal(engine.run(case, inputs), expected)


# Threads and memory, in ONNX Runtime.


def _large(rng: Any, **fields: Any) -> tuple[RoiCase, RoiInputs]:
    """Work enough to be split among threads, over RoIs and channels."""
    case = RoiCase("roi_split", n=2, c=67, h=33, w=35, pooled_h=7, pooled_w=7, **fields)
    return case, cases.make_roi_inputs(case, rng)


@pytest.mark.parametrize("r", [1, 3, 64])
@pytest.mark.parametrize("fields", [{"sampling_ratio": 0}, {"variant": "psroi"}], ids=["aligned", "psroi"])
def test_number_of_threads_does_not_change_a_bit(r: int, fields: dict[str, Any], rng: Any, make_session: Any) -> None:
    case, inputs = _large(rng, r=r, **fields)
    model = peers.roi_model(case)
    one, two, three = (make_session(model, threads).run(None, peers.feed(inputs))[0] for threads in (1, 2, 3))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one, three)
    expected = roi_engines.torch_operator("float64").run(case, peers.as_float64(inputs))
    assert peers.relative_rms(one, expected) <= 1e-6


@pytest.mark.parametrize("case", cases.ROI_CASES + cases.NONFINITE_ROI_CASES, ids=cases.name_of)
def test_every_output_element_is_written(case: RoiCase, rng: Any, make_session: Any) -> None:
    """The result does not depend on what the output's memory held before."""
    import onnxruntime

    inputs = cases.make_roi_inputs(case, rng)
    session = make_session(peers.roi_model(case), 2)
    answers = []
    for poison in (np.nan, np.inf, -3e38):
        output = onnxruntime.OrtValue.ortvalue_from_numpy(np.full(case.output_shape, poison, np.float32))
        binding = session.io_binding()
        for name, array in peers.feed(inputs).items():
            binding.bind_cpu_input(name, array)
        binding.bind_ortvalue_output("Y", output)
        session.run_with_iobinding(binding)
        answers.append(output.numpy().copy())
        assert np.isfinite(answers[-1]).all()
    np.testing.assert_array_equal(answers[0], answers[1])
    np.testing.assert_array_equal(answers[0], answers[2])
