"""``build_engine``: an ONNX file → an engine of TensorRT or TensorRT-RTX, with its sidecar."""

from __future__ import annotations

import os
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dcn_deploy.engine import layers, parsing
from dcn_deploy.engine.options import BuildOptions
from dcn_deploy.engine.preparation import Prepared, prepare
from dcn_deploy.engine.progress import Advance, Progress, monitor, stopped_by_signal
from dcn_deploy.engine.shapes import Profile, check_profiles
from dcn_deploy.errors import BackendError, InvalidArgumentError, describe
from dcn_deploy.runtime import onnx_model, tensorrt_api
from dcn_deploy.runtime.engine_metadata import Device, EngineMetadata, Range, deformable, file_hash, text
from dcn_deploy.runtime.tensorrt_api import Api, Messages, PluginLibrary

if TYPE_CHECKING:
    from rich.console import RenderableType

#: Module and class of each backend's builder.
_BUILDERS = {
    "tensorrt": ("dcn_deploy.engine.tensorrt", "TensorRtBuilder"),
    "tensorrt-rtx": ("dcn_deploy.engine.tensorrt_rtx", "TensorRtRtxBuilder"),
}

# How many of TensorRT's warnings are shown in the table.
_SHOWN_WARNINGS = 5


@dataclass(frozen=True)
class BuildResult:
    """What :func:`build_engine` made.

    Attributes:
        path: the engine.
        sidecar: the file beside it that says what it is.
        metadata: what the sidecar holds.
        warnings: what lint and TensorRT warn of.
        layers: what the engine inspector says of each layer; None where the engine could not be loaded.
        layers_missing: why there are no layers; empty if there are.
    """

    path: Path
    sidecar: Path
    metadata: EngineMetadata
    warnings: tuple[str, ...]
    layers: tuple[dict[str, Any], ...] | None
    layers_missing: str

    def to_json(self) -> dict[str, Any]:
        """Return the same as plain Python values."""
        return {
            "schema": "dcn_deploy.build/1",
            "path": str(self.path),
            "sidecar": str(self.sidecar),
            **self.metadata.to_json(),
            "warnings": list(self.warnings),
            "layers": None if self.layers is None else list(self.layers),
            "layers_missing": self.layers_missing,
        }

    def to_table(self) -> RenderableType:
        """Return a table for ``rich``."""
        from dcn_deploy.export.model_files import summary

        metadata = self.metadata
        title = tensorrt_api.PACKAGES[metadata.backend].title
        rows: dict[str, Any] = {
            "engine": self.path,
            "size": f"{metadata.engine_bytes / 1024**2:.1f} MiB",
            "built by": f"{title} {metadata.version} in {metadata.build_seconds:.1f} s",
            "form": metadata.form or "no deformable nodes",
            "precision": f"{metadata.precision}, TF32 {'allowed' if metadata.options.get('tf32') else 'off'}",
            "GPUs": self._gpus(),
        }
        for number, profile in enumerate(metadata.profiles, 1):
            rows[f"profile {number}"] = ", ".join(_range_text(name, range_) for name, range_ in profile.items())
        rows["layers"] = self.layers_missing if self.layers is None else str(len(self.layers))
        for number, warning in enumerate(self.warnings[:_SHOWN_WARNINGS], 1):
            rows[f"warning {number}"] = warning
        if len(self.warnings) > _SHOWN_WARNINGS:
            rows["more warnings"] = f"{len(self.warnings) - _SHOWN_WARNINGS}, in the report of --json"
        return summary(rows)

    def _gpus(self) -> str:
        metadata = self.metadata
        if metadata.capabilities:
            return f"compute capability {', '.join(map(text, metadata.capabilities))}"
        if metadata.device is not None:
            level = metadata.hardware_compatibility
            wider = f", hardware compatibility {level}" if level != "none" else ""
            return f"{metadata.device.name} (compute capability {text(metadata.device)}){wider}"
        return "the builder's choice: no compute capability was asked for"


def _range_text(name: str, range_: Range) -> str:
    shapes = ["×".join(map(str, shape)) for shape in range_]
    return f"{name} {shapes[0]}" if len(set(shapes)) == 1 else f"{name} {shapes[0]} to {shapes[2]}, best {shapes[1]}"


