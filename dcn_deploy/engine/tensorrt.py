"""Engines of TensorRT: built on the GPU that is to run them, deformable nodes as this project's plugins."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

from dcn_deploy.engine.builder import EngineBuilder
from dcn_deploy.engine.preparation import Prepared
from dcn_deploy.errors import BackendError, describe
from dcn_deploy.runtime import gpu
from dcn_deploy.runtime.engine_metadata import Device
from dcn_deploy.runtime.tensorrt_api import PluginLibrary


class TensorRtBuilder(EngineBuilder):
    """Builds with the package ``tensorrt``, 10.1 or later."""

    backend: ClassVar[str] = "tensorrt"

    def device(self) -> Device | None:
        """Return the GPU of this machine; see :meth:`EngineBuilder.device`."""
        found = gpu.find()
        if found is None:
            raise BackendError(
                describe(
                    f"GPU to build an engine of {self.api.title} on",
                    expected="an NVIDIA GPU with its driver",
                    actual="none",
                    remedy="Build on the machine that is to run the engine. TensorRT-RTX builds without a GPU: "
                    "--backend tensorrt-rtx.",
                )
            )
        return found

    def prepare_registry(self, prepared: Prepared) -> PluginLibrary | None:
        """Load the project's plugins, or TensorRT's own for the form standard."""
        if prepared.form == "standard":
            self.api.register_stock_plugins()
        return self.api.load_plugins() if prepared.has_plugins else None

    def configure(self, config: Any) -> None:
        """Set compatibility and timing cache."""
        trt, options = self.api.trt, self.options
        if options.version_compatible:
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        level = getattr(trt.HardwareCompatibilityLevel, options.hardware_compatibility.upper(), None)
        if level is None:
            raise BackendError(
                describe(
                    f"level of hardware compatibility in {self.api.title}",
                    expected="one that it has",
                    actual=options.hardware_compatibility,
                    remedy="Update TensorRT, or leave the option out.",
                )
            )
        config.hardware_compatibility_level = level
        if options.timing_cache is not None:
            self._use_timing_cache(config, options.timing_cache)

    def _use_timing_cache(self, config: Any, path: Path) -> None:
        content = path.read_bytes() if path.is_file() else b""
        cache = config.create_timing_cache(content)
        if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
            raise BackendError(
                describe(
                    f"timing cache '{path}'",
                    expected=f"one of {self.api.title} on this GPU",
                    actual="another one, or no timing cache",
                    remedy="Name another file; it is written after the build.",
                )
            )

    def finished(self, config: Any) -> tuple[str, ...]:
        """Write the timing cache, all of it or nothing; see :meth:`EngineBuilder.finished`."""
        path = self.options.timing_cache
        if path is None:
            return ()
        cache = config.get_timing_cache()
        content = None if cache is None else cache.serialize()
        if content is None:
            return (f"The timing cache '{path}' was not written: {self.api.title} gives none.",)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            try:
                temporary.write_bytes(bytes(memoryview(content)))
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            return (f"The timing cache '{path}' was not written: {error}.",)
        return ()
