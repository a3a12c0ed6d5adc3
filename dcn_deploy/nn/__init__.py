"""Layers that own the branch which predicts offsets (and the modulation mask)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dcn_deploy.nn.deform_conv import DeformConv2d as DeformConv2d
    from dcn_deploy.nn.deform_conv import ModulatedDeformConv2d as ModulatedDeformConv2d
    from dcn_deploy.nn.deform_roi_pool import DeformRoIPool2d as DeformRoIPool2d
    from dcn_deploy.nn.deform_roi_pool import ModulatedDeformRoIPool2d as ModulatedDeformRoIPool2d
    from dcn_deploy.nn.learning_rates import parameter_groups as parameter_groups
    from dcn_deploy.nn.offset_branch import PredictsOffsets as PredictsOffsets

_DEFINED_IN = {
    "DeformConv2d": "dcn_deploy.nn.deform_conv",
    "DeformRoIPool2d": "dcn_deploy.nn.deform_roi_pool",
    "ModulatedDeformConv2d": "dcn_deploy.nn.deform_conv",
    "ModulatedDeformRoIPool2d": "dcn_deploy.nn.deform_roi_pool",
    "PredictsOffsets": "dcn_deploy.nn.offset_branch",
    "parameter_groups": "dcn_deploy.nn.learning_rates",
}


def __getattr__(name: str) -> Any:
    if name in _DEFINED_IN:
        return getattr(importlib.import_module(_DEFINED_IN[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_DEFINED_IN])
