"""How fast a deployed network is: latency, throughput, memory, and what the deformable nodes take of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dcn_deploy._lazy import lazy_attributes

if TYPE_CHECKING:
    from dcn_deploy.profiling.deformable import DeformableShare as DeformableShare
    from dcn_deploy.profiling.deformable import NodeSeconds as NodeSeconds
    from dcn_deploy.profiling.deformable import deformable_share as deformable_share
    from dcn_deploy.profiling.deformable import is_deformable as is_deformable
    from dcn_deploy.profiling.machine import describe_machine as describe_machine
    from dcn_deploy.profiling.memory import PeakMemory as PeakMemory
    from dcn_deploy.profiling.memory import peak_memory as peak_memory
    from dcn_deploy.profiling.profiler import profile as profile
    from dcn_deploy.profiling.report import Report as Report
    from dcn_deploy.profiling.report import Row as Row
    from dcn_deploy.profiling.report import SelfCheck as SelfCheck
    from dcn_deploy.profiling.statistics import Summary as Summary
    from dcn_deploy.profiling.statistics import summarize as summarize
    from dcn_deploy.profiling.timing import Method as Method
    from dcn_deploy.profiling.timing import Samples as Samples
    from dcn_deploy.profiling.timing import let_idle_threads_sleep as let_idle_threads_sleep
    from dcn_deploy.profiling.timing import measure as measure

_DEFINED_IN = {
    "DeformableShare": "deformable",
    "Method": "timing",
    "NodeSeconds": "deformable",
    "PeakMemory": "memory",
    "Report": "report",
    "Row": "report",
    "Samples": "timing",
    "SelfCheck": "report",
    "Summary": "statistics",
    "deformable_share": "deformable",
    "describe_machine": "machine",
    "is_deformable": "deformable",
    "let_idle_threads_sleep": "timing",
    "measure": "timing",
    "peak_memory": "memory",
    "profile": "profiler",
    "summarize": "statistics",
}

__getattr__, __dir__ = lazy_attributes(__name__, _DEFINED_IN)
