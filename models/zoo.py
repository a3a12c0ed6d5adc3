"""The table of networks: one row fixes a name, how it is built and what it takes."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from dcn_deploy import _lazy
from dcn_deploy.boxes import Boxes
from dcn_deploy.errors import InvalidArgumentError, ModelSourceError, describe

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Entry:
    """One network of the zoo.

    Attributes:
        name: what :func:`create` and the command line call it.
        factory: ``module:callable`` inside this package; its keyword arguments are the network's options.
        inputs: shape of each example input, by the name it has in an exported file.
        outputs: names of the outputs in an exported file, in order; empty: whatever the exporter makes of them.
        boxes: which of the inputs hold regions of interest, and what those must fit.
        description: one line for tables.
        notes: what a reader should know besides.
        deformable_layers: how many deformable convolutions the network holds.
        deformable_pools: how many deformable RoI poolings it holds.
        options: fixed arguments to the factory.
    """

    name: str
    factory: str
    inputs: Mapping[str, tuple[int, ...]]
    description: str
    notes: str = ""
    deformable_layers: int = 0
    deformable_pools: int = 0
    outputs: tuple[str, ...] = ()
    boxes: Mapping[str, Boxes] = field(default_factory=lambda: MappingProxyType({}))
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


_RESNET_NOTES = (
    "Names in state_dict are torchvision's, so its weights load; a deformable 3×3 convolution keeps `weight` "
    "under the name of the plain one and adds `conv_offset`."
)

_TWO_STAGE: Mapping[str, Any] = MappingProxyType(
    {
        "inputs": {"image": (1, 3, 320, 480), "rois": (16, 5)},
        "outputs": ("class_scores", "box_deltas"),
        "boxes": {"rois": Boxes(of="image")},
        "notes": "Inputs: normalised RGB images and boxes (batch index, x1, y1, x2, y2) in their pixels, as a region "
        "proposal network gives them. Outputs: class scores before the softmax, background first, and box deltas.",
    }
)

ZOO: Mapping[str, Entry] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            Entry(
                "digits_dcn",
                "digits:DigitsNet",
                {"input": (1, 1, 32, 32)},
                "the demonstration's classifier of handwritten digits with three deformable v2 layers",
                "Input: grey values in [0, 1], digit bright on dark. Output: logits of the ten digits.",
                deformable_layers=3,
                options={"deformable": True},
            ),
            Entry(
                "digits_plain",
                "digits:DigitsNet",
                {"input": (1, 1, 32, 32)},
                "twin of digits_dcn with plain convolutions of equal width",
                options={"deformable": False},
            ),
            Entry(
                "faster_rcnn_dcn_v1",
                "two_stage:faster_rcnn",
                description="Faster R-CNN's second stage on ResNet-50 with deformable RoI pooling and stage 5, v1",
                deformable_layers=3,
                deformable_pools=2,
                options={"version": 1},
                **_TWO_STAGE,
            ),
            Entry(
                "faster_rcnn_dcn_v2",
                "two_stage:faster_rcnn",
                description="the same with modulated deformable RoI pooling and stages 3 to 5, v2",
                deformable_layers=13,
                deformable_pools=2,
                options={"version": 2},
                **_TWO_STAGE,
            ),
            Entry(
                "resnet18",
                "resnet:resnet18",
                {"input": (1, 3, 224, 224)},
                "ResNet-18, plain",
                _RESNET_NOTES,
            ),
            Entry(
                "resnet18_dcn",
                "resnet:resnet18",
                {"input": (1, 3, 224, 224)},
                "ResNet-18 with deformable v2 3×3 convolutions in stages 3 to 5",
                _RESNET_NOTES,
                deformable_layers=6,
                options={"deformable_stages": (3, 4, 5)},
            ),
            Entry(
                "resnet50",
                "resnet:resnet50",
                {"input": (1, 3, 224, 224)},
                "ResNet-50, plain",
                _RESNET_NOTES,
            ),
            Entry(
                "resnet50_dcn",
                "resnet:resnet50",
                {"input": (1, 3, 224, 224)},
                "ResNet-50 with deformable v2 3×3 convolutions in stages 3 to 5",
                _RESNET_NOTES,
                deformable_layers=13,
                options={"deformable_stages": (3, 4, 5)},
            ),
            Entry(
                "rfcn_dcn",
                "two_stage:rfcn",
                description="R-FCN's second stage on ResNet-50 with deformable pooling and stage 5, v1",
                deformable_layers=3,
                deformable_pools=4,
                **_TWO_STAGE,
            ),
            Entry(
                "single_dcn",
                "single:single_dcn",
                {"input": (1, 64, 56, 56)},
                "one modulated (v2) deformable layer with its offset branch",
                deformable_layers=1,
            ),
            Entry(
                "single_dcn_v1",
                "single:single_dcn_v1",
                {"input": (1, 64, 56, 56)},
                "one deformable (v1) layer with its offset branch",
                deformable_layers=1,
            ),
        )
    }
)


def names() -> tuple[str, ...]:
    """Return the names of all networks of the zoo."""
    return tuple(ZOO)


def entry(name: str) -> Entry:
    """Return the row of the network called ``name``.

    Raises:
        ModelSourceError: if the zoo has no such network; the message names the closest ones.
    """
    try:
        return ZOO[name]
    except KeyError:
        close = difflib.get_close_matches(name, ZOO, n=3, cutoff=0.5)
        remedy = f"Did you mean {' or '.join(close)}?" if close else "Give one of these."
        raise ModelSourceError(
            describe("network", expected=f"one of {', '.join(ZOO)}", actual=repr(name), remedy=remedy)
        ) from None


def example_inputs(name: str, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Return an example for each input of the network called ``name``, in order.

    Standard normal numbers, but random boxes inside the images for inputs that hold boxes.

    Raises:
        ModelSourceError: if the zoo has no such network.
    """
    row = entry(name)
    _lazy.require("torch", f"the network '{name}'")
    import numpy as np
    import torch

    generator = torch.Generator().manual_seed(seed)
    random = np.random.default_rng(seed)
    return tuple(
        torch.from_numpy(row.boxes[key].draw(random, shape, row.inputs, integer=False)).float()
        if key in row.boxes
        else torch.randn(shape, generator=generator)
        for key, shape in row.inputs.items()
    )


