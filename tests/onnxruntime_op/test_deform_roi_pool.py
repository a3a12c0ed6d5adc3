"""DeformRoIPool2d in ONNX Runtime: right for every case, element type and set of inputs, in any host."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import cases
import ml_dtypes
import numpy as np
import peers
import pytest
from cases import RoiCase, RoiInputs

from dcn_deploy.ops import reference
from dcn_deploy.validation.tolerances import lookup

CASE = cases.by_name("roi_classes_3_group_2")  # nothing has its default
ALIGNED = cases.by_name("roi_sampling_ratio_0_scale")
FEATURES = (np.float32, np.float16, ml_dtypes.bfloat16)
NAMES = ("X", "rois", "offset", "mask")
UNKNOWN_RANKS = dict.fromkeys(NAMES)


def _expected(case: RoiCase, inputs: RoiInputs) -> Any:
    return reference.deform_roi_pool(*peers.as_float64(inputs).in_order(), **case.reference_arguments)


def _assert_right(case: RoiCase, inputs: RoiInputs, actual: Any) -> None:
    peers.assert_within(actual, _expected(case, inputs), peers.roi_error_bound(case, inputs))


def _name(dtype: Any) -> str:
    return np.dtype(dtype).name


@pytest.mark.parametrize("static", [True, False], ids=["static", "dynamic"])
@pytest.mark.parametrize("case", cases.ALL_ROI_CASES, ids=cases.name_of)
def test_every_case(case: RoiCase, static: bool, rng: Any, make_session: Any) -> None:
    inputs = cases.make_roi_inputs(case, rng, np.float32)
    session = make_session(peers.roi_model(case, static=static), threads=2)
    (y,) = session.run(None, inputs.named())
    _assert_right(case, inputs, y)
    if y.size and np.isfinite(y).all():
        limit = lookup("DeformRoIPool2d", "float32", "onnxruntime").at((case.h, case.w))
        assert peers.relative_rms(y, _expected(case, inputs)) <= limit


@pytest.mark.parametrize("variant", ["aligned", "psroi"])
def test_random_cases(variant: str, rng: Any, make_session: Any) -> None:
    several = [cases.random_roi_case(rng, variant=variant) for _ in range(100)]
    for first in range(0, len(several), 20):
        batch = several[first : first + 20]
        inputs = [cases.make_roi_inputs(case, rng, np.float32) for case in batch]
        answers = make_session(peers.roi_model(batch)).run(None, peers.feed(inputs))
        for case, given, actual in zip(batch, inputs, answers, strict=True):
            _assert_right(case, given, actual)


# Many RoIs, on which the kernel works in its other way: from a copy of the map with channels innermost.

MANY = (
    RoiCase("many", n=3, c=67, h=9, w=11, r=301, pooled_h=3, pooled_w=5, mask=False),
    RoiCase("many_plain", n=2, c=64, h=9, w=11, r=301, pooled_h=7, pooled_w=7, offset=False, mask=False),
    RoiCase("many_by_size", n=2, c=33, h=9, w=11, r=150, pooled_h=2, pooled_w=2, sampling_ratio=0),
    RoiCase("many_psroi", n=2, c=33 * 9, h=9, w=11, r=150, variant="psroi", group_size=3, classes=3),
)


@pytest.mark.parametrize("features", FEATURES, ids=_name)
@pytest.mark.parametrize("case", MANY, ids=cases.name_of)
def test_many_rois(case: RoiCase, features: Any, rng: Any, make_roi_model: Any, make_session: Any) -> None:
    dtypes = {"X": features}
    session = make_session(_with_casts(make_roi_model(case, dtypes=dtypes), dtypes), threads=2)
    inputs = cases.make_roi_inputs(case, rng, np.float32)
    rounded = replace(inputs, X=inputs.X.astype(features).astype(np.float32))
    (y,) = session.run(None, rounded.named())
    limit = lookup("DeformRoIPool2d", _name(features), "onnxruntime").at((case.h, case.w))
    assert peers.relative_rms(y, _expected(case, rounded)) <= limit


def test_hundreds_of_thousands_of_rois(rng: Any, make_session: Any) -> None:
    """Each RoI's answer is that of the same RoI among few."""
    few = RoiCase("few", n=2, c=3, h=7, w=9, r=1000, pooled_h=2, pooled_w=1)
    inputs = cases.make_roi_inputs(few, rng, np.float32)
    session = make_session(peers.roi_model(few, static=False), threads=2)
    (expected,) = session.run(None, inputs.named())
    repeats = 300
    named = {name: np.tile(array, (repeats, *[1] * (array.ndim - 1))) for name, array in inputs.named().items()}
    (y,) = session.run(None, {**named, "X": inputs.X})
    assert y.shape == (300_000, 3, 2, 1)
    np.testing.assert_array_equal(
        y.reshape(repeats, *expected.shape), np.broadcast_to(expected, (repeats, *expected.shape))
    )


