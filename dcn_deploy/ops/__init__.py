"""The operators in PyTorch.

Importing this package registers the torch operators (``torch.ops.dcn_deploy.*``). Where torch is not
installed the import still succeeds, so that the rest can be looked at, and the first use of an operator
says what is missing.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING

from dcn_deploy._lazy import lazy_attributes

if TYPE_CHECKING:
    from dcn_deploy.ops.functional import deform_conv2d as deform_conv2d
    from dcn_deploy.ops.functional import deform_roi_pool as deform_roi_pool

_DEFINED_IN = {"deform_conv2d": "functional", "deform_roi_pool": "functional"}
_SUBMODULES = ("functional", "geometry", "reference", "schema")


def _torch_is_installed() -> bool:
    try:
        return importlib.util.find_spec("torch") is not None
    except (ImportError, ValueError):
        return False


if _torch_is_installed():
    # Registration must not wait for the first attribute access: a program may import this package only
    # to make torch.ops.dcn_deploy or a saved torch.export program work.
    importlib.import_module("dcn_deploy.ops.functional")

__getattr__, __dir__ = lazy_attributes(__name__, _DEFINED_IN, _SUBMODULES)
