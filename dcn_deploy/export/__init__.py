"""From PyTorch to ONNX and between the forms of an ONNX file.

The package is itself callable: ``dcn_deploy.export(model, args, path)`` is
:func:`dcn_deploy.export.exporter.export`. Importing it loads neither torch nor onnx.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from dcn_deploy._lazy import lazy_attributes

if TYPE_CHECKING:
    from dcn_deploy.export.conversion import convert as convert
    from dcn_deploy.export.conversion import convert_file as convert_file
    from dcn_deploy.export.examples import example_inputs as example_inputs
    from dcn_deploy.export.exporter import ExportResult as ExportResult
    from dcn_deploy.export.exporter import export as export
    from dcn_deploy.export.forms import FORMS as FORMS
    from dcn_deploy.export.forms import form_of as form_of
    from dcn_deploy.export.linting import TARGETS as TARGETS
    from dcn_deploy.export.linting import Finding as Finding
    from dcn_deploy.export.linting import lint as lint
    from dcn_deploy.export.quantisation import Folding as Folding
    from dcn_deploy.export.quantisation import fold_quantisation as fold_quantisation
    from dcn_deploy.export.quantisation import unfold_quantisation as unfold_quantisation
    from dcn_deploy.export.shape_inference import infer_shapes as infer_shapes

_DEFINED_IN = {
    "ExportResult": "exporter",
    "FORMS": "forms",
    "Finding": "linting",
    "Folding": "quantisation",
    "TARGETS": "linting",
    "convert": "conversion",
    "convert_file": "conversion",
    "example_inputs": "examples",
    "export": "exporter",
    "fold_quantisation": "quantisation",
    "form_of": "forms",
    "infer_shapes": "shape_inference",
    "lint": "linting",
    "unfold_quantisation": "quantisation",
}
_SUBMODULES = ("metadata",)

__getattr__, __dir__ = lazy_attributes(__name__, _DEFINED_IN, _SUBMODULES)


class _CallableModule(ModuleType):
    """This package, which is a function as well: both names are fixed."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """See :func:`dcn_deploy.export.exporter.export`."""
        from dcn_deploy.export.exporter import export

        return export(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableModule
