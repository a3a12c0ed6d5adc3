"""Runtimes behind one interface: ``create(backend, model)`` gives a :class:`Runner` to activate, infer and close.

One module per runtime; :data:`BACKENDS` is the table of them. Importing this package loads no runtime.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dcn_deploy._lazy import lazy_attributes

if TYPE_CHECKING:
    from dcn_deploy.runtime.backends import BACKENDS as BACKENDS
    from dcn_deploy.runtime.backends import Availability as Availability
    from dcn_deploy.runtime.backends import Backend as Backend
    from dcn_deploy.runtime.backends import availability as availability
    from dcn_deploy.runtime.backends import create as create
    from dcn_deploy.runtime.runner import NodeTime as NodeTime
    from dcn_deploy.runtime.runner import Runner as Runner
    from dcn_deploy.runtime.runner import RunnerOptions as RunnerOptions
    from dcn_deploy.runtime.runner import TensorSpec as TensorSpec

_DEFINED_IN = {
    "Availability": "backends",
    "BACKENDS": "backends",
    "Backend": "backends",
    "NodeTime": "runner",
    "Runner": "runner",
    "RunnerOptions": "runner",
    "TensorSpec": "runner",
    "availability": "backends",
    "create": "backends",
}

__getattr__, __dir__ = lazy_attributes(__name__, _DEFINED_IN)
