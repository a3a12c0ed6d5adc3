"""Does a deployed model compute what the network computes?

:func:`validate` runs candidates and a reference on the same feeds and judges every output by one table of
tolerances; :func:`first_divergence` names the node at which two runs part. Importing this package loads NumPy
at most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dcn_deploy._lazy import lazy_attributes

if TYPE_CHECKING:
    from dcn_deploy.validation import inputs as inputs
    from dcn_deploy.validation.comparison import Comparison as Comparison
    from dcn_deploy.validation.comparison import compare as compare
    from dcn_deploy.validation.files import validate_file as validate_file
    from dcn_deploy.validation.inputs import Feed as Feed
    from dcn_deploy.validation.inputs import Feeds as Feeds
    from dcn_deploy.validation.layers import Divergence as Divergence
    from dcn_deploy.validation.layers import first_divergence as first_divergence
    from dcn_deploy.validation.report import Report as Report
    from dcn_deploy.validation.run import validate as validate
    from dcn_deploy.validation.tolerances import TOLERANCES as TOLERANCES
    from dcn_deploy.validation.tolerances import Limit as Limit
    from dcn_deploy.validation.tolerances import Tolerance as Tolerance

_DEFINED_IN = {
    "Comparison": "comparison",
    "Divergence": "layers",
    "Feed": "inputs",
    "Feeds": "inputs",
    "Limit": "tolerances",
    "Report": "report",
    "TOLERANCES": "tolerances",
    "Tolerance": "tolerances",
    "compare": "comparison",
    "first_divergence": "layers",
    "validate": "run",
    "validate_file": "files",
}
_SUBMODULES = ("bounds", "comparison", "files", "golden", "inputs", "layers", "oracle", "report", "run", "tolerances")

__getattr__, __dir__ = lazy_attributes(__name__, _DEFINED_IN, _SUBMODULES)
