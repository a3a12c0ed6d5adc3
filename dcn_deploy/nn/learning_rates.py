"""Ready-made parameter groups for an optimiser."""

from __future__ import annotations

from typing import Any

from dcn_deploy._lazy import require

require("torch", "dcn_deploy.nn")
from torch import nn  # noqa: E402

from dcn_deploy.nn.offset_branch import PredictsOffsets  # noqa: E402


def parameter_groups(
    module: nn.Module, lr: float, offset_lr_mult: float | None = None, **options: Any
) -> list[dict[str, Any]]:
    """Split the parameters of a network into groups by learning rate.

    The branches that predict offsets train at a learning rate of their own. For convolutions the papers use 1× in v1
    (Dai et al. 2017, section 2.1) and 0.1× in v2 (Zhu et al. 2019, section 4.1); for RoI pooling 0.01× in v1 (Dai et
    al. 2017, section 2.2), while the authors' code of v2 sets no factor.

    Args:
        module: any network; its deformable layers are found wherever they are.
        lr: learning rate of all other parameters.
        offset_lr_mult: factor for all branches; None takes each layer's own (its ``offset_lr_mult``).
        **options: further entries for every group, e.g. ``weight_decay``.

    Returns:
        One dict a learning rate, with ``params``, ``lr`` and the options, to hand to a ``torch.optim`` optimiser. Every
        parameter that requires a gradient is in exactly one.
    """
    multiplier: dict[int, float] = {}
    for layer in module.modules():
        if isinstance(layer, PredictsOffsets):
            factor = layer.offset_lr_mult if offset_lr_mult is None else offset_lr_mult
            for branch in layer.offset_branches():
                multiplier.update((id(parameter), factor) for parameter in branch.parameters())
    groups: dict[float, list[nn.Parameter]] = {1.0: []}
    for parameter in module.parameters():
        if parameter.requires_grad:
            groups.setdefault(multiplier.get(id(parameter), 1.0), []).append(parameter)
    return [{"params": parameters, "lr": lr * factor, **options} for factor, parameters in groups.items() if parameters]
