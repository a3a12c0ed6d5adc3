"""Deformable operators that an ONNX graph holds in decomposed form, found by what the exporter wrote on their nodes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dcn_deploy.export.expansion import ORIGINAL, PART_OF, ROLE

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Expanded:
    """One operator of this project, written as several ordinary ones.

    Attributes:
        op_type: the operator.
        output: its output, which the last node makes.
        inner: the outputs of the other nodes, which are nobody else's.
        inputs: the tensors that it reads, by the names of the operator's schema; those that could be found.
        shapes: what the exporter knew of their extents: numbers, or names.
        dtypes: the same of their element types, by NumPy's names.
    """

    op_type: str
    output: str
    inner: frozenset[str]
    inputs: Mapping[str, str]
    shapes: Mapping[str, list[int | str | None] | None]
    dtypes: Mapping[str, str | None]


def expanded_operators(nodes: Iterable[onnx.NodeProto]) -> list[Expanded]:
    """Return the operators in decomposed form among the nodes of one graph, in the graph's order.

    One whose metadata another tool has changed or dropped is not among them: its nodes are then what they look like.
    """
    parts: dict[str, dict[str, onnx.NodeProto]] = {}
    last: list[tuple[onnx.NodeProto, str]] = []
    for node in nodes:
        metadata = {entry.key: entry.value for entry in node.metadata_props}
        if PART_OF in metadata and ROLE in metadata:
            parts.setdefault(metadata[PART_OF], {})[metadata[ROLE]] = node
        if ORIGINAL in metadata:
            last.append((node, metadata[ORIGINAL]))
    found = []
    for node, text in last:
        try:
            original = json.loads(text)
            own = parts[original["part"]]
            inputs = {
                tensor: own[role].input[position]
                for tensor, (role, position) in original["inputs"].items()
                if role in own and position < len(own[role].input)
            }
            found.append(
                Expanded(
                    op_type=original["op_type"],
                    output=node.output[0],
                    inner=frozenset(name for part in own.values() if part is not node for name in part.output),
                    inputs=inputs,
                    shapes=dict(original["shapes"]),
                    dtypes=dict(original["dtypes"]),
                )
            )
        except (KeyError, TypeError, ValueError, IndexError):
            continue
    return found