def build_engine(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    backend: str,
    form: str | None = None,
    profiles: Sequence[Profile] = (),
    options: BuildOptions | None = None,
    progress: Advance | None = None,
) -> BuildResult:
    """Build an engine from an ONNX file, and write it with its sidecar ``<output>.json``.

    The types of the network's tensors are those of the file (a strongly typed network): see ``convert --precision``.

    Args:
        model: the ONNX file; its deformable nodes may have any form.
        output: the engine file. It is replaced only once the new one is complete.
        backend: ``"tensorrt"`` or ``"tensorrt-rtx"``.
        form: form of the deformable nodes in the engine; None for the backend's own (``plugin``, ``decomposed``).
        profiles: ranges (smallest, optimal, largest shape) of the dynamic inputs, one entry a profile.
        options: what else the builder is asked for.
        progress: called as ``progress(done, total, text)`` while TensorRT works; what it raises ends the build.

    Returns:
        What was written.

    Raises:
        MissingDependencyError: if the backend's package is not installed.
        LibraryNotBuiltError: if the engine needs the plugin library, and it is not part of this installation.
        InvalidArgumentError: for a wrong option, form, output path, or shapes that do not fit the network.
        ModelSourceError: if there is no such file.
        InvalidModelError: if the file, or the file of its weights, cannot be read.
        UnsupportedError: if the backend cannot do what is asked, or cannot run something in the file.
        BackendError: if TensorRT cannot read the network or build the engine; the message has its reasons.
    """
    if backend not in _BUILDERS:
        raise InvalidArgumentError(describe("backend", expected=f"one of {', '.join(_BUILDERS)}", actual=repr(backend)))
    path = _check_output(output, model)
    module, name = _BUILDERS[backend]
    builder_class = getattr(import_module(module), name)
    maker: EngineBuilder = builder_class(options or BuildOptions())
    return maker.build(Path(model), path, form, profiles, progress)


def _check_output(output: str | os.PathLike[str], model: str | os.PathLike[str]) -> Path:
    path = Path(output)
    if path.is_dir() or not path.absolute().parent.is_dir():
        actual = f"the folder '{path}'" if path.is_dir() else f"'{path}'"
        raise InvalidArgumentError(describe("output", expected="a file in an existing folder", actual=actual))
    if path.suffix == ".onnx" or path.absolute() == Path(model).absolute():
        raise InvalidArgumentError(
            describe("output", expected="a name for the engine, such as model.engine", actual=f"'{path}'")
        )
    return path


