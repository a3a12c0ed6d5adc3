"""Element types and shapes of every value, those of deformable nodes included."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from dcn_deploy.export import model_files, onnx_schema

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir


def infer_shapes(model: onnx.ModelProto | str | os.PathLike[str]) -> onnx.ModelProto:
    """Return a copy of a model with types and shapes inferred through deformable nodes too.

    The output of a deformable convolution has N of X, M of W, and Ho, Wo from X and the attributes; where X is
    dynamic, the names that the offset has there. That of a RoI pooling has R of rois, and its other extents from the
    attributes and C.

    Args:
        model: the model, or the path of one. It is not changed.

    Raises:
        InvalidModelError: if the file cannot be read.
    """
    loaded = model_files.load(model)
    infer(loaded)
    return model_files.to_proto(loaded)


def infer(model: ir.Model) -> None:
    """Infer types and shapes in place."""
    from onnx_ir.passes.common import ShapeInferencePass

    onnx_schema.register()
    # Not strict: an operator unknown to the onnx package ends the inference only behind itself.
    ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)
