"""What is known about an engine beside the engine: ``model.engine.json``, written by ``build``, checked before use.

TensorRT's plan file says little about itself, and what it does not like ends in one line of its log. The sidecar says
what the engine was made from, with what and for which GPUs, so that an engine that cannot run here is refused with a
reason, and one whose network changed since is noticed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcn_deploy.boxes import Boxes
from dcn_deploy.errors import BackendError, InvalidArgumentError, InvalidModelError, describe
from dcn_deploy.runtime.runner import TensorSpec
from dcn_deploy.runtime.tensorrt_api import PACKAGES, version_numbers
from dcn_deploy.schema import BY_STANDARD_OP_TYPE, DOMAIN

if TYPE_CHECKING:
    import numpy as np

#: Version of the sidecar's format: raised when a field changes its meaning.
FORMAT = 1
#: What a sidecar's name ends with, after the engine's own.
SUFFIX = ".json"

#: Extents of an input, as (smallest, optimal, largest) shapes.
Range = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
#: Compute capability of a GPU: (8, 9).
Capability = tuple[int, int]

#: Domain of the standard operators, as files write it.
_STANDARD = ("", "ai.onnx")
#: Number of leading parts of a version that a plan file is bound to.
_VERSION_PARTS = 3
#: Lowest compute capability for a level of hardware compatibility that spans generations.
_AT_LEAST: Mapping[str, Capability] = {"ampere_plus": (8, 0)}


@dataclass(frozen=True)
class Device:
    """A GPU.

    Attributes:
        name: as its driver calls it.
        capability: compute capability.
    """

    name: str
    capability: Capability


@dataclass(frozen=True)
class NodeOrigin:
    """A deformable operator, or a part of a decomposed one, in the ONNX file that the parser read.

    Attributes:
        name: the node's name, after which TensorRT names the layer.
        op_type: its type.
        domain: its domain.
        metadata: its ``metadata_props`` of this project.
    """

    name: str
    op_type: str
    domain: str
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class EngineMetadata:
    """What a sidecar holds.

    Attributes:
        backend: ``"tensorrt"`` or ``"tensorrt-rtx"``.
        version: version of the package that built the engine.
        plugins: version of this project's plugin library that the engine calls; None if it calls none.
        source: name of the ONNX file that was given, without its folder.
        source_sha256: hash of that file and its external data; see :func:`dcn_deploy.runtime.onnx_model.source_hash`.
        form: form of the deformable nodes in what the parser read; None if there are none.
        precision: of the network, as ``convert --precision`` names it.
        inputs: what the engine takes: names, dtypes and shapes, dynamic extents by name.
        outputs: what it gives.
        profiles: for each optimisation profile, the range of each input with dynamic extents; empty if all are fixed.
        options: what else the builder was asked for, as plain values.
        nodes: the deformable nodes of what the parser read, to find them again among the engine's layers.
        device: the GPU that the engine was built on; None if there was none.
        capabilities: compute capabilities that the engine was built for; empty where the builder chose.
        hardware_compatibility: ``"none"``, ``"same_compute_capability"`` or ``"ampere_plus"``.
        version_compatible: whether later versions of the package may run it.
        engine_sha256: hash of the engine file, in hexadecimal.
        engine_bytes: its size.
        build_seconds: how long the builder worked.
        created: when, as ISO 8601 in UTC.
        format: version of this format.
    """

    backend: str
    version: str
    plugins: str | None
    source: str
    source_sha256: str
    form: str | None
    precision: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    profiles: tuple[Mapping[str, Range], ...]
    engine_sha256: str
    engine_bytes: int
    build_seconds: float
    created: str
    options: Mapping[str, Any] = field(default_factory=dict)
    nodes: tuple[NodeOrigin, ...] = ()
    device: Device | None = None
    capabilities: tuple[Capability, ...] = ()
    hardware_compatibility: str = "none"
    version_compatible: bool = False
    format: int = FORMAT

    def to_json(self) -> dict[str, Any]:
        """Return the same as plain values, ready for ``json.dumps``."""
        values = {name: value for name, value in self.__dict__.items() if name not in ("inputs", "outputs", "format")}
        return {
            "format": self.format,
            **values,
            "inputs": [_spec_to_json(spec) for spec in self.inputs],
            "outputs": [_spec_to_json(spec) for spec in self.outputs],
            "profiles": [
                {
                    name: {"min": list(low), "opt": list(best), "max": list(high)}
                    for name, (low, best, high) in profile.items()
                }
                for profile in self.profiles
            ],
            "options": dict(self.options),
            "nodes": [asdict(node) for node in self.nodes],
            "device": None if self.device is None else {**asdict(self.device), "capability": text(self.device)},
            "capabilities": [text(capability) for capability in self.capabilities],
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any], what: str) -> EngineMetadata:
        """Return what :meth:`to_json` gave.

        Args:
            values: the plain values.
            what: where they come from, for the error.

        Raises:
            InvalidModelError: if something is missing or of another kind, or the format is a later one.
        """
        if not isinstance(values, Mapping) or values.get("format") != FORMAT:
            found = values.get("format", "none") if isinstance(values, Mapping) else type(values).__name__
            raise InvalidModelError(
                describe(
                    f"format of {what}", expected=FORMAT, actual=found, remedy=_rebuild("another version wrote it")
                )
            )
        try:
            plain = dict(values)
            plain["inputs"] = tuple(map(_spec_from_json, plain["inputs"]))
            plain["outputs"] = tuple(map(_spec_from_json, plain["outputs"]))
            plain["profiles"] = tuple(
                {name: _range(range_) for name, range_ in profile.items()} for profile in plain["profiles"]
            )
            plain["nodes"] = tuple(NodeOrigin(**node) for node in plain["nodes"])
            plain["capabilities"] = tuple(map(capability_of, plain["capabilities"]))
            device = plain["device"]
            plain["device"] = (
                None if device is None else Device(str(device["name"]), capability_of(device["capability"]))
            )
            return cls(**plain)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidModelError(
                describe(
                    what,
                    expected="what dcn-deploy build writes beside an engine",
                    actual=f"something else ({type(error).__name__}: {error})",
                    remedy=_rebuild("it was changed"),
                )
            ) from error

    def write(self, engine: str | os.PathLike[str]) -> Path:
        """Write the sidecar of an engine, all of it or nothing, and return its path."""
        path = sidecar_path(engine)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            temporary.write_text(json.dumps(self.to_json(), indent=2) + "\n", encoding="utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        return path

    def check(
        self,
        engine: str | os.PathLike[str],
        *,
        backend: str | None = None,
        version: str | None = None,
        device: Device | None = None,
        plugins: str | None = None,
    ) -> None:
        """Refuse an engine that is not the one described, or that cannot run here.

        Args:
            engine: the engine file, which is read and hashed.
            backend: the backend that is to run it.
            version: version of the package that is to run it.
            device: the GPU that is to run it.
            plugins: version of the plugin library at hand.
            What is None is not looked at.

        Raises:
            BackendError: with what was expected, what is there, and the command that builds the engine again.
            InvalidArgumentError: if the engine is for another backend.
        """
        name = Path(engine).name
        self._check_file(Path(engine))
        if backend is not None:
            self.check_backend(engine, backend)
        if version is not None:
            self._check_version(name, version)
        if device is not None:
            self._check_device(name, device)
        if plugins is not None and self.plugins is not None and plugins != self.plugins:
            self._refuse(name, f"plugin library of the engine '{name}'", f"dcn_deploy {self.plugins}", plugins)

    def check_backend(self, engine: str | os.PathLike[str], backend: str) -> None:
        """Refuse an engine for another backend.

        Raises:
            InvalidArgumentError: with the one that it is for.
        """
        if backend != self.backend:
            raise InvalidArgumentError(
                describe(
                    f"backend of the engine '{Path(engine).name}'",
                    expected=self.backend,
                    actual=backend,
                    remedy=f"Run it with --backend {self.backend}, or build the engine again: "
                    f"{self.build_command(engine, backend)}.",
                )
            )

    def build_command(
        self, engine: str | os.PathLike[str], backend: str, capabilities: Sequence[Capability] = ()
    ) -> str:
        """Return the command that builds the engine again, to be run beside the ONNX file.

        Args:
            engine: the engine file, whose name the new one gets.
            backend: the backend to build for.
            capabilities: compute capabilities to build for, in the place of those that the engine lists, if any.
        """
        words = ["dcn-deploy", "build", self.source, "-o", Path(engine).name, "--backend", backend]
        for profile in self.profiles:
            words += ["--profile", " ".join(f"{name}={_written(range_)}" for name, range_ in profile.items())]
        listed = self.capabilities and (capabilities or self.capabilities)
        if listed and backend in PACKAGES and PACKAGES[backend].lists_capabilities:
            words += ["--compute-capability", ",".join(map(text, listed))]
        return shlex.join(words)

    def _check_file(self, engine: Path) -> None:
        sha256, size = file_hash(engine)
        if sha256 != self.engine_sha256:
            self._refuse(
                engine.name,
                f"contents of '{engine.name}'",
                f"{self.engine_bytes} bytes with SHA-256 {self.engine_sha256[:12]}…, as '{sidecar_path(engine).name}' "
                "says",
                f"{size} bytes with {sha256[:12]}…",
                f"If it is an engine from somewhere else, remove '{sidecar_path(engine).name}'; else ",
            )

    def _check_version(self, name: str, version: str) -> None:
        built, here = (version_numbers(text_)[:_VERSION_PARTS] for text_ in (self.version, version))
        title = PACKAGES[self.backend].title if self.backend in PACKAGES else self.backend
        if self.version_compatible:
            if here < built:
                self._refuse(name, f"version of {title} for the engine '{name}'", f"{self.version} or later", version)
        elif here != built:
            self._refuse(
                name,
                f"version of {title} for the engine '{name}'",
                f"{'.'.join(map(str, built))}, which built it",
                version,
                "An engine built with --version-compatible also runs in later versions. Else ",
            )

    def _check_device(self, name: str, device: Device) -> None:
        level = self.hardware_compatibility
        if level in _AT_LEAST:
            lowest = _AT_LEAST[level]
            fits, expected = device.capability >= lowest, f"{text(lowest)} or later"
        elif self.capabilities:
            fits = device.capability in self.capabilities
            expected = " or ".join(map(text, self.capabilities))
        elif self.device is not None:
            fits, expected = device.capability == self.device.capability, f"{text(self.device)} ({self.device.name})"
        else:
            return
        if not fits:
            self._refuse(
                name,
                f"compute capability for the engine '{name}'",
                expected,
                f"{text(device)} ({device.name})",
                capabilities=(device.capability,),
            )

    def _refuse(
        self,
        engine: str,
        what: str,
        expected: str,
        actual: str,
        before: str = "",
        capabilities: Sequence[Capability] = (),
    ) -> None:
        again = f"build the engine again: {self.build_command(engine, self.backend, capabilities)}"
        remedy = f"{before}{again}." if before else f"{again[0].upper()}{again[1:]}."
        raise BackendError(describe(what, expected=expected, actual=actual, remedy=remedy))


def deformable(nodes: Iterable[NodeOrigin]) -> tuple[NodeOrigin, ...]:
    """Return those of a graph's nodes that are deformable, in any of the three forms, or parts of decomposed ones."""
    origins = []
    for node in nodes:
        ours = {key: value for key, value in node.metadata.items() if key.startswith(f"{DOMAIN}.")}
        if ours or node.domain == DOMAIN or (node.domain in _STANDARD and node.op_type in BY_STANDARD_OP_TYPE):
            origins.append(replace(node, metadata=ours))
    return tuple(origins)


