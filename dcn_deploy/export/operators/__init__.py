"""The table of operators that export, convert and lint handle, by ONNX op_type.

A new operator is a module with its row and its decomposition here, and a row in :mod:`dcn_deploy.schema`.
"""

from __future__ import annotations

from dcn_deploy.export.operators.base import OperatorExport
from dcn_deploy.export.operators.deform_conv2d import DEFORM_CONV2D_EXPORT
from dcn_deploy.export.operators.deform_roi_pool2d import DEFORM_ROI_POOL2D_EXPORT

OPERATOR_EXPORTS: dict[str, OperatorExport] = {
    row.schema.op_type: row for row in (DEFORM_CONV2D_EXPORT, DEFORM_ROI_POOL2D_EXPORT)
}
