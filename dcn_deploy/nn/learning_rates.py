"""Ready-made parameter groups for an optimiser."""

from __future__ import annotations

from typing import Any

from dcn_deploy._lazy import require

require("torch", "dcn_deploy.nn")
from torch import nn  # noqa: E402

from dcn_deploy.nn.deform_conv import _PackedDeformConv2d  # noqa: E402


def parameter_groups(
    module: nn.Module, lr: float, offset_lr_mult: float | None = None, **options: Any
) -> list[dict[str, Any]]:
    """Split the parameters of a network into groups by learning rate.

    The branches that predict offsets train at a learning rate of their own: the papers use 1× for v1 (Dai et al.
    2017, section 2.1) and 0.1× for v2 (Zhu et al. 2019, section 4.1).

    Args:
        module: any network; its deformable layers are found wherever they are.
        lr: learning rate of all other parameters.
        offset_lr_mult: factor for all branches; None takes each layer's own (``offset_lr_mult`` of its class).
        **options: further entries for every group, e.g. ``weight_decay``.

    Returns:
        One dict a learning rate, with ``params``, ``lr`` and the options, to hand to a ``torch.optim`` optimiser. Every
        parameter that requires a gradient is in exactly one.
    """
    multiplier: dict[int, float] = {}
    for layer in module.modules():
        if isinstance(layer, _PackedDeformConv2d):
            factor = layer.offset_lr_mult if offset_lr_mult is None else offset_lr_mult
            for parameter in layer.conv_offset.parameters():
                multiplier[id(parameter)] = factor
    groups: dict[float, list[nn.Parameter]] = {1.0: []}
    for parameter in module.parameters():
        if parameter.requires_grad:
            groups.setdefault(multiplier.get(id(parameter), 1.0), []).append(parameter)
    return [{"params": parameters, "lr": lr * factor, **options} for factor, parameters in groups.items() if parameters]
