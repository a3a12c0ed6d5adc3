"""Times of an engine's layers, and which nodes of the ONNX file a layer does the work of.

TensorRT names a layer after the nodes that it fused into it: ``conv + relu``, ``PWN(mul, add)``, or for a region
``{ForeignNode[first...last]}``. An engine built with detailed profiling verbosity lists them in full, as
``[ONNX Layer: name]`` in the layer's metadata, which the engine inspector gives.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dcn_deploy.runtime.engine_metadata import NodeOrigin
from dcn_deploy.runtime.runner import NodeTime

if TYPE_CHECKING:
    from dcn_deploy.runtime.tensorrt_api import Api

#: What TensorRT calls a layer that only changes the layout of a tensor, for the sake of a neighbour.
_REFORMAT = "Reformatting CopyNode"


@dataclass
class LayerRecorder:
    """What TensorRT reported, run by run: (layer, seconds) in order of execution."""

    runs: list[list[tuple[str, float]]] = field(default_factory=list)

    def begin(self) -> None:
        """A run begins."""
        self.runs.append([])

    def add(self, layer: str, milliseconds: float) -> None:
        """A layer has run."""
        if self.runs:
            self.runs[-1].append((layer, milliseconds * 1e-3))


def profiler_of(trt: Any, recorder: LayerRecorder) -> Any:
    """Return an ``IProfiler`` that reports to ``recorder``."""

    class Profiler(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            recorder.add(layer_name, ms)

    return Profiler()


def layers_of(api: Api, engine: Any) -> tuple[Mapping[str, Any], ...]:
    """Return what the engine inspector says about each layer, at least its ``Name``; empty if it says nothing."""
    inspector = engine.create_engine_inspector()
    text = inspector.get_engine_information(api.trt.LayerInformationFormat.JSON)
    try:
        layers = json.loads(text)["Layers"]
    except (ValueError, KeyError, TypeError):
        # Without names of layers, in an engine built with no profiling verbosity, the text is none that can be read.
        return ()
    # An engine that is not built with detailed verbosity lists bare names.
    return tuple(layer if isinstance(layer, Mapping) else {"Name": str(layer)} for layer in layers)


class LayerOrigins:
    """Finds the node whose work a layer does.

    Args:
        layers: from :func:`layers_of`.
        nodes: those of the ONNX file that are worth finding.
    """

    def __init__(self, layers: Sequence[Mapping[str, Any]], nodes: Iterable[NodeOrigin]) -> None:
        self._layers = {str(layer.get("Name", "")): layer for layer in layers}
        self._nodes = {node.name: node for node in nodes}

    def time(self, layer: str, durations: Sequence[float]) -> NodeTime:
        """Return the times of a layer under the node that it stems from, if that is known."""
        about = self._layers.get(layer, {})
        kind = str(about.get("LayerType", "layer"))
        node = None
        if not layer.startswith(_REFORMAT):
            names = _names(layer, str(about.get("Metadata", "")))
            node = next((self._nodes[name] for name in names if name in self._nodes), None)
        if node is None:
            return NodeTime(layer, kind, "", {}, tuple(durations))
        return NodeTime(layer, node.op_type, node.domain, node.metadata, tuple(durations))


def _names(layer: str, metadata: str) -> list[str]:
    """Return the names of the ONNX nodes that a layer consists of, as far as it tells."""
    listed = re.findall(r"\[ONNX Layer: ([^\]]*)\]", metadata)
    if listed:
        return listed
    region = re.search(r"ForeignNode\[(.+)\.\.\.(.+)\]", layer)
    if region is not None:
        return [region[1], region[2]]
    parts = re.split(r"\s\+\s|,\s|PWN\(|\)", layer)
    return [layer, *(part.strip() for part in parts if part.strip())]


def node_times(recorder: LayerRecorder, origins: LayerOrigins, skip: int) -> tuple[NodeTime, ...]:
    """Return what each layer took, in order of execution.

    Args:
        recorder: the runs.
        origins: where the layers stem from.
        skip: number of runs at the beginning to leave out.
    """
    durations: dict[str, list[float]] = {}
    for run in recorder.runs[skip:]:
        for layer, seconds in run:
            durations.setdefault(layer, []).append(seconds)
    return tuple(origins.time(layer, seconds) for layer, seconds in durations.items())
