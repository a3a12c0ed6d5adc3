"""Charts, pictures and sampling locations of the demonstration's report."""

from __future__ import annotations

import base64
import io
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch

from dcn_deploy import models
from dcn_deploy.nn import ModulatedDeformConv2d

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(autouse=True)
def examples_on_path(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "digits"]:
        del sys.modules[name]


def test_png_is_the_image() -> None:
    from digits.pictures import png_data_uri
    from PIL import Image

    image = torch.rand(5, 7, generator=torch.Generator().manual_seed(0))
    head, _, body = png_data_uri(image).partition(",")
    assert head == "data:image/png;base64"
    read = np.asarray(Image.open(io.BytesIO(base64.b64decode(body))))
    assert read.shape == (5, 7)
    np.testing.assert_array_equal(read, (image.numpy() * 255).round().astype(np.uint8))


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (0.93, 0.957), (2.2, 2.2), (0.0, 0.0), (1e-5, 3e-5), (-3.0, 170.0)]
)
def test_ticks_enclose_and_are_even(low: float, high: float) -> None:
    from digits.charts import nice_ticks

    ticks = nice_ticks(low, high, 5)
    assert ticks[0] <= low
    assert ticks[-1] >= high
    assert 2 <= len(ticks) <= 12
    steps = np.diff(ticks)
    np.testing.assert_allclose(steps, steps[0])


def test_bars_are_proportional() -> None:
    from digits.charts import Bar, bar_chart

    svg = ElementTree.fromstring(
        bar_chart([Bar("a<b", "plain", 2.0, 3.0), Bar("b", "plain", 1.0)], title="t", format_value=str)
    )
    widths = [float(rect.get("width")) for rect in svg.iter("rect")]
    assert widths[0] == pytest.approx(2 * widths[1], rel=0.01)
    assert "a<b" in [text.text for text in svg.iter("text")]


def test_a_whisker_far_beyond_the_bars_does_not_shrink_them() -> None:
    from digits.charts import Bar, bar_chart

    def widths(whisker: float) -> tuple[float, int]:
        bars = [Bar("a", "plain", 2.0, whisker), Bar("b", "plain", 1.0, 1.1)]
        svg = ElementTree.fromstring(bar_chart(bars, title="t", format_value=str))
        return float(next(svg.iter("rect")).get("width")), len(list(svg.iter("path")))

    width, arrows = widths(100.0)
    assert arrows == 1
    assert width > 0.7 * widths(2.0)[0]
    assert widths(2.2)[1] == 0


@pytest.mark.parametrize("count", [1, 2, 40])
def test_lines_hold_every_value(count: int) -> None:
    from digits.charts import Series, line_chart

    values = [0.1 + 0.02 * index for index in range(count)]
    chart = line_chart([Series("a", "plain", values), Series("b", "torch", values)], title="t", format_value=str)
    lines = list(ElementTree.fromstring(chart).iter("polyline"))
    assert [len(line.get("points").split()) for line in lines] == [count, count]
    heights = [float(point.split(",")[1]) for point in lines[0].get("points").split()]
    assert heights == sorted(heights, reverse=True)


def test_dots_mean_and_this_run() -> None:
    from digits.charts import DotRow, dot_chart

    rows = [DotRow("a", "plain", [0.9, 0.92, 0.94], 0.92, 0.02, 0.95), DotRow("b", "torch", [], None, None, 0.91)]
    svg = ElementTree.fromstring(dot_chart(rows, title="t", format_value=str))
    xs = [float(circle.get("cx")) for circle in svg.iter("circle")]
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.2)
    assert len(list(svg.iter("path"))) == 2


def test_sampling_of_a_zero_branch_is_the_regular_grid() -> None:
    from digits.sampling import sampling_picture

    network = models.create("digits_dcn", offset_init="zero")
    image = torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(0))
    picture = sampling_picture(network, image, 3)
    assert 0 < len(picture.places) <= 729
    # conv3 and conv5 take steps of two, so the last map's pixel covers 2·(2·1 + 2) + 2 = 10 pixels less one of a
    # 16-pixel map, that is of 2 image pixels each
    assert picture.regular[2:] == (2 * 10, 2 * 10)
    left, top, width, height = picture.regular
    inside = picture.places[:, 0].clamp(left, left + width) == picture.places[:, 0]
    assert inside.all()
    assert (picture.places[:, 1].clamp(top, top + height) == picture.places[:, 1]).all()
    # pixel centres of the 16-pixel map, and a mask of one half three times over
    assert torch.equal((picture.places / 2 - 0.5).round(), picture.places / 2 - 0.5)
    assert torch.allclose(picture.weights, torch.full_like(picture.weights, 0.125))


def test_sampling_follows_the_offsets() -> None:
    from digits.sampling import sampling_picture

    network = models.create("digits_dcn", offset_init="zero")
    image = torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(0))
    before = sampling_picture(network, image, 3)
    lowest = next(layer for layer in network.modules() if isinstance(layer, ModulatedDeformConv2d))
    with torch.no_grad():
        # Δy = 0 and Δx = 0.25 of the lowest deformable layer, whose map has a pixel for two of the image
        lowest.conv_offset.bias[1:18:2] = 0.25
    after = sampling_picture(network, image, 3)
    # the places that are inside both ways, in the same order
    if len(before.places) == len(after.places):
        torch.testing.assert_close(after.places - before.places, torch.tensor([0.5, 0.0]).expand_as(after.places))
    assert set((after.places[:, 0] % 2).tolist()) == {1.5}
    assert set((before.places[:, 0] % 2).tolist()) == {1.0}
    assert set((after.places[:, 1] % 2).tolist()) == {1.0}
