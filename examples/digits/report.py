"""The page that shows what the demonstration found: one file, nothing fetched from anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dcn_deploy import _lazy
from digits import charts
from digits.data import Scans, WarpedImages
from digits.pictures import png_data_uri
from digits.sampling import sampling_picture
from digits.train import NETWORKS

TEMPLATE = Path(__file__).resolve().parent / "report.html.j2"
#: How many pictures of each kind.
EXAMPLES, RIGHT, WRONG, SAMPLING = 9, 18, 27, 8
#: Colour variables of the page.
COLOURS = {
    "digits_dcn": "deformable",
    "digits_plain": "plain",
    "PyTorch": "torch",
    "ONNX Runtime, plugin": "plugin",
    "ONNX Runtime, standard": "standard",
    "ONNX Runtime, decomposed": "decomposed",
    "ONNX Runtime, plain twin": "plain",
}
TITLES = {"digits_dcn": "deformable", "digits_plain": "plain twin"}


@dataclass(frozen=True)
class Prediction:
    """One test image with its prediction.

    Attributes:
        image: its number in the test set.
        uri: of the picture.
        label: the digit it is.
        predicted: the digit it is taken for.
        confidence: softmax of the predicted digit.
    """

    image: int
    uri: str
    label: int
    predicted: int
    confidence: float


@dataclass(frozen=True)
class Sampled:
    """One test image with the places it is sampled at, as path data of an SVG in image pixels.

    Attributes:
        prediction: the image and its class.
        levels: path of the places and their opacity, from light to strong modulation.
        centre: x and y of the output pixel.
        regular: x, y, width and height of what the plain twin covers.
    """

    prediction: Prediction
    levels: Sequence[tuple[str, float]]
    centre: tuple[float, float]
    regular: tuple[float, float, float, float]


@dataclass(frozen=True)
class Pictures:
    """Everything on the page that is an image.

    Attributes:
        examples: scans, each with some of its warped images.
        right: test images that the deformable network reads rightly.
        wrong: test images that it misreads, the most confident mistakes first.
        wrong_count: how many it misreads in all.
        sampled: test images with sampling locations.
    """

    examples: Sequence[tuple[str, Sequence[str]]]
    right: Sequence[Prediction]
    wrong: Sequence[Prediction]
    wrong_count: int
    sampled: Sequence[Sampled]

    @staticmethod
    def of(network: nn.Module, logits: Tensor, scans: Scans, test: WarpedImages) -> Pictures:
        """Choose and draw the pictures.

        Args:
            network: the trained deformable network.
            logits: ``(N, 10)``, its answers on the test images.
            scans: the training scans, for examples of the warp.
            test: the test images.
        """
        from digits.data import warp

        probabilities = logits.softmax(1)
        confidence, predicted = probabilities.max(1)

        def prediction(image: int) -> Prediction:
            return Prediction(
                image=image,
                uri=png_data_uri(test.images[image, 0]),
                label=int(test.labels[image]),
                predicted=int(predicted[image]),
                confidence=float(confidence[image]),
            )

        correct = predicted == test.labels
        right_rows = torch.nonzero(correct).flatten()
        wrong_rows = torch.nonzero(~correct).flatten()
        wrong_rows = wrong_rows[confidence[wrong_rows].argsort(descending=True, stable=True)]
        # evenly over the test set: neither the first nor the best
        picked = right_rows[torch.linspace(0, max(len(right_rows) - 1, 0), RIGHT).long()] if len(right_rows) else []
        generator = torch.Generator().manual_seed(0)
        few = scans.first(EXAMPLES)
        warped = [warp(few, generator).images for _ in range(3)]
        return Pictures(
            examples=[
                (png_data_uri(few.images[row, 0]), [png_data_uri(images[row, 0]) for images in warped])
                for row in range(len(few))
            ],
            right=[prediction(int(row)) for row in picked],
            wrong=[prediction(int(row)) for row in wrong_rows[:WRONG]],
            wrong_count=len(wrong_rows),
            sampled=[
                _sampled(network, test.images[int(row)], prediction(int(row)))
                for row in _one_of_each(right_rows, test.labels)[:SAMPLING]
            ],
        )


def _one_of_each(rows: Tensor, labels: Tensor) -> list[int]:
    """Return the first row of each digit, in the order in which they come."""
    seen: dict[int, int] = {}
    for row in rows.tolist():
        seen.setdefault(int(labels[row]), row)
    return list(seen.values())


def _sampled(network: nn.Module, image: Tensor, prediction: Prediction) -> Sampled:
    picture = sampling_picture(network, image, prediction.predicted)
    strength = picture.weights / picture.weights.max() if len(picture.weights) else picture.weights
    levels = []
    for low, high, opacity in ((0.0, 0.1, 0.15), (0.1, 0.35, 0.45), (0.35, 1.1, 0.95)):
        chosen = picture.places[(strength >= low) & (strength < high)]
        # a move and a line of no length, drawn as a dot by the round ends of the stroke
        levels.append(("".join(f"M{x:.1f} {y:.1f}h0" for x, y in chosen.tolist()), opacity))
    return Sampled(
        prediction=prediction,
        levels=levels,
        centre=(float(picture.centre[0]), float(picture.centre[1])),
        regular=picture.regular,
    )


def render(result: Mapping[str, Any], committed: Mapping[str, Any] | None, pictures: Pictures) -> str:
    """Return the page.

    Args:
        result: as written to result.json.
        committed: the accuracies over several seeds as stored beside the code, or None.
        pictures: the images.

    Raises:
        MissingDependencyError: if Jinja2 is not installed.
    """
    jinja2 = _lazy.require("jinja2", "the report of the demonstration")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        percent=percent,
        points=lambda value: f"{100 * value:+.2f}".replace("-", "−"),
        thousands=lambda value: f"{value:,}",
        milliseconds=milliseconds,
        bare_milliseconds=lambda value: milliseconds(value).removesuffix(" ms"),
        day=lambda value: f"{value[:10]} {value[11:16]} UTC",
        error=lambda value: "0" if not value else f"{value:.1e}",
        size=size,
        duration=duration,
    )
    markup = jinja2.utils.markupsafe.Markup
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    page: str = template.render(
        result=result,
        committed=committed,
        pictures=pictures,
        networks=NETWORKS,
        titles=TITLES,
        colours=COLOURS,
        difference=result["training"][NETWORKS[0]]["test_accuracy"] - result["training"][NETWORKS[1]]["test_accuracy"],
        accuracy_chart=markup(_accuracy_chart(result, committed)),
        test_curve=markup(_curve(result, "test_accuracy", "Accuracy on the test images by epoch", percent_tick)),
        loss_curve=markup(_curve(result, "loss", "Training loss by epoch", lambda value: f"{value:g}")),
        latency_charts=[(report["batch"], markup(_latency_chart(report))) for report in result["latency"]],
    )
    return page


def _accuracy_chart(result: Mapping[str, Any], committed: Mapping[str, Any] | None) -> str:
    rows = []
    for name in NETWORKS:
        stored = [] if committed is None else [run for run in committed["runs"] if run["network"] == name]
        summary = None if committed is None else committed["summary"][name]
        rows.append(
            charts.DotRow(
                label=TITLES[name],
                colour=COLOURS[name],
                dots=[run["test_accuracy"] for run in stored],
                mean=None if summary is None else summary["mean"],
                std=None if summary is None else summary["std"],
                highlight=result["training"][name]["test_accuracy"],
            )
        )
    return charts.dot_chart(rows, title="Accuracy on the test images", format_value=percent_tick)


def _curve(result: Mapping[str, Any], key: str, title: str, format_value: Any) -> str:
    series = [
        charts.Series(TITLES[name], COLOURS[name], [epoch[key] for epoch in result["training"][name]["epochs"]])
        for name in NETWORKS
    ]
    return charts.line_chart(series, title=title, format_value=format_value)


def _latency_chart(report: Mapping[str, Any]) -> str:
    bars = [
        charts.Bar(
            label=row["name"].replace("ONNX Runtime, ", ""),
            colour=COLOURS[row["name"]],
            value=row["latency_seconds"]["median"],
            whisker=row["latency_seconds"]["p90"],
        )
        for row in report["rows"]
    ]
    return charts.bar_chart(bars, title=f"Latency at batch {report['batch']}", format_value=milliseconds)


def percent(value: float) -> str:
    """Return a share as text with two decimals."""
    return f"{100 * value:.2f} %"


def percent_tick(value: float) -> str:
    """Return a share as text with no more decimals than it needs."""
    return f"{100 * value:g} %" if abs(100 * value - round(100 * value, 2)) < 1e-9 else f"{100 * value:.2f} %"


def milliseconds(seconds: float) -> str:
    """Return a time as text in milliseconds."""
    value = 1e3 * seconds
    return f"{value:.3f} ms" if value < 10 else f"{value:.1f} ms"


def size(count: int) -> str:
    """Return a number of bytes as text."""
    for unit, power in (("GiB", 30), ("MiB", 20)):
        if count >= 1 << power:
            return f"{count / (1 << power):.1f} {unit}"
    return f"{count / 1024:.0f} KiB"


def duration(seconds: float) -> str:
    """Return a time as text in minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
