"""What the library chooses for the shapes of the suite, on a GPU that need not be there."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from benchmarks.gpu_check.engines import sizes_of
from benchmarks.gpu_check.native import How, Library, Plan, tile_name

#: An H100 SXM as the library asks for a device, and its highest clock in GHz.
H100 = {
    "compute_capability": 90,
    "multiprocessors": 132,
    "shared_bytes_per_block": 227 * 1024,
    "cluster_blocks": 8,
}
H100_GHZ = 1.98


def blocks(shape: Any, plan: Plan) -> int:
    """Blocks of a launch of a fused kernel.

    Args:
        shape: a ``ConvShape``.
        plan: for it.
    """
    tiles = math.ceil(shape.n * shape.out_h * shape.out_w / plan.tile[1])
    return tiles * math.ceil(shape.m / shape.group / plan.tile[0]) * shape.group * plan.splits


def markdown(
    library: Library, shapes: Iterable[Any], device: dict[str, int] | None = None, ghz: float = H100_GHZ
) -> str:
    """A table of the choices in float16, NHWC, with sums shared and without.

    Args:
        library: the kernels.
        shapes: ``ConvShape``; what the direct kernel takes is left out.
        device: as from :meth:`Library.device`; None for :data:`H100`.
        ghz: of its clock.
    """
    device = device or H100
    halves = ["tile / blocks of it", "blocks", "steps", "estimate, µs"]
    lines = ["| shape | " + " | ".join(halves + [f"alone: {title}" for title in ("tile", *halves[1:])]) + " |"]
    lines.append("|---" * (1 + 2 * len(halves)) + "|")
    for shape in shapes:
        cells = [f"`{shape.name}`"]
        for most in (device["cluster_blocks"], 1):
            plan = library.plan(sizes_of(shape), How("float16", "nhwc", "nhwc"), {**device, "cluster_blocks": most})
            steps = math.ceil(plan.info["steps"] / plan.splits)
            microseconds = plan.info["estimated_clocks"] / ghz / 1e3
            cells += [tile_name(plan.tile, plan.splits), str(blocks(shape, plan)), str(steps), f"{microseconds:.1f}"]
        if plan.algorithm != "direct":
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
