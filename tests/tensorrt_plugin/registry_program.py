"""Run in a process of its own by the tests, since a plugin registry is one for the whole process.

Reads a request as JSON, loads the plugin library into the real registry of one of NVIDIA's packages, does what is asked
with real field collections, and writes what came of it as JSON. Messages of the library go to standard error.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

import numpy as np


class Session:
    """The registry of ``module`` with the library loaded."""

    def __init__(self, module: str, library: str) -> None:
        self.trt: Any = importlib.import_module(module)
        self.registry = self.trt.get_plugin_registry()
        self.library = library
        self.handle = self.registry.load_library(library)
        # A field points into the array that it was made of, and does not keep it.
        self.values: list[Any] = []

    def found(self) -> list[list[str]]:
        """Name, version, namespace and kind of our creators."""
        kinds = [[c.name, c.plugin_version, c.plugin_namespace, type(c).__name__] for c in self.registry.all_creators]
        return sorted(kind for kind in kinds if kind[0].startswith("Deform"))

    def field_names(self, op_type: str, namespace: str) -> list[str]:
        return [field.name for field in self.registry.get_creator(op_type, "1", namespace).field_names]

    def missing(self, op_type: str, version: str, namespace: str) -> bool:
        return self.registry.get_creator(op_type, version, namespace) is None

    def create(self, op_type: str, namespace: str, fields: dict[str, Any], phase: str) -> dict[str, Any] | None:
        """The parts of a plugin with ``fields``; None if it was refused."""
        trt = self.trt
        creator = self.registry.get_creator(op_type, "1", namespace)
        collection = trt.PluginFieldCollection([self._field(name, value) for name, value in fields.items()])
        plugin = creator.create_plugin("a layer", collection, getattr(trt.TensorRTPhase, phase))
        if plugin is None:
            return None
        core, build, runtime = (
            plugin.get_capability_interface(getattr(trt.PluginCapabilityType, name))
            for name in ("CORE", "BUILD", "RUNTIME")
        )
        return {
            "kinds": [part.interface_info.kind for part in (plugin, core, build, runtime)],
            "name": [core.plugin_name, core.plugin_version, core.plugin_namespace],
            "outputs": build.num_outputs,
            "metadata": build.metadata_string,
            "timing_cache_id": build.timing_cache_id,
        }

    def deregister(self) -> list[list[str]]:
        self.registry.deregister_library(self.handle)
        return self.found()

    def load_again(self) -> list[list[str]]:
        self.handle = self.registry.load_library(self.library)
        return self.found()

    def _field(self, name: str, value: Any) -> Any:
        types = self.trt.PluginFieldType
        if isinstance(value, str):
            kind, values = types.CHAR, np.frombuffer(value.encode(), np.int8)
        elif np.asarray(value).dtype.kind == "f":
            kind, values = types.FLOAT32, np.atleast_1d(np.asarray(value, np.float32))
        else:
            kind, values = types.INT32, np.atleast_1d(np.asarray(value, np.int32))
        self.values.append(values)
        return self.trt.PluginField(name, values, kind)


def main() -> None:
    request = json.load(sys.stdin)
    session = Session(request["module"], request["library"])
    json.dump([getattr(session, name)(*arguments) for name, *arguments in request["steps"]], sys.stdout)


main()
