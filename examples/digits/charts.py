"""Charts as inline SVG: text and lines take their colours from the page's CSS variables, so both themes work."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise


@dataclass(frozen=True)
class Series:
    """One line of a line chart.

    Attributes:
        label: for the legend at the line's end.
        colour: name of the CSS variable, without the dashes.
        values: one for each step, from step 1.
    """

    label: str
    colour: str
    values: Sequence[float]


@dataclass(frozen=True)
class Bar:
    """One bar of a bar chart.

    Attributes:
        label: at its left.
        colour: name of the CSS variable, without the dashes.
        value: its length.
        whisker: where the thin line ends, or None.
    """

    label: str
    colour: str
    value: float
    whisker: float | None = None


@dataclass(frozen=True)
class DotRow:
    """One row of a dot chart.

    Attributes:
        label: at its left.
        colour: name of the CSS variable, without the dashes.
        dots: values of single runs.
        mean: of the dots, or None without any.
        std: sample standard deviation, or None for fewer than two dots.
        highlight: the value drawn as a diamond.
    """

    label: str
    colour: str
    dots: Sequence[float]
    mean: float | None
    std: float | None
    highlight: float


def line_chart(series: Sequence[Series], *, title: str, format_value: Callable[[float], str]) -> str:
    """Return a chart of values over epochs, each line labelled at its end."""
    width, height = 480, 250
    left, right, top, bottom = 48, 110, 14, 34
    steps = max(len(line.values) for line in series)
    ticks = nice_ticks(min(min(line.values) for line in series), max(max(line.values) for line in series), 5)
    low, high = ticks[0], ticks[-1]

    def x(step: int) -> float:
        return left + (width - left - right) * (step - 1) / max(steps - 1, 1)

    def y(value: float) -> float:
        return top + (height - top - bottom) * (high - value) / (high - low)

    parts = [_open(width, height, title)]
    for tick in ticks:
        parts.append(_line(left, y(tick), width - right, y(tick), "grid"))
        parts.append(_text(left - 7, y(tick) + 4, format_value(tick), "axis", anchor="end"))
    for step in sorted({1, *(t for t in map(round, nice_ticks(1, steps, 5)) if 1 <= t <= steps), steps}):
        # a tick next to the last step would collide with it
        if step == steps or steps - step >= max(2, steps // 8):
            parts.append(_text(x(step), height - bottom + 17, str(step), "axis", anchor="middle"))
    parts.append(_text((left + width - right) / 2, height - 3, "epoch", "axis", anchor="middle"))
    ends = _spread([y(line.values[-1]) for line in series], 15)
    for line, end in zip(series, ends, strict=True):
        points = " ".join(f"{x(i):.1f},{y(value):.1f}" for i, value in enumerate(line.values, 1))
        colour = f"var(--{line.colour})"
        if len(line.values) == 1:
            parts.append(f'<circle cx="{x(1):.1f}" cy="{y(line.values[0]):.1f}" r="3" fill="{colour}"/>')
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2.2" '
            'stroke-linejoin="round" stroke-linecap="round"/>'
        )
        parts.append(
            f'<text x="{width - right + 8}" y="{end + 4:.1f}" class="label" style="fill:{colour}">'
            f"{escape(line.label)}</text>"
        )
    return "".join([*parts, "</svg>"])


def bar_chart(bars: Sequence[Bar], *, title: str, format_value: Callable[[float], str]) -> str:
    """Return horizontal bars from zero, each with its value.

    The scale follows the bars: a whisker that is longer than a third of the longest bar beyond it, which a disturbed
    measurement gives, is cut and ends in an arrow instead of a tick.
    """
    width, left, right, top, row = 480, 118, 74, 6, 30
    height = top + row * len(bars) + 4
    longest = max(bar.value for bar in bars)
    most = min(max(bar.whisker or bar.value for bar in bars), longest * 4 / 3)
    most = max(most, longest)

    def x(value: float) -> float:
        return left + (width - left - right) * value / most

    parts = [_open(width, height, title), _line(left, top, left, height - 4, "grid")]
    for index, bar in enumerate(bars):
        middle = top + row * index + row / 2
        end = x(bar.value)
        parts.append(_text(left - 9, middle + 4, bar.label, "label", anchor="end"))
        parts.append(
            f'<rect x="{left}" y="{middle - 9:.1f}" width="{max(end - left, 1):.1f}" height="18" rx="3" '
            f'style="fill:var(--{bar.colour})"/>'
        )
        if bar.whisker is not None:
            tip = x(min(bar.whisker, most))
            parts.append(_line(end, middle, tip, middle, "whisker"))
            if bar.whisker <= most:
                parts.append(_line(tip, middle - 5, tip, middle + 5, "whisker"))
            else:
                parts.append(f'<path d="M{tip - 5:.1f} {middle - 4:.1f}l5 4l-5 4" fill="none" class="whisker cut"/>')
            end = max(end, tip)
        parts.append(_text(end + 8, middle + 4, format_value(bar.value), "value"))
    return "".join([*parts, "</svg>"])


def dot_chart(rows: Sequence[DotRow], *, title: str, format_value: Callable[[float], str]) -> str:
    """Return one row of dots for each network: single runs, mean ± std, and this run as a diamond."""
    width, left, right, top, row = 980, 110, 34, 8, 54
    height = top + row * len(rows) + 30
    values = [value for line in rows for value in (*line.dots, line.highlight)]
    ticks = nice_ticks(min(values), max(values), 6)
    low, high = ticks[0], ticks[-1]

    def x(value: float) -> float:
        return left + (width - left - right) * (value - low) / (high - low)

    parts = [_open(width, height, title)]
    for tick in ticks:
        parts.append(_line(x(tick), top, x(tick), height - 26, "grid"))
        parts.append(_text(x(tick), height - 9, format_value(tick), "axis", anchor="middle"))
    for index, line in enumerate(rows):
        middle = top + row * index + row / 2
        colour = f"var(--{line.colour})"
        parts.append(_text(left - 14, middle + 4, line.label, "label", anchor="end"))
        if line.mean is not None and line.std is not None:
            begin, end = x(max(line.mean - line.std, low)), x(min(line.mean + line.std, high))
            parts.append(
                f'<rect x="{begin:.1f}" y="{middle - 13:.1f}" width="{max(end - begin, 1):.1f}" height="26" '
                f'rx="4" style="fill:{colour};opacity:.18"/>'
            )
            parts.append(
                f'<line x1="{x(line.mean):.1f}" x2="{x(line.mean):.1f}" y1="{middle - 13:.1f}" '
                f'y2="{middle + 13:.1f}" style="stroke:{colour};stroke-width:2.5"/>'
            )
        for value in line.dots:
            parts.append(f'<circle cx="{x(value):.1f}" cy="{middle:.1f}" r="4.5" style="fill:{colour}"/>')
        cx = x(line.highlight)
        parts.append(
            f'<path d="M{cx:.1f} {middle - 8:.1f}l8 8l-8 8l-8 -8z" '
            f'style="fill:var(--surface);stroke:{colour};stroke-width:2.2"/>'
        )
    return "".join([*parts, "</svg>"])


def nice_ticks(low: float, high: float, count: int) -> list[float]:
    """Return evenly spaced round numbers that enclose [low, high], about ``count`` of them."""
    if high <= low:
        high = low + (abs(low) or 1.0) * 0.01
    raw = (high - low) / max(count - 1, 1)
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    # Twelve digits, so that 3 · 1e-5 is 3e-5 and not a hair below the value it is to enclose.
    return [float(f"{index * step:.12g}") for index in range(first, last + 1)]


def _spread(positions: Sequence[float], gap: float) -> list[float]:
    """Move labels apart so that neighbours are at least ``gap`` from one another."""
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    placed = list(positions)
    for before, after in pairwise(order):
        lack = gap - (placed[after] - placed[before])
        if lack > 0:
            placed[before] -= lack / 2
            placed[after] += lack / 2
    return placed


def _open(width: float, height: float, title: str) -> str:
    # the namespace is not needed inside HTML, and leaving it out keeps the page free of any address
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}"><title>{escape(title)}</title>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def _text(x: float, y: float, text: str, kind: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(text)}</text>'