def read(engine: str | os.PathLike[str]) -> EngineMetadata | None:
    """Return the metadata beside an engine; None if there is no sidecar.

    Raises:
        InvalidModelError: if the sidecar cannot be read.
    """
    path = sidecar_path(engine)
    try:
        content = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidModelError(f"'{path}' cannot be read: {error}.") from error
    try:
        values = json.loads(content)
    except ValueError as error:
        raise InvalidModelError(
            describe(f"'{path}'", expected="JSON", actual=str(error), remedy=_rebuild("it was changed"))
        ) from error
    return EngineMetadata.from_json(values, f"'{path}'")


def without_sidecar(engine: str | os.PathLike[str]) -> str:
    """Return the warning for an engine without a sidecar: what is not known about it."""
    return (
        f"'{Path(engine).name}' has no '{sidecar_path(engine).name}' beside it: whether it fits this GPU and this "
        "version, and which ONNX file it was made from, cannot be told before TensorRT loads it"
    )


def sidecar_path(engine: str | os.PathLike[str]) -> Path:
    """Return the path of an engine's sidecar: ``model.engine.json``."""
    path = Path(engine)
    return path.with_name(path.name + SUFFIX)


def file_hash(path: str | os.PathLike[str]) -> tuple[str, int]:
    """Return (SHA-256 in hexadecimal, size in bytes) of a file."""
    digest, size = hashlib.sha256(), 0
    with Path(path).open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            size += len(chunk)
    return digest.hexdigest(), size


