"""The table of operators, under the name by which users of :mod:`dcn_deploy.ops` look for it.

The rows themselves are in :mod:`dcn_deploy.schema`, which needs no torch: what reads ONNX files
(convert, lint) imports that one.
"""

from __future__ import annotations

from dcn_deploy.schema import (
    BY_STANDARD_OP_TYPE as BY_STANDARD_OP_TYPE,
)
from dcn_deploy.schema import (
    BY_TORCH_NAME as BY_TORCH_NAME,
)
from dcn_deploy.schema import (
    DEFORM_CONV2D as DEFORM_CONV2D,
)
from dcn_deploy.schema import (
    DEFORM_ROI_POOL2D as DEFORM_ROI_POOL2D,
)
from dcn_deploy.schema import (
    DOMAIN as DOMAIN,
)
from dcn_deploy.schema import (
    DOMAIN_VERSION as DOMAIN_VERSION,
)
from dcn_deploy.schema import (
    OPERATORS as OPERATORS,
)