# Optional inputs.


@pytest.mark.parametrize("static", [True, False], ids=["static", "unknown-ranks"])
@pytest.mark.parametrize("case", [CASE, ALIGNED], ids=cases.name_of)
@pytest.mark.parametrize(
    "names",
    [
        ["X", "rois"],
        ["X", "rois", ""],
        ["X", "rois", "", ""],
        ["X", "rois", "offset"],
        ["X", "rois", "offset", ""],
        ["X", "rois", "", "mask"],
        ["X", "rois", "offset", "mask"],
    ],
    ids=lambda names: ",".join(name or "-" for name in names),
)
def test_each_combination_of_optional_inputs(
    names: list[str], case: RoiCase, static: bool, rng: Any, make_roi_model: Any, make_session: Any
) -> None:
    offset, mask = "offset" in names, "mask" in names
    case = replace(case, offset=offset, mask=mask, classes=case.classes if offset or mask else 1)
    inputs = cases.make_roi_inputs(case, rng, np.float32)
    session = make_session(make_roi_model(case, inputs=names, shapes={} if static else UNKNOWN_RANKS))
    (y,) = session.run(None, inputs.named())
    _assert_right(case, inputs, y)


@pytest.mark.parametrize("missing", ["X", "rois"])
def test_the_other_inputs_are_required(missing: str, make_roi_model: Any, make_session: Any) -> None:
    names = ["" if name == missing else name for name in NAMES]
    with pytest.raises(Exception, match=r"backbone\.dcn"):
        make_session(make_roi_model(CASE, inputs=names))


@pytest.mark.parametrize("case", [CASE, ALIGNED], ids=cases.name_of)
def test_the_number_of_rois_may_change_between_runs(
    case: RoiCase, rng: Any, make_roi_model: Any, make_session: Any
) -> None:
    session = make_session(make_roi_model(case, shapes=UNKNOWN_RANKS))
    for r in (4, 0, 19, 0, 1):
        sized = replace(case, r=r)
        inputs = cases.make_roi_inputs(sized, rng, np.float32)
        _assert_right(sized, inputs, session.run(None, inputs.named())[0])


def test_constant_rois_give_the_bits_of_fed_ones(rng: Any, make_roi_model: Any, make_session: Any) -> None:
    feed = cases.make_roi_inputs(CASE, rng, np.float32).named()
    (fed,) = make_session(make_roi_model(CASE)).run(None, feed)
    for constant in (["rois"], ["offset", "mask"], list(NAMES[1:])):
        rest = {name: array for name, array in feed.items() if name not in constant}
        session = make_session(make_roi_model(CASE, constants={name: feed[name] for name in constant}))
        np.testing.assert_array_equal(session.run(None, rest)[0], fed, err_msg=str(constant))


# Element types.


def _with_casts(model: Any, dtypes: dict[str, Any]) -> Any:
    """The model with float32 at its borders, since NumPy has no bfloat16 to feed: a Cast at each input, one after Y."""
    from onnx import TensorProto, helper

    (node,) = model.graph.node
    casts = []
    for value in model.graph.input:
        to = peers.element_type(dtypes.get(value.name, np.float32))
        casts.append(helper.make_node("Cast", [value.name], [f"{value.name}_cast"], to=to))
        value.type.tensor_type.elem_type = TensorProto.FLOAT
        node.input[list(node.input).index(value.name)] = f"{value.name}_cast"
    node.output[0] = "Y_before_cast"
    last = helper.make_node("Cast", ["Y_before_cast"], ["Y"], to=TensorProto.FLOAT)
    del model.graph.node[:]
    model.graph.node.extend([*casts, node, last])
    return model


def _combinations() -> list[Any]:
    return [
        pytest.param(
            {"X": x, "rois": rois, "offset": offset, "mask": mask}, id="-".join(map(_name, (x, rois, offset, mask)))
        )
        for x in FEATURES
        for rois, offset, mask in itertools.product(dict.fromkeys((np.float32, x)), repeat=3)
    ]


