"""Statistics against distributions that are known."""

from __future__ import annotations

import math
import random
import statistics

import numpy as np
import pytest

from dcn_deploy.errors import InvalidArgumentError
from dcn_deploy.profiling import summarize
from dcn_deploy.profiling.statistics import median_interval, quantile


def test_one_to_a_hundred_in_any_order() -> None:
    samples = list(range(1, 101))
    random.Random(0).shuffle(samples)
    summary = summarize(samples)
    assert (summary.count, summary.minimum, summary.maximum) == (100, 1, 100)
    assert (summary.median, summary.mean) == (50.5, 50.5)
    assert summary.p90 == pytest.approx(90.1)
    assert summary.p99 == pytest.approx(99.01)
    assert summary.std == pytest.approx(math.sqrt(100 * 101 / 12))
    # Ranks 40 and 61 are the tabulated ones for n = 100 at 95 % (Conover, table of the sign test).
    assert (summary.median_low, summary.median_high) == (40, 61)
    assert summary.confidence == pytest.approx(0.9648, abs=1e-4)


def test_one_sample() -> None:
    summary = summarize([3.0])
    assert {summary.median, summary.p90, summary.p99, summary.minimum, summary.maximum, summary.mean} == {3.0}
    assert (summary.std, summary.median_low, summary.median_high, summary.confidence) == (0, 3, 3, 0)


def test_no_sample() -> None:
    with pytest.raises(InvalidArgumentError, match="samples: expected at least one, got none"):
        summarize([])


@pytest.mark.parametrize("count", [1, 2, 3, 7, 10, 33])
@pytest.mark.parametrize("q", [0, 0.1, 0.5, 0.9, 0.99, 1])
def test_quantile_is_numpys(count: int, q: float, rng: np.random.Generator) -> None:
    ordered = sorted(rng.standard_normal(count).tolist())
    assert quantile(ordered, q) == pytest.approx(np.quantile(ordered, q), rel=1e-12)


@pytest.mark.parametrize(
    ("count", "low", "confidence"),
    # 1 − 2·P(B < k) for the largest k that reaches 95 %, by hand from Pascal's triangle.
    [(6, 1, 1 - 2 / 64), (8, 1, 1 - 2 / 256), (9, 2, 1 - 20 / 512), (12, 3, 1 - 2 * (1 + 12 + 66) / 4096)],
)
def test_ranks_of_the_interval(count: int, low: int, confidence: float) -> None:
    ordered = list(range(1, count + 1))
    assert median_interval(ordered, 0.95) == (low, count + 1 - low, pytest.approx(confidence))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_too_few_samples_say_what_they_reach(count: int) -> None:
    ordered = list(range(count))
    assert median_interval(ordered, 0.95) == (0, count - 1, pytest.approx(1 - 2 / 2**count))


def test_the_interval_covers_the_median_as_often_as_it_says(seed: int) -> None:
    # Skewed, so that a method which assumes a normal distribution would fail.
    source = random.Random(seed)
    median, trials, hits = math.log(2), 2000, 0
    for _ in range(trials):
        summary = summarize([source.expovariate(1) for _ in range(21)])
        hits += summary.median_low <= median <= summary.median_high
    # Five standard deviations of the binomial.
    slack = 5 * math.sqrt(summary.confidence * (1 - summary.confidence) / trials)
    assert hits / trials == pytest.approx(summary.confidence, abs=slack)


def test_a_thousand_samples_are_no_trouble(rng: np.random.Generator) -> None:
    samples = rng.normal(10, 1, 1000).tolist()
    summary = summarize(samples)
    assert summary.median == statistics.median(samples)
    assert summary.median_low < summary.median < summary.median_high
    assert 0.95 <= summary.confidence < 0.96
