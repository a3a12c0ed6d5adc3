"""What part of a network's time its deformable operators take."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dcn_deploy.export.expansion import PART_OF, SHARED
from dcn_deploy.runtime.runner import NodeTime
from dcn_deploy.schema import BY_STANDARD_OP_TYPE, DOMAIN, OPERATORS


@dataclass(frozen=True)
class NodeSeconds:
    """What one node, or one layer of an engine, takes of a run.

    Attributes:
        name: as the runtime calls it.
        op_type: what the runtime executes.
        deformable: whether it is a deformable operator or a part of one.
        seconds: its time in one run.
    """

    name: str
    op_type: str
    deformable: bool
    seconds: float


@dataclass(frozen=True)
class DeformableShare:
    """Time of the deformable operators in one run.

    Attributes:
        nodes: number of graph nodes that belong to deformable operators.
        seconds: their time in one run.
        total_seconds: time of all nodes in one run.
        by_op_type: time in one run of each op_type, longest first.
        by_node: time in one run of each node, longest first.
    """

    nodes: int
    seconds: float
    total_seconds: float
    by_op_type: Mapping[str, float]
    by_node: tuple[NodeSeconds, ...] = ()

    @property
    def share(self) -> float:
        """Fraction of the nodes' time, 0 to 1."""
        return self.seconds / self.total_seconds if self.total_seconds else 0.0


def is_deformable(node: NodeTime) -> bool:
    """Say whether a node is a deformable operator, in any of the three forms, or a part of a decomposed one."""
    if node.domain == DOMAIN:
        return node.op_type in OPERATORS
    if node.domain == "" and node.op_type in BY_STANDARD_OP_TYPE:
        return True
    return PART_OF in node.metadata or SHARED in node.metadata


def deformable_share(nodes: Iterable[NodeTime], runs: int) -> DeformableShare:
    """Return what the deformable operators take of one run.

    A node's time is the median of its executions, times their number in a run: one run that was interrupted
    does not shift the shares.

    Args:
        nodes: from :meth:`Runner.node_times`.
        runs: number of runs that were recorded.
    """
    times = [(node, statistics.median(node.durations) * len(node.durations) / runs) for node in nodes if node.durations]
    by_op_type: dict[str, float] = {}
    for node, seconds in times:
        by_op_type[node.op_type] = by_op_type.get(node.op_type, 0.0) + seconds
    nodes_seconds = [NodeSeconds(node.name, node.op_type, is_deformable(node), seconds) for node, seconds in times]
    deformable = [node.seconds for node in nodes_seconds if node.deformable]
    return DeformableShare(
        nodes=len(deformable),
        seconds=sum(deformable),
        total_seconds=sum(seconds for _, seconds in times),
        by_op_type=dict(sorted(by_op_type.items(), key=lambda item: -item[1])),
        by_node=tuple(sorted(nodes_seconds, key=lambda node: -node.seconds)),
    )
