"""Candidates against references with runners of known answers."""

from __future__ import annotations

import io
import json
import math

import ml_dtypes
import numpy as np
import pytest
from rich.console import Console

from dcn_deploy.errors import InvalidArgumentError
from dcn_deploy.runtime.runner import TensorSpec
from dcn_deploy.validation import Feed, inputs, validate

SPECS = (TensorSpec("x", np.dtype(np.float32), ("n", 4)),)


def feeds(count=3, seed=0):
    return inputs.generated(SPECS, count=count, seed=seed)


def double(feed):
    return {"y": feed["x"].astype(np.float64) * 2}


def text_of(report):
    stream = io.StringIO()
    Console(file=stream, width=200).print(report.to_table())
    return stream.getvalue()


def test_equal_answers_pass(fake):
    report = validate([fake(double, SPECS)], fake(double, SPECS, backend="reference"), feeds())
    assert report.passed
    (candidate,) = report.candidates
    (output,) = candidate.outputs
    assert output.feeds == 3
    assert output.worst.relative_rms == 0
    assert report.oracle == "the backend 'reference'"
    assert "PASSED" in text_of(report)


def test_the_worst_feed_is_reported(fake):
    def off(feed):
        # The error grows with the first element, the second feed is the worst by construction.
        return {"y": feed["x"].astype(np.float64) * 2 * (1 + feed["x"][0, 0] * 1e-2)}

    sets = [Feed(f"f{i}", {"x": np.full((1, 4), value)}) for i, value in enumerate([0.0, 3.0, 1.0])]
    report = validate([fake(off, SPECS)], fake(double, SPECS, backend="reference"), sets)
    assert not report.passed
    output = report.candidates[0].outputs[0]
    assert output.worst_feed == "f1"
    assert output.failed_feeds == ("f1", "f2")
    assert output.worst.relative_rms == pytest.approx(3e-2)
    assert "on 2 of 3 feeds, worst: f1" in text_of(report)


def test_a_failure_with_small_figures_outranks_a_pass_with_large_ones(fake):
    def answer(feed):
        y = feed["x"].astype(np.float64) * 2
        if feed["x"][0, 0] > 0:
            y[0, 1] = np.nan
        else:
            y *= 1.05
        return {"y": y}

    sets = [Feed("good", {"x": np.full((1, 4), -1.0)}), Feed("bad", {"x": np.full((1, 4), 1.0)})]
    report = validate([fake(answer, SPECS)], fake(double, SPECS, backend="reference"), sets, tolerance=0.1)
    assert report.candidates[0].outputs[0].failed_feeds == ("bad",)
    assert report.candidates[0].outputs[0].worst_feed == "bad"


def test_inputs_are_rounded_to_the_candidates_type_for_both(fake):
    half = (TensorSpec("x", np.dtype(np.float16), ("n", 4)),)
    candidate = fake(double, half)
    reference = fake(double, SPECS, backend="reference")
    values = np.array([[1.0 + 2**-12, 2.0, 3.0, 1.0 / 3.0]])
    report = validate([candidate], reference, [Feed("a", {"x": values})])
    assert report.passed
    assert candidate.calls[0]["x"].dtype == np.float16
    assert reference.calls[0]["x"].dtype == np.float32
    np.testing.assert_array_equal(reference.calls[0]["x"], values.astype(np.float16).astype(np.float32))


def test_a_network_of_open_types_gets_float32(fake):
    brain = (TensorSpec("x", np.dtype(ml_dtypes.bfloat16), ("n", 4)),)
    reference = fake(double, (TensorSpec("x", None, None),), backend="torch")
    validate([fake(double, brain)], reference, [Feed("a", {"x": np.ones((1, 4))})])
    assert reference.calls[0]["x"].dtype == np.float32


def test_the_reference_runs_once_for_candidates_of_one_type(fake):
    half = (TensorSpec("x", np.dtype(np.float16), ("n", 4)),)
    reference = fake(double, SPECS, backend="reference")
    runners = [fake(double, SPECS), fake(double, SPECS), fake(double, half)]
    report = validate(runners, reference, feeds(2), names=["one", "two", "half"])
    assert len(reference.calls) == 4  # twice a feed: float32 and float16
    assert [candidate.name for candidate in report.candidates] == ["one", "two", "half"]


