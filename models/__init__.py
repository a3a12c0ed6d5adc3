"""Networks that use the operators, under names the command line takes, and the benchmarks' shapes.

Three ways to name a network, all through :func:`resolve`: a name of this zoo, ``package.module:callable``
or ``path/to/file.py:callable``. Importing this package does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dcn_deploy._lazy import lazy_attributes

if TYPE_CHECKING:
    from .source import ResolvedModel as ResolvedModel
    from .source import resolve as resolve
    from .suite import SUITE as SUITE
    from .suite import ConvShape as ConvShape
    from .weights import load_weights as load_weights
    from .zoo import ZOO as ZOO
    from .zoo import Entry as Entry
    from .zoo import create as create
    from .zoo import entry as entry
    from .zoo import example_inputs as example_inputs
    from .zoo import names as names

_DEFINED_IN = {
    "ConvShape": "suite",
    "Entry": "zoo",
    "ResolvedModel": "source",
    "SUITE": "suite",
    "ZOO": "zoo",
    "create": "zoo",
    "entry": "zoo",
    "example_inputs": "zoo",
    "load_weights": "weights",
    "names": "zoo",
    "resolve": "source",
}

__getattr__, __dir__ = lazy_attributes(__name__, _DEFINED_IN)