@pytest.mark.parametrize("case", [CASE, ALIGNED], ids=cases.name_of)
@pytest.mark.parametrize("dtypes", _combinations())
def test_combination_of_types_is_right(
    dtypes: dict[str, Any], case: RoiCase, rng: Any, make_roi_model: Any, make_session: Any
) -> None:
    session = make_session(_with_casts(make_roi_model(case, dtypes=dtypes), dtypes))
    drawn = cases.make_roi_inputs(case, rng, dtypes["X"], dtypes)
    # float32 that is exact in the types that the Casts round to.
    rounded = RoiInputs(*(None if array is None else array.astype(np.float32) for array in drawn.in_order()))
    (y,) = session.run(None, rounded.named())
    limit = lookup("DeformRoIPool2d", _name(dtypes["X"]), "onnxruntime").at((case.h, case.w))
    assert peers.relative_rms(y, _expected(case, rounded)) <= limit


@pytest.mark.parametrize("name", ["rois", "offset"])
@pytest.mark.parametrize("features", FEATURES[1:], ids=_name)
def test_float32_positions_are_used_in_float32(
    features: Any, name: str, rng: Any, make_roi_model: Any, make_session: Any
) -> None:
    """The recommended mixed mode: coordinates that half precision would round are not rounded."""
    dtypes = {"X": features}
    session = make_session(_with_casts(make_roi_model(ALIGNED, dtypes=dtypes), dtypes))
    feed = cases.make_roi_inputs(ALIGNED, rng, np.float32).named()
    (fine,) = session.run(None, feed)
    (coarse,) = session.run(None, {**feed, name: feed[name].astype(features).astype(np.float32)})
    assert not np.array_equal(fine, coarse)


# Its host.


@pytest.mark.parametrize("threads", [1, 3])
def test_several_nodes_in_one_session(threads: int, rng: Any, make_session: Any) -> None:
    several = cases.ROI_CASES[::5]
    inputs = [cases.make_roi_inputs(case, rng, np.float32) for case in several]
    answers = make_session(peers.roi_model(several), threads=threads).run(None, peers.feed(inputs))
    for case, given, actual in zip(several, inputs, answers, strict=True):
        _assert_right(case, given, actual)


@pytest.mark.parametrize("case", [CASE, ALIGNED, *MANY], ids=cases.name_of)
def test_number_of_threads_changes_no_bit(case: RoiCase, rng: Any, make_roi_model: Any, make_session: Any) -> None:
    feed = cases.make_roi_inputs(case, rng, np.float32).named()
    (one,) = make_session(make_roi_model(case), threads=1).run(None, feed)
    for threads in (2, 3):
        np.testing.assert_array_equal(make_session(make_roi_model(case), threads=threads).run(None, feed)[0], one)


def test_one_session_in_eight_threads(rng: Any, make_roi_model: Any, make_session: Any) -> None:
    """Runs that differ in size, so that one is in its copy of the map while another has none."""
    case = replace(MANY[0], name="several")
    several = [cases.make_roi_inputs(replace(case, r=r), rng, np.float32) for r in (1, 301, 7, 150)]
    session = make_session(make_roi_model(case, shapes=UNKNOWN_RANKS), threads=2)
    alone = [session.run(None, inputs.named())[0] for inputs in several]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda i: session.run(None, several[i % 4].named())[0], range(64)))
    for number, answer in enumerate(answers):
        np.testing.assert_array_equal(answer, alone[number % 4])


@pytest.mark.parametrize("target", ["portable", "avx2"])
def test_each_instruction_set(target: str, library: Any, rng: Any, make_roi_model: Any, tmp_path: Any) -> None:
    """Chosen by the environment when the library is first used, so in a process of its own."""
    import os
    import subprocess
    import sys

    case = MANY[0]
    inputs = cases.make_roi_inputs(case, rng, np.float32)
    (tmp_path / "model.onnx").write_bytes(make_roi_model(case).SerializeToString())
    np.savez(tmp_path / "feed.npz", **inputs.named())
    script = (
        "import sys, numpy, onnxruntime\n"
        "options = onnxruntime.SessionOptions()\n"
        "options.register_custom_ops_library(sys.argv[1])\n"
        "session = onnxruntime.InferenceSession('model.onnx', options)\n"
        "numpy.save('y.npy', session.run(None, dict(numpy.load('feed.npz')))[0])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(library)],
        cwd=tmp_path,
        env={**os.environ, "DCN_DEPLOY_CPU_TARGET": target},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    _assert_right(case, inputs, np.load(tmp_path / "y.npy"))