def text(capability: Capability | Device) -> str:
    """Return a compute capability as people write it: ``"8.9"``."""
    major, minor = capability.capability if isinstance(capability, Device) else capability
    return f"{major}.{minor}"


def capability_of(written: str) -> Capability:
    """Return the compute capability that is written as ``"8.9"``.

    Raises:
        ValueError: if it is not written that way.
    """
    major, minor = written.split(".")
    return int(major), int(minor)


def _rebuild(reason: str) -> str:
    return f"If {reason}, build the engine again with dcn-deploy build, or remove the .json file."


def _range(values: Mapping[str, Sequence[int]]) -> Range:
    low, best, high = (tuple(int(extent) for extent in values[key]) for key in ("min", "opt", "max"))
    return low, best, high


def _written(range_: Range) -> str:
    """Write a range as the option ``--profile`` takes it: ``1,3,64,64:4,3,64,64:8,3,64,64``."""
    return ":".join(",".join(map(str, shape)) for shape in range_)


def _spec_to_json(spec: TensorSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "dtype": None if spec.dtype is None else spec.dtype.name,
        "shape": None if spec.shape is None else list(spec.shape),
        "boxes": None if spec.boxes is None else asdict(spec.boxes),
    }


def _spec_from_json(values: Mapping[str, Any]) -> TensorSpec:
    dtype, shape, boxes = values["dtype"], values["shape"], values["boxes"]
    spec = TensorSpec(str(values["name"]), None if dtype is None else numpy_dtype(dtype), None)
    return replace(spec, shape=None if shape is None else tuple(shape), boxes=None if boxes is None else Boxes(**boxes))


def numpy_dtype(name: str) -> np.dtype[Any]:
    """Return the NumPy dtype of that name, bfloat16 included."""
    import numpy as np

    if name == "bfloat16":
        import ml_dtypes

        name = ml_dtypes.bfloat16
    dtype: np.dtype[Any] = np.dtype(name)
    return dtype