def test_inputs_of_other_names_go_by_position(fake):
    reference = fake(lambda feed: {"y": feed["p"] - feed["q"]}, [TensorSpec(n, None, None) for n in "pq"], backend="r")
    specs = tuple(TensorSpec(name, np.dtype(np.float32), (2,)) for name in ("a", "b"))
    candidate = fake(lambda feed: {"y": feed["a"] - feed["b"]}, specs)
    assert validate([candidate], reference, [Feed("f", {"b": np.ones(2), "a": np.zeros(2)})]).passed


def test_outputs_match_by_name_then_by_number(fake):
    candidate = fake(lambda feed: {"a": feed["x"], "b": -feed["x"]}, SPECS)
    swapped = fake(lambda feed: {"b": -feed["x"], "a": feed["x"]}, SPECS, backend="reference")
    assert validate([candidate], swapped, feeds(1)).passed
    renamed = fake(lambda feed: {"p": feed["x"], "q": -feed["x"]}, SPECS, backend="reference")
    assert validate([candidate], renamed, feeds(1)).passed


def test_outputs_of_one_side_are_named(fake):
    candidate = fake(lambda feed: {"y": feed["x"], "extra": feed["x"]}, SPECS)
    reference = fake(lambda feed: {"y": feed["x"], "only_reference": feed["x"]}, SPECS, backend="reference")
    report = validate([candidate], reference, feeds(2))
    assert report.candidates[0].not_compared == ("extra", "only_reference")
    assert "not compared, since only one side has it: extra, only_reference" in text_of(report)


def test_outputs_that_cannot_be_matched(fake):
    candidate = fake(lambda feed: {"a": feed["x"], "b": feed["x"]}, SPECS)
    with pytest.raises(InvalidArgumentError, match="outputs of 'fake': expected the reference's y, got a, b"):
        validate([candidate], fake(double, SPECS), feeds(1))


def test_golden_outputs(fake):
    x = np.arange(4.0).reshape(1, 4)
    sets = [Feed("only", {"x": x})]
    report = validate([fake(double, SPECS)], {"y": x * 2}, sets)
    assert report.passed
    assert report.oracle == "golden outputs"
    assert not validate([fake(double, SPECS)], {"y": x * 2.01}, sets).passed
    carried = [Feed("a", {"x": x}, {"y": x * 2}), Feed("b", {"x": -x}, {"y": -x * 2})]
    assert validate([fake(double, SPECS)], None, carried).passed
    with pytest.raises(InvalidArgumentError, match="a single feed for golden outputs"):
        validate([fake(double, SPECS)], {"y": x * 2}, feeds(2))
    with pytest.raises(InvalidArgumentError, match="expected a reference, or golden outputs in the feed 'only'"):
        validate([fake(double, SPECS)], None, sets)


def test_a_rounded_reference_is_allowed_its_own_rounding(fake):
    def single(feed):
        return {"y": feed["x"] * np.float32(2)}

    exact = validate([fake(single, SPECS)], fake(double, SPECS, backend="reference"), feeds(1))
    rounded = validate([fake(single, SPECS)], fake(double, SPECS, backend="torch"), feeds(1))
    assert rounded.candidates[0].outputs[0].limit.relative_rms == pytest.approx(
        math.sqrt(2) * exact.candidates[0].outputs[0].limit.relative_rms
    )
    assert "reference's own rounding" in rounded.candidates[0].outputs[0].limit.origin


def test_the_precision_of_a_reference(fake, network):
    """What a reference may be off by: nothing in float64, its stored type for golden outputs, else its layers'."""
    model = network(0)
    specs = (TensorSpec("input", np.dtype(np.float32), ("n", 3, 9, 9)),)

    def answer(feed):
        return {"s": feed["input"]}

    def limit(reference, **options):
        sets = inputs.generated(specs)
        if reference is None:
            sets = [Feed("a", feed.arrays, {"s": feed.arrays["input"].astype(options.pop("dtype"))}) for feed in sets]
        report = validate([fake(answer, specs)], reference, sets, model=model, **options)
        return report.candidates[0].outputs[0].limit.relative_rms

    assert limit(None, dtype=np.float64) == 1e-6
    assert limit(None, dtype=np.float32) == pytest.approx(math.hypot(1e-6, 1e-6))
    assert limit(None, dtype=np.float16) == pytest.approx(math.hypot(1e-6, 1e-3))
    assert limit(None, dtype=np.float16, reference_is_exact=True) == 1e-6
    assert limit(fake(answer, specs, outputs=("s",), backend="reference")) == 1e-6
    assert limit(fake(answer, specs, outputs=("s",), backend="torch")) == pytest.approx(math.hypot(1e-6, 1e-6))
    assert limit(fake(answer, specs, outputs=("s",), backend="tensorrt")) == pytest.approx(math.hypot(1e-6, 1e-5))


def test_a_runtime_that_multiplies_in_tf32_may_be_that_far_off(fake, network):
    """One that does not is held to float32."""
    specs = (TensorSpec("input", np.dtype(np.float32), ("n", 3, 9, 9)),)

    def exact(feed):
        return {"s": feed["input"]}

    def off(feed):
        return {"s": feed["input"] * np.float32(1 + 2e-4)}

    def passed(candidate, reference, model):
        return validate([candidate], reference, inputs.generated(specs), model=model).passed

    for model in (network(0), None):
        for backend in ("tensorrt", "onnxruntime-cuda"):
            oracle = fake(exact, specs, outputs=("s",), backend="reference")
            assert passed(fake(off, specs, outputs=("s",), backend=backend, tf32=True), oracle, model)
            assert not passed(fake(off, specs, outputs=("s",), backend=backend), oracle, model)
        candidate = fake(off, specs, outputs=("s",), backend="onnxruntime")
        assert passed(candidate, fake(exact, specs, outputs=("s",), backend="onnxruntime-cuda", tf32=True), model)


def test_integers_and_their_share(fake):
    def labels(feed):
        return {"label": np.array([1, 2, 3, 4])}

    def other(feed):
        return {"label": np.array([1, 2, 3, 5])}

    reference = fake(labels, SPECS, backend="reference")
    report = validate([fake(other, SPECS)], reference, feeds(1))
    assert not report.passed
    assert report.candidates[0].outputs[0].reason == "1 of 4 elements differ, at most a fraction of 0 may"
    assert validate([fake(other, SPECS)], reference, feeds(1), differing=0.25).passed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tolerance": -1.0}, "tolerance: expected a number ≥ 0, got -1.0"),
        ({"tolerance": float("nan")}, "tolerance: expected a number ≥ 0, got nan"),
        ({"differing": 2.0}, "differing: expected a fraction from 0 to 1, got 2.0"),
        ({"names": ["a", "b"]}, "names of the candidates: expected 1, got 2"),
    ],
)
def test_bad_arguments(fake, arguments, message):
    with pytest.raises(InvalidArgumentError, match=message):
        validate([fake(double, SPECS)], fake(double, SPECS), feeds(1), **arguments)


def test_nothing_to_compare(fake):
    with pytest.raises(InvalidArgumentError, match="at least one candidate"):
        validate([], fake(double, SPECS), feeds(1))
    with pytest.raises(InvalidArgumentError, match="at least one feed"):
        validate([fake(double, SPECS)], fake(double, SPECS), [])


def test_progress_and_record(fake):
    steps, kept = [], []
    validate(
        [fake(double, SPECS), fake(double, SPECS)],
        fake(double, SPECS),
        feeds(2),
        progress=lambda *step: steps.append(step),
        record=lambda feed, fed, answer: kept.append((feed.name, fed["x"].shape, answer["y"].shape)),
    )
    assert [step[:2] for step in steps] == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
    assert kept == [("sample 0 of seed 0", (1, 4), (1, 4)), ("sample 1 of seed 0", (1, 4), (1, 4))]


def test_json_schema(fake):
    def nan(feed):
        return {"y": feed["x"] * np.nan}

    report = validate([fake(nan, SPECS)], fake(double, SPECS, backend="reference"), feeds(2))
    content = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert set(content) == {"version", "passed", "model", "oracle", "feeds", "candidates", "layers", "notes"}
    assert content["passed"] is False
    assert content["feeds"] == {"description": "2 generated samples, seed 0 (x 1×4)", "count": 2}
    (candidate,) = content["candidates"]
    assert set(candidate) == {"name", "backend", "passed", "outputs", "not_compared"}
    (output,) = candidate["outputs"]
    assert set(output) == {"output", "passed", "reason", "limit", "feeds", "failed_feeds", "worst_feed", "worst"}
    assert set(output["limit"]) == {"relative_rms", "absolute", "differing", "origin"}
    assert output["worst"]["nonfinite_mismatches"] == 4
    assert output["worst"]["relative_rms"] is None
