"""What every layer that predicts its own offsets tells about the branch that does."""

from __future__ import annotations

from collections.abc import Callable

from dcn_deploy._lazy import require

require("torch", "dcn_deploy.nn")
import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402


class PredictsOffsets(nn.Module):
    """Base of the layers that own a branch which predicts offsets, and perhaps the modulation mask."""

    #: learning rate of the branch relative to that of the other parameters; see ``parameter_groups``
    offset_lr_mult: float

    def offset_branches(self) -> tuple[nn.Module, ...]:
        """Return the modules that predict offsets and mask; all of their parameters belong to the branch."""
        raise NotImplementedError

    def offset_layers(self) -> tuple[nn.Conv2d | nn.Linear, ...]:
        """Return the last layer of each branch, whose outputs are the offsets and mask logits: zero in a new layer."""
        raise NotImplementedError

    def _zero_offset_layers(self) -> None:
        for layer in self.offset_layers():
            nn.init.zeros_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def _in_full_precision(self, branch: Callable[[Tensor], Tensor], input: Tensor) -> Tensor:
        """Run a branch in the type of its parameters, float32, also under autocast.

        Positions rounded to half precision would be off by up to a quarter of a pixel near column 500.
        """
        # The device "meta" knows no autocast.
        if not input.is_meta and torch.is_autocast_enabled(input.device.type):
            with torch.autocast(input.device.type, enabled=False):
                return branch(input.to(self.offset_layers()[0].weight.dtype))
        return branch(input)
