"""Detection heads with deformable RoI pooling on two photographs: export, check against PyTorch, draw.

    python examples/two_stage/run.py [--output two-stage-output] [--backbone resnet18] [--heads rfcn_dcn …]

Exports each head of the zoo in the forms plugin and decomposed, with a free number of images and boxes; runs the files
in ONNX Runtime on boxes drawn by hand around things in two photographs, all of them at once and some alone; compares
the answers with PyTorch's; and draws where the deformed bins look. The networks are not trained: their answers name
nothing, and their bins move at random by about a pixel of the feature map.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.patches import Rectangle
    from torch import Tensor, nn

    from two_stage.photographs import Photographs

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # this folder is the package `two_stage`, from wherever it is run

HEADS = ("faster_rcnn_dcn_v1", "faster_rcnn_dcn_v2", "rfcn_dcn")
FORMS = ("plugin", "decomposed")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the example; return 0 if every answer is PyTorch's, else 1."""
    options = _parser().parse_args(arguments)
    from dcn_deploy.profiling import let_idle_threads_sleep

    let_idle_threads_sleep()  # before PyTorch is loaded: its threads and ONNX Runtime's would wait for each other
    import torch

    from dcn_deploy import models
    from two_stage import photographs

    taken = photographs.load(options.step)
    options.output.mkdir(parents=True, exist_ok=True)
    image, rois = torch.from_numpy(taken.image), torch.from_numpy(taken.rois)
    passed = True
    for head in options.heads:
        started = time.perf_counter()
        network = models.create(head, backbone=options.backbone)
        for form in FORMS:
            passed &= _check(network, head, options.output / f"{head}.{form}.onnx", form, taken)
        picture = _draw(network, image, rois, taken, options.output / f"{head}.png")
        print(f"{picture or 'no picture: matplotlib is not installed'} ({time.perf_counter() - started:.0f} s)\n")
    print("PASSED" if passed else "FAILED")
    return 0 if passed else 1


def _check(network: nn.Module, head: str, path: Path, form: str, taken: Photographs) -> bool:
    """Export a head, and print how far ONNX Runtime's answers are from PyTorch's."""
    import torch

    import dcn_deploy
    from dcn_deploy import models, runtime, validation

    row = models.entry(head)
    names = {"input_names": tuple(row.inputs), "output_names": row.outputs}
    dcn_deploy.export(
        network,
        models.example_inputs(head),
        path,
        form=form,
        dynamic_shapes={"image": {0: "n", 2: "h", 3: "w"}, "rois": {0: "r"}},
        **names,
    )
    first = taken.rois[:, 0] == 0
    feeds = [
        validation.Feed("both photographs", {"image": taken.image, "rois": taken.rois}),
        validation.Feed("the first alone", {"image": taken.image[:1], "rois": taken.rois[first]}),
        validation.Feed(f"{taken.names[0]} alone", {"image": taken.image[:1], "rois": taken.rois[:1]}),
    ]
    options = runtime.RunnerOptions(threads=torch.get_num_threads())
    with (
        runtime.create("onnxruntime", path, options=options) as deployed,
        runtime.create("torch", network, options=options, **names) as trained,
    ):
        report = validation.validate([deployed], trained, feeds, model=path, oracle=f"{head} in PyTorch")
        answers = [runner.infer(feeds[0].arrays)["class_scores"].argmax(axis=1) for runner in (deployed, trained)]
    (candidate,) = report.candidates
    print(path)
    for result in candidate.outputs:
        verdict = "pass" if result.passed else f"FAIL: {result.reason}"
        print(f"  {result.output:<14} relative RMS {result.worst.relative_rms:.1e} on {result.worst_feed}: {verdict}")
    same = int((answers[0] == answers[1]).sum())
    print(f"  {same} of {len(taken.names)} boxes get PyTorch's class")
    return report.passed and same == len(taken.names)


def _draw(network: nn.Module, image: Tensor, rois: Tensor, taken: Photographs, path: Path) -> Path | None:
    """Draw the boxes, and for the largest of each photograph the samples of all bins; None without matplotlib."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib.figure import Figure
    except ImportError:
        return None
    from two_stage.bins import poolings

    pooling = poolings(network, image, rois)[0]
    figure = Figure(figsize=(12, 8), layout="constrained")
    axes = figure.subplots(2, 2)
    area = (taken.rois[:, 3] - taken.rois[:, 1]) * (taken.rois[:, 4] - taken.rois[:, 2])
    for photograph, (whole, detail) in enumerate(axes):
        own = [index for index, roi in enumerate(taken.rois) if roi[0] == photograph]
        largest = max(own, key=lambda index: area[index])
        for axis in (whole, detail):
            # Pixel x covers x to x + 1: that is how the samples are given.
            height, width = taken.pixels.shape[1:3]
            axis.imshow(taken.pixels[photograph], extent=(0, width, height, 0))
            axis.set_axis_off()
        for index in own:
            _, x1, y1, x2, y2 = taken.rois[index]
            colour = "magenta" if index == largest else "yellow"
            for axis in (whole, detail) if index == largest else (whole,):
                axis.add_patch(_rectangle(x1, y1, x2, y2, colour))
            whole.text(x1, y1, taken.names[index], color=colour, fontsize=8, va="bottom")
        whole.set_title("boxes drawn by hand")
        _, x1, y1, x2, y2 = taken.rois[largest]
        margin = 0.35 * max(x2 - x1, y2 - y1)
        detail.set_xlim(x1 - margin, x2 + margin)
        detail.set_ylim(y2 + margin, y1 - margin)
        centres = pooling.regular[largest].mean(dim=-2).reshape(-1, 2)
        samples = pooling.deformed[largest, 0]
        moved = samples.mean(dim=-2).reshape(-1, 2)
        detail.scatter(*samples.reshape(-1, 2).T, s=2, color="white", alpha=0.6, label="samples")
        detail.quiver(
            *centres.T, *(moved - centres).T, color="magenta", angles="xy", scale_units="xy", scale=1, width=0.004
        )
        whose = ", for the background class" if pooling.deformed.shape[1] > 1 else ""
        detail.set_title(f"{taken.names[largest]}: where its 7×7 bins look{whose}")
    figure.suptitle(f"{path.stem}, untrained: from each bin's place in the box to where it is pooled")
    figure.savefig(path, dpi=110)
    return path


def _rectangle(x1: float, y1: float, x2: float, y2: float, colour: str) -> Rectangle:
    from matplotlib.patches import Rectangle

    return Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=1.5)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("two-stage-output"), help="folder for files and pictures")
    parser.add_argument("--heads", nargs="+", choices=HEADS, default=HEADS, metavar="HEAD", help=", ".join(HEADS))
    parser.add_argument("--backbone", choices=("resnet18", "resnet50"), default="resnet18")
    parser.add_argument("--step", type=int, default=2, help="shrink the photographs by this factor")
    return parser


if __name__ == "__main__":
    sys.exit(main())