class EngineBuilder(ABC):
    """Builds engines with one of the two packages. What differs between them is in the derived classes.

    Args:
        options: what the builder is asked for.

    Raises:
        MissingDependencyError: if the package is not installed.
        UnsupportedError: if the package cannot do what is asked.
    """

    #: The backend's name.
    backend: ClassVar[str]

    def __init__(self, options: BuildOptions) -> None:
        options.check(tensorrt_api.PACKAGES[self.backend])
        self.options = options
        self.api: Api = tensorrt_api.load(self.backend, "dcn-deploy build")

    @abstractmethod
    def device(self) -> Device | None:
        """Return the GPU that the engine is built on; None if none is needed and none is there.

        Raises:
            BackendError: if one is needed and there is none.
        """

    @abstractmethod
    def prepare_registry(self, prepared: Prepared) -> PluginLibrary | None:
        """Load the plugins that the network needs, and return the project's library if it is one of them."""

    @abstractmethod
    def configure(self, config: Any) -> None:
        """Set what only this package has."""

    @abstractmethod
    def finished(self, config: Any) -> tuple[str, ...]:
        """Keep what else is worth keeping of a build whose engine is written.

        Returns:
            Warnings of what could not be kept; nothing is raised for that.
        """

    def build(
        self, model: Path, output: Path, form: str | None, profiles: Sequence[Profile], advance: Advance | None
    ) -> BuildResult:
        """Build one engine; see :func:`build_engine`."""
        # Before the file is read, so that a change during the build is noticed.
        source_sha256 = onnx_model.source_hash(model, "dcn-deploy build")
        prepared = prepare(model, self.api.package, form=form, tf32=self.options.tf32)
        checked = check_profiles(profiles, prepared.inputs)
        device = self.device()
        progress = Progress(advance)
        began = time.perf_counter()
        with self.api.listening() as messages:
            plugins = self.prepare_registry(prepared)
            plan, config = self._plan(prepared, checked, progress, messages)
        seconds = time.perf_counter() - began
        _write(plan, output)
        sha256, size = file_hash(output)
        metadata = EngineMetadata(
            backend=self.backend,
            version=self.api.version,
            plugins=None if plugins is None else plugins.version,
            source=model.name,
            source_sha256=source_sha256,
            form=prepared.form,
            precision=prepared.precision,
            inputs=prepared.inputs,
            outputs=prepared.outputs,
            profiles=checked,
            engine_sha256=sha256,
            engine_bytes=size,
            build_seconds=round(seconds, 3),
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            options=self.options.to_json(),
            nodes=deformable(prepared.nodes()),
            device=device,
            capabilities=self.options.capabilities,
            hardware_compatibility=self.options.hardware_compatibility,
            version_compatible=self.options.version_compatible,
        )
        sidecar = metadata.write(output)
        kept = self.finished(config)
        del config  # and with it the builder, before the engine is loaded
        found, missing = layers.inspect(self.api, plan, device, version_compatible=self.options.version_compatible)
        warnings = (*prepared.remarks, *kept, *messages.warnings)
        return BuildResult(output, sidecar, metadata, warnings, found, missing)

    def _plan(
        self, prepared: Prepared, profiles: Sequence[dict[str, Range]], progress: Progress, messages: Messages
    ) -> tuple[Any, Any]:
        """Return (the serialised engine, as something with a buffer; the configuration that built it)."""
        trt, source = self.api.trt, prepared.source.name
        builder = self._created(lambda: trt.Builder(self.api.logger), "a builder", messages)
        network = self._created(lambda: builder.create_network(self._network_flags()), "a network", messages)
        parser = self._created(lambda: trt.OnnxParser(network, self.api.logger), "a parser", messages)
        parsing.check_operators(self.api, parser, prepared.operators)
        with tempfile.TemporaryDirectory(prefix="dcn_deploy-build-") as folder:
            parsing.parse(self.api, parser, prepared.write(Path(folder)), source, messages)
            prepared.retype(parsing.element_types(network))
            config = self._created(builder.create_builder_config, "a configuration", messages)
            self._configure(config, builder, profiles)
            config.progress_monitor = reporting = monitor(self.api, progress)
            with self.api.listening() as said, stopped_by_signal(progress):
                plan = builder.build_serialized_network(network, config)
            del reporting
        if progress.stopped_by is not None:
            raise progress.stopped_by
        if plan is None:
            raise self.api.error(f"it cannot build an engine from '{source}'", said, self._advice(said))
        return plan, config

    def _created(self, make: Any, what: str, messages: Messages) -> Any:
        try:
            made = make()
        except TypeError as error:  # how the bindings say that TensorRT returned nothing
            raise self.api.error(f"it cannot make {what} ({error})", messages) from error
        if made is None:
            raise self.api.error(f"it cannot make {what}", messages)
        return made

    def _network_flags(self) -> int:
        """Ask for a strongly typed network where that has to be asked for; TensorRT 11 knows no other kind."""
        flags = getattr(self.api.trt, "NetworkDefinitionCreationFlag", None)
        strong = getattr(flags, "STRONGLY_TYPED", None)
        return 0 if strong is None else 1 << int(strong)

    def _configure(self, config: Any, builder: Any, profiles: Sequence[dict[str, Range]]) -> None:
        trt, options = self.api.trt, self.options
        if options.optimization_level is not None:
            config.builder_optimization_level = options.optimization_level
        if options.workspace is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace)
        if options.tf32:
            config.set_flag(trt.BuilderFlag.TF32)
        else:
            config.clear_flag(trt.BuilderFlag.TF32)
        verbosity = trt.ProfilingVerbosity
        config.profiling_verbosity = verbosity.DETAILED if options.detailed else verbosity.LAYER_NAMES_ONLY
        for number, ranges in enumerate(profiles, 1):
            profile = builder.create_optimization_profile()
            for name, (low, best, high) in ranges.items():
                profile.set_shape(name, low, best, high)
            if config.add_optimization_profile(profile) < 0:
                raise BackendError(f"{self.api.title} refuses profile {number}: {profile_text(ranges)}.")
        self.configure(config)

    def _advice(self, messages: Messages) -> str:
        said = " ".join(messages.errors)
        return next((advice for words, advice in _ADVICE if words in said), "")


# What TensorRT says when it cannot build, and what to do about it. The first row whose words are in the text counts.
_ADVICE = (
    (
        "for Turing (SM75)",
        "Compute capability 7.5 lacks kernels that this network needs: leave 7.5 out, or convert the network first: "
        "dcn-deploy convert --precision fp16.",
    ),
    (
        "libnvinfer_lean",
        "A version-compatible engine holds TensorRT's lean runtime: install it (tensorrt_lean), or leave "
        "--version-compatible out.",
    ),
    ("insufficient workspace", "Give more with --workspace, or leave that option out."),
    (
        "Could not find any implementation",
        "Give more with --workspace, a higher --optimization-level, or smaller shapes.",
    ),
)


def profile_text(ranges: dict[str, Range]) -> str:
    """Return the ranges of a profile for a message."""
    return ", ".join(_range_text(name, range_) for name, range_ in ranges.items())


def _write(plan: Any, path: Path) -> None:
    """Write an engine, all of it or nothing."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(memoryview(plan))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