def create(name: str, **options: Any) -> torch.nn.Module:
    """Build the network called ``name``, in evaluation mode, with deterministic initial weights.

    The same name and options always give the same weights, and the global random number generators are
    left as they were.

    Args:
        name: one of :func:`names`.
        **options: keyword arguments of the network's factory. All of them take ``seed`` (default 0) and,
            where the network has deformable layers, ``offset_init``: ``"random"`` (default) gives the
            branches that predict offsets small random weights, so that sampling leaves the regular grid;
            ``"zero"`` is how a new layer starts before training. With a zero branch a deformable node
            computes a plain convolution, and a validation would pass whatever the node did with its offsets.

    Raises:
        ModelSourceError: if the zoo has no such network.
        InvalidArgumentError: if the network does not know an option.
    """
    row = entry(name)
    _lazy.require("torch", f"the network '{name}'")
    module_name, _, attribute = row.factory.partition(":")
    factory = getattr(importlib.import_module(f"{__package__}.{module_name}"), attribute)
    _check_options(row, factory, options)
    return cast("torch.nn.Module", factory(**{**row.options, **options})).eval()


def _check_options(row: Entry, factory: Any, options: Mapping[str, Any]) -> None:
    import inspect

    known = set(inspect.signature(factory).parameters)
    unknown = sorted(set(options) - known)
    if unknown:
        raise InvalidArgumentError(
            describe(
                f"options of '{row.name}'",
                expected=f"some of {', '.join(sorted(known))}",
                actual=", ".join(unknown),
            )
        )
