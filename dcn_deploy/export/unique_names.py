"""Names that a model does not have yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir


class UniqueNames:
    """Gives out names for new values and nodes.

    Args:
        model: the one that gets them; None for a scrap of a graph, where names need only differ from each other.
    """

    def __init__(self, model: ir.Model | None = None) -> None:
        self._taken: set[str] = set()
        for graph in () if model is None else model.graphs():
            self._taken.update(value.name for value in graph.inputs if value.name)
            self._taken.update(graph.initializers)
            for node in graph:
                self._taken.update(name for name in (node.name, *(value.name for value in node.outputs)) if name)

    def new(self, wish: str) -> str:
        """Return ``wish``, or with a number appended if the model has it already, and take it."""
        name, number = wish, 1
        while name in self._taken:
            name, number = f"{wish}_{number}", number + 1
        self._taken.add(name)
        return name
