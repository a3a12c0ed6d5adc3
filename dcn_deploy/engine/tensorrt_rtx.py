"""Engines of TensorRT-RTX: built for a list of GPUs without needing one, deformable nodes decomposed."""

from __future__ import annotations

from typing import Any, ClassVar

from dcn_deploy.engine.builder import EngineBuilder
from dcn_deploy.engine.preparation import Prepared
from dcn_deploy.errors import BackendError, UnsupportedError, describe
from dcn_deploy.runtime.engine_metadata import Capability, Device, text
from dcn_deploy.runtime.tensorrt_api import PluginLibrary

#: What the members of ``ComputeCapability`` are called: SM89 for (8, 9), SM120 for (12, 0).
_PREFIX = "SM"


class TensorRtRtxBuilder(EngineBuilder):
    """Builds with the package ``tensorrt_rtx``."""

    backend: ClassVar[str] = "tensorrt-rtx"

    def device(self) -> Device | None:
        """Return None: which GPU this machine has does not matter."""
        return None

    def prepare_registry(self, prepared: Prepared) -> PluginLibrary | None:
        """Do nothing: there are no plugins."""
        return None

    def configure(self, config: Any) -> None:
        """Set the compute capabilities to build for."""
        wanted = self.options.capabilities
        if not wanted:
            return
        members = {capability: self._member(capability) for capability in wanted}
        config.num_compute_capabilities = len(wanted)
        for index, capability in enumerate(wanted):
            if not config.set_compute_capability(members[capability], index):
                raise BackendError(f"{self.api.title} refuses compute capability {text(capability)}.")

    def _member(self, capability: Capability) -> Any:
        kind = self.api.trt.ComputeCapability
        member = getattr(kind, f"{_PREFIX}{capability[0]}{capability[1]}", None)
        if member is None:
            raise UnsupportedError(
                describe(
                    f"compute capability to build for with {self.api.title}",
                    expected=f"one of {', '.join(map(text, self.known()))}",
                    actual=text(capability),
                    remedy="For other GPUs build with --backend tensorrt on such a machine.",
                )
            )
        return member

    def known(self) -> list[Capability]:
        """Return the compute capabilities that can be built for, lowest first."""
        names = [name.removeprefix(_PREFIX) for name in dir(self.api.trt.ComputeCapability) if name.startswith(_PREFIX)]
        # The last digit is the minor version.
        return sorted((int(name[:-1]), int(name[-1])) for name in names if name.isdigit())

    def finished(self, config: Any) -> tuple[str, ...]:
        """Do nothing: there is no timing cache to keep."""
        return ()
