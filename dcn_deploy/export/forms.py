"""The three ways a deformable operator is written in an ONNX file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal, get_args

from dcn_deploy.errors import InvalidArgumentError, describe

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

#: plugin: a node of the domain ``dcn_deploy``. standard: the node of the ONNX standard that means the same.
#: decomposed: ordinary ONNX operators.
Form = Literal["plugin", "standard", "decomposed"]
FORMS: tuple[str, ...] = get_args(Form)


def check_form(form: str) -> None:
    """Raise for an unknown form.

    Raises:
        InvalidArgumentError: naming the forms.
    """
    if form not in FORMS:
        raise InvalidArgumentError(describe("form", expected=f"one of {', '.join(FORMS)}", actual=repr(form)))


def deformable_nodes(model: ir.Model) -> dict[str, list[ir.Node]]:
    """Return the model's deformable nodes by form; another project's nodes under ``"foreign"``.

    A node that was expanded into several counts once, as the last of them.
    """
    from dcn_deploy.export.expansion import ORIGINAL, PART_OF, Original
    from dcn_deploy.export.model_files import all_nodes
    from dcn_deploy.export.node_reading import schema_of
    from dcn_deploy.export.operators.mmdeploy import FOREIGN_OPERATORS
    from dcn_deploy.schema import DOMAIN

    found: dict[str, list[ir.Node]] = {}
    for node in all_nodes(model):
        if ORIGINAL in node.metadata_props:
            found.setdefault(Original(node).form, []).append(node)
        elif PART_OF in node.metadata_props:
            continue
        elif schema_of(node) is not None:
            found.setdefault("plugin" if node.domain == DOMAIN else "standard", []).append(node)
        elif (node.domain, node.op_type) in FOREIGN_OPERATORS:
            found.setdefault("foreign", []).append(node)
    return found


def form_of(model: onnx.ModelProto | str | os.PathLike[str]) -> str | None:
    """Return the form of a model's deformable nodes.

    Returns:
        ``"plugin"``, ``"standard"``, ``"decomposed"``; ``"foreign"`` for another project's nodes that
        :func:`dcn_deploy.export.convert` can read; ``"mixed"`` if there are several kinds; None if there is
        none.

    Raises:
        InvalidModelError: if the file cannot be read.
    """
    from dcn_deploy.export import model_files

    found = deformable_nodes(model_files.load(model))
    if not found:
        return None
    return next(iter(found)) if len(found) == 1 else "mixed"
