"""Thousands of random convolutions: our custom operator against ONNX Runtime's own DeformConv.

Three answers are compared on each case: our operator (float32), ONNX Runtime's operator in float32, and
ONNX Runtime's operator in float64, which serves as the truth (``test_reference.py`` shows that it equals the
plain float64 reference to float64 rounding; a part of the cases here is checked against that as well).

Two bounds hold for each case. Element by element the error is below ``peers.error_bound``, what rounding can
do at worst. In norm it is below ``_RMS`` relative to the result, or, where the result is itself small against
what was summed, below an eighth of that bound: roundings of random sign stay far below the worst case.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cases
import numpy as np
import peers
import pytest
from cases import Array, Case, Inputs

_CASES_PER_MODEL = 25
_CHECKED_BY_PLAIN_REFERENCE = 1 / 50
_RMS = {"ours and float64": 1e-6, "ONNX Runtime and float64": 1e-6, "ours and ONNX Runtime": 2e-6}
#: Each pair's bound in units of ``peers.error_bound``: two float32 results may both be off.
_BOUNDS = {"ours and float64": 1.0, "ONNX Runtime and float64": 1.0, "ours and ONNX Runtime": 2.0}
_SHARE_OF_BOUND = 1 / 8


@dataclass
class Worst:
    """Worst figures of one pair of implementations over all cases so far."""

    relative_rms: float = 0.0
    relative_rms_case: str = ""
    share_of_bound: float = 0.0
    share_of_bound_case: str = ""
    above_relative_rms: int = 0
    squared_error: float = 0.0
    squared_size: float = 0.0

    @property
    def pooled(self) -> float:
        """Relative RMS over the elements of all cases together."""
        return (self.squared_error / self.squared_size) ** 0.5 if self.squared_size else 0.0

    def summary(self) -> dict[str, Any]:
        return {
            "relative_rms": {
                "all_cases_together": self.pooled,
                "worst_case": self.relative_rms,
                "case": self.relative_rms_case,
                "cases_above_bound_that_are_small_against_what_was_summed": self.above_relative_rms,
            },
            "share_of_elementwise_bound": {"worst": self.share_of_bound, "case": self.share_of_bound_case},
        }


@dataclass
class Comparison:
    """Collects figures and failures."""

    cases: int = 0
    elements: int = 0
    worst: dict[str, Worst] = field(default_factory=lambda: {pair: Worst() for pair in _RMS})
    failures: list[str] = field(default_factory=list)

    def add(self, case: Case, inputs: Inputs, ours: Array, theirs: Array, exact: Array) -> None:
        self.cases += 1
        self.elements += exact.size
        bound = peers.error_bound(case, inputs, "float32")
        for pair, actual, expected in (
            ("ours and float64", ours, exact),
            ("ONNX Runtime and float64", theirs, exact),
            ("ours and ONNX Runtime", ours, theirs),
        ):
            self._compare(pair, case, actual, expected, _BOUNDS[pair] * bound)

    def _compare(self, pair: str, case: Case, actual: Array, expected: Array, bound: Array) -> None:
        if actual.shape != case.output_shape:
            self.failures.append(f"{pair}: shape {actual.shape} instead of {case.output_shape}: {case}")
            return
        worst = self.worst[pair]
        error = np.abs(actual.astype(np.float64) - expected)
        if not (error <= bound).all():  # a NaN lands here too
            excess = float((error - bound).max())
            self.failures.append(f"{pair}: beyond the elementwise bound by {excess:.2e}: {case}")
        share = float((error[bound > 0] / bound[bound > 0]).max(initial=0.0))
        if share > worst.share_of_bound:
            worst.share_of_bound, worst.share_of_bound_case = share, str(case)
        norm, size = float(np.linalg.norm(error)), float(np.linalg.norm(expected.astype(np.float64)))
        relative = norm / size if size else 0.0
        if relative > worst.relative_rms:
            worst.relative_rms, worst.relative_rms_case = relative, str(case)
        if norm > _RMS[pair] * size:
            worst.above_relative_rms += 1
            if norm > _SHARE_OF_BOUND * float(np.linalg.norm(bound)):
                self.failures.append(f"{pair}: relative RMS {relative:.2e} is not rounding: {case}")
        worst.squared_error += norm**2
        worst.squared_size += size**2


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("dcn-deploy", "onnxruntime", "numpy")}


def test_random_cases_agree_with_onnxruntime(
    request: pytest.FixtureRequest, seed: int, make_session: Any, make_plain_session: Any, agreed: Any
) -> None:
    from dcn_deploy.ops import reference

    wanted = int(request.config.getoption("--random-cases"))
    summary_path: Path | None = request.config.getoption("--random-cases-json")
    rng = np.random.default_rng(seed)
    comparison = Comparison()
    plain_checks = 0
    start = time.monotonic()
    while comparison.cases < wanted:
        count = min(_CASES_PER_MODEL, wanted - comparison.cases)
        batch = [cases.random_case(rng, name=f"random_{comparison.cases + i}") for i in range(count)]
        inputs = [cases.make_inputs(case, rng, np.float32) for case in batch]
        wide = [peers.as_float64(each) for each in inputs]
        ours = make_session(peers.model(batch, form="plugin")).run(None, peers.feed(inputs))
        theirs = make_plain_session(peers.model(batch)).run(None, peers.feed(inputs))
        exact = make_plain_session(peers.model(batch, dtype=np.float64)).run(None, peers.feed(wide))
        for i, case in enumerate(batch):
            comparison.add(case, inputs[i], ours[i], theirs[i], exact[i])
            if rng.random() < _CHECKED_BY_PLAIN_REFERENCE:
                plain_checks += 1
                plain = reference.deform_conv2d(*wide[i].in_order(), **case.reference_arguments)
                peers.assert_within(exact[i], plain, 2 * peers.error_bound(case, wide[i], "float64"))
    summary = {
        "cases": comparison.cases,
        "output_elements": comparison.elements,
        "cases_checked_against_the_plain_reference_too": plain_checks,
        "seed": seed,
        "failures": len(comparison.failures),
        "seconds": round(time.monotonic() - start, 1),
        "pairs": {pair: worst.summary() for pair, worst in comparison.worst.items()},
        "versions": _versions(),
    }
    print(json.dumps(summary, indent=2))
    if summary_path is not None:
        summary_path.parent.mkdir(parents=True, exist_ok=True)
        summary_path.write_text(json.dumps(summary, indent=2) + "\n")
    assert not comparison.failures, "\n".join(comparison.failures[:10])
    assert comparison.cases == wanted
    assert plain_checks > 0 or wanted < 500
    # Pooled over all cases nothing is small against what was summed, so that the plain bound must hold.
    for pair, worst in comparison.worst.items():
        assert worst.pooled <= _RMS[pair] / 2, pair
    agreed("DeformConv2d", "ONNX Runtime custom op", "ONNX Runtime's DeformConv", comparison.cases)
    agreed("DeformConv2d", "ONNX Runtime custom op", "ONNX Runtime's DeformConv, float64", comparison.cases)
    agreed("DeformConv2d", "float64 reference", "ONNX Runtime's DeformConv, float64", plain_checks)
