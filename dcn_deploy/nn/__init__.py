"""Layers that own the branch which predicts offsets (and the modulation mask)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dcn_deploy._lazy import lazy_attributes

if TYPE_CHECKING:
    from dcn_deploy.nn.deform_conv import DeformConv2d as DeformConv2d
    from dcn_deploy.nn.deform_conv import ModulatedDeformConv2d as ModulatedDeformConv2d
    from dcn_deploy.nn.deform_roi_pool import DeformRoIPool2d as DeformRoIPool2d
    from dcn_deploy.nn.deform_roi_pool import ModulatedDeformRoIPool2d as ModulatedDeformRoIPool2d
    from dcn_deploy.nn.learning_rates import parameter_groups as parameter_groups
    from dcn_deploy.nn.offset_branch import PredictsOffsets as PredictsOffsets

_DEFINED_IN = {
    "DeformConv2d": "deform_conv",
    "DeformRoIPool2d": "deform_roi_pool",
    "ModulatedDeformConv2d": "deform_conv",
    "ModulatedDeformRoIPool2d": "deform_roi_pool",
    "PredictsOffsets": "offset_branch",
    "parameter_groups": "learning_rates",
}

__getattr__, __dir__ = lazy_attributes(__name__, _DEFINED_IN)
