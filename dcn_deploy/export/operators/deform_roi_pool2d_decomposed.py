"""Deformable RoI pooling from ordinary ONNX operators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dcn_deploy.errors import UnsupportedError
from dcn_deploy.export.operators.base import NodeView

if TYPE_CHECKING:
    import onnx_ir as ir

    from dcn_deploy.export.expansion import Expansion

SINCE_OPSET = 16


def obstacle(view: NodeView) -> str | None:
    """Return why a node cannot be decomposed, with what to do; None if it can."""
    return "this version has no decomposition of the operator. The form plugin has it."


def largest_bytes(view: NodeView) -> int | None:
    """Size in bytes of the largest intermediate tensor; None if some extent is unknown."""
    return None


def decompose(view: NodeView, inputs: Mapping[str, ir.Value], expansion: Expansion) -> ir.Value:
    """Build the decomposition of one node and return its output [R, Cout, pH, pW]."""
    raise UnsupportedError(f"Node '{view.name}' cannot be decomposed: {obstacle(view)}")
