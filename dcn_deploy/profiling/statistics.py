"""What a list of durations says. Needs nothing but the standard library."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from dcn_deploy.errors import InvalidArgumentError, describe


@dataclass(frozen=True)
class Summary:
    """Statistics of one list of samples, in the samples' own unit.

    Attributes:
        count: number of samples.
        median: middle of the sorted samples.
        p90: what 90 % of the samples do not exceed, interpolated linearly between ranks.
        p99: the same for 99 %.
        minimum: smallest sample.
        maximum: largest sample.
        mean: arithmetic mean.
        std: standard deviation with n − 1; 0 for one sample.
        median_low: lower end of a confidence interval of the median.
        median_high: upper end of it.
        confidence: probability with which such an interval contains the true median.
    """

    count: int
    median: float
    p90: float
    p99: float
    minimum: float
    maximum: float
    mean: float
    std: float
    median_low: float
    median_high: float
    confidence: float


def summarize(samples: Sequence[float], *, confidence: float = 0.95) -> Summary:
    """Return the statistics of ``samples``.

    Args:
        samples: at least one.
        confidence: wanted probability for the interval of the median; see :func:`median_interval`.

    Raises:
        InvalidArgumentError: if there is no sample.
    """
    if not samples:
        raise InvalidArgumentError(describe("samples", expected="at least one", actual="none"))
    ordered = sorted(samples)
    low, high, reached = median_interval(ordered, confidence)
    return Summary(
        count=len(ordered),
        median=statistics.median(ordered),
        p90=quantile(ordered, 0.90),
        p99=quantile(ordered, 0.99),
        minimum=ordered[0],
        maximum=ordered[-1],
        mean=statistics.fmean(ordered),
        std=statistics.stdev(ordered) if len(ordered) > 1 else 0.0,
        median_low=low,
        median_high=high,
        confidence=reached,
    )


def quantile(ordered: Sequence[float], q: float) -> float:
    """Return the quantile ``q`` of sorted samples, linear between the ranks (NumPy's default)."""
    position = q * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def median_interval(ordered: Sequence[float], confidence: float) -> tuple[float, float, float]:
    """Return a confidence interval of the median that assumes nothing about the distribution.

    The number of samples below the true median is binomial (n, 1/2), so the k-th smallest and the k-th largest
    sample enclose it with probability 1 − 2·P(B < k) (order statistics; Conover, Practical Nonparametric
    Statistics, 3.2). The largest k that reaches ``confidence`` is taken.

    Returns:
        Low end, high end, and the probability that they reach: below ``confidence`` for fewer than six samples,
        where even smallest and largest do not suffice for 95 %.
    """
    n = len(ordered)
    total = 2**n
    k, below = 1, 1  # below = 2^n · P(B < k)
    while True:
        more = below + math.comb(n, k)
        if k + 1 > (n + 1) // 2 or 1 - 2 * more / total < confidence:
            break
        k, below = k + 1, more
    return ordered[k - 1], ordered[n - k], max(0.0, 1 - 2 * below / total)
