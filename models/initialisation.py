"""Reproducible initial weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from dcn_deploy import _lazy
from dcn_deploy.errors import InvalidArgumentError, describe

_lazy.require("torch", "dcn_deploy.models")

import torch  # noqa: E402
from torch import nn  # noqa: E402

from dcn_deploy.nn import DeformConv2d, ModulatedDeformConv2d, PredictsOffsets  # noqa: E402

OffsetInit = Literal["random", "zero"]

#: Standard deviation of a random branch's predictions for an input of unit mean square: pixels of a convolution, RoI
#: sizes · gamma of a pooling (a pixel, where the RoI has 10 on the map and gamma is 0.1), mask logits.
OFFSET_STD = 1.0


@contextmanager
def fixed_seed(seed: int) -> Iterator[None]:
    """Seed the CPU's generator inside the block, and put its state back afterwards.

    ``torch.manual_seed`` would also reseed every GPU and leave that behind.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def initialise(module: nn.Module, offset_init: OffsetInit) -> None:
    """Draw the weights of every convolution, deformable ones included, from the CPU's generator.

    Weights are normal with variance 2/fan_in (He et al., 2015, "Delving deep into rectifiers", section 2.2),
    biases zero; so are the hidden layers of random branches. Other linear layers, and normalisation layers, keep what
    PyTorch gave them.

    Args:
        module: the network; changed in place.
        offset_init: ``"zero"`` for branches that predict no offset, ``"random"`` for ones that predict offsets
            of about a pixel (:data:`OFFSET_STD`).

    Raises:
        InvalidArgumentError: for another ``offset_init``.
    """
    if offset_init not in ("random", "zero"):
        raise InvalidArgumentError(describe("offset_init", expected="'random' or 'zero'", actual=repr(offset_init)))
    predicting: set[nn.Module] = set()
    hidden: set[nn.Module] = set()
    for layer in module.modules():
        if isinstance(layer, PredictsOffsets):
            predicting.update(layer.offset_layers())
            hidden.update(part for branch in layer.offset_branches() for part in branch.modules())
    for layer in module.modules():
        if layer in predicting:
            assert isinstance(layer, nn.Conv2d | nn.Linear)
            std = OFFSET_STD / math.sqrt(layer.weight[0].numel()) if offset_init == "random" else 0.0
            nn.init.normal_(layer.weight, std=std) if std else nn.init.zeros_(layer.weight)
        elif isinstance(layer, nn.Conv2d | DeformConv2d | ModulatedDeformConv2d) or (
            isinstance(layer, nn.Linear) and layer in hidden and offset_init == "random"
        ):
            nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
        else:
            continue
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
