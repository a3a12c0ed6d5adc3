"""TensorRT and TensorRT-RTX as Python packages: how they differ, what they say, and our plugins in their registry.

Building and running share this module. The two packages have one API: whatever differs between them, or between
TensorRT 10 and 11, is a row of :data:`PACKAGES` or a property of :class:`Api`.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from dcn_deploy._lazy import how_to_install, require
from dcn_deploy._libraries import library_path
from dcn_deploy.errors import BackendError, MissingDependencyError, UnsupportedError, describe
from dcn_deploy.schema import DOMAIN, OPERATORS, OperatorSchema


@dataclass(frozen=True)
class Package:
    """One of the two packages.

    Attributes:
        backend: the backend's name, as on the command line.
        module: what is imported.
        title: what NVIDIA calls it.
        first: lowest version that is supported, (major, minor).
        takes_plugins: whether it runs custom plugins.
        form: form of the deformable nodes that it is given unless the user says otherwise.
        lists_capabilities: whether the builder takes the GPUs to build for as a list, and needs none of them.
    """

    backend: str
    module: str
    title: str
    first: tuple[int, int]
    takes_plugins: bool
    form: str
    lists_capabilities: bool


#: Both packages, by backend.
PACKAGES: Mapping[str, Package] = {
    package.backend: package
    for package in (
        Package("tensorrt", "tensorrt", "TensorRT", (10, 1), True, "plugin", False),
        Package("tensorrt-rtx", "tensorrt_rtx", "TensorRT-RTX", (1, 0), False, "decomposed", True),
    )
}


#: NumPy's names of the element types, by TensorRT's. It has none for the rest (FP8, FP4, INT4, E8M0).
DTYPES: Mapping[str, str] = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT32": "int32",
    "INT64": "int64",
    "INT8": "int8",
    "UINT8": "uint8",
    "BOOL": "bool",
}


@dataclass(frozen=True)
class Message:
    """One line of TensorRT's log.

    Attributes:
        severity: ``"INTERNAL_ERROR"``, ``"ERROR"``, ``"WARNING"``, ``"INFO"`` or ``"VERBOSE"``.
        text: what it says.
    """

    severity: str
    text: str


class Messages(list[Message]):
    """What TensorRT said during a call, in order."""

    @property
    def errors(self) -> list[str]:
        """Texts of the errors, each once."""
        return self._texts("INTERNAL_ERROR", "ERROR")

    @property
    def warnings(self) -> list[str]:
        """Texts of the warnings, each once."""
        return self._texts("WARNING")

    def _texts(self, *severities: str) -> list[str]:
        return list(dict.fromkeys(message.text for message in self if message.severity in severities))


@dataclass(frozen=True)
class PluginLibrary:
    """The project's plugin library, loaded into a registry.

    Attributes:
        path: the shared library.
        version: the project's version that it was built from.
    """

    path: Path
    version: str


class Api:
    """One of the two packages, imported.

    Args:
        package: its row.
        module: the module.

    Attributes:
        package: its row.
        trt: the module, to call.
        version: its version, e.g. ``"10.14.1.48"``.
    """

    def __init__(self, package: Package, module: ModuleType) -> None:
        self.package = package
        self.trt: Any = module
        self.version = str(getattr(module, "__version__", "0"))
        self._lock = threading.Lock()
        self._listeners: list[Messages] = []
        self._plugins: PluginLibrary | None = None

    @property
    def numbers(self) -> tuple[int, ...]:
        """The version as numbers, to compare."""
        return version_numbers(self.version)

    @property
    def title(self) -> str:
        """Name and version, for messages."""
        return f"{self.package.title} {self.version}"

    @cached_property
    def logger(self) -> Any:
        """The ``ILogger`` to hand to TensorRT: it takes only the first one of a process to heart, so there is one."""
        base: Any = self.trt.ILogger
        listeners = self._listeners

        class CollectingLogger(base):  # type: ignore[misc]
            def __init__(self) -> None:
                base.__init__(self)

            def log(self, severity: Any, msg: str) -> None:
                # Called from TensorRT's own threads as well; nothing may be raised here.
                message = Message(severity.name, msg)
                for listener in tuple(listeners):
                    listener.append(message)

        return CollectingLogger()

    @contextmanager
    def listening(self) -> Iterator[Messages]:
        """Collect what TensorRT says while the context lasts.

        Yields:
            A list that grows while TensorRT talks. Listeners nest, and each hears everything.
        """
        messages = Messages()
        with self._lock:
            self._listeners.append(messages)
        try:
            yield messages
        finally:
            with self._lock:
                # By identity: two empty lists are equal.
                self._listeners[:] = [listener for listener in self._listeners if listener is not messages]

    def error(self, what: str, messages: Messages, remedy: str = "") -> BackendError:
        """Return the exception for a call that failed.

        Args:
            what: what failed, as ``"it cannot deserialise 'model.engine'"``.
            messages: what TensorRT said meanwhile; its errors become part of the text.
            remedy: what to do, unless the table of remedies knows better.
        """
        said = "; ".join(" ".join(text.split()) for text in messages.errors) or "it gave no reason"
        known = next((advice for words, advice in _REMEDIES if words in said), "")
        return BackendError(f"{self.title}: {what}: {said.rstrip('.')}.{' ' * bool(known or remedy)}{known or remedy}")

    def create_runtime(self) -> Any:
        """Return a new ``IRuntime``.

        Raises:
            BackendError: if TensorRT cannot make one, without a usable driver above all.
        """
        what = "it cannot make a runtime"
        with self.listening() as messages:
            try:
                made = self.trt.Runtime(self.logger)
            except TypeError as error:  # how the bindings say that TensorRT returned nothing
                raise self.error(f"{what} ({error})", messages) from error
        if made is None or messages.errors:
            # Version 11 returns an object all the same. Every call of it ends the process, and so does freeing it:
            # this reference is never given back.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(made))
            raise self.error(what, messages)
        return made

    @property
    def registry(self) -> Any:
        """The process-wide plugin registry."""
        return self.trt.get_plugin_registry()

    def register_stock_plugins(self) -> None:
        """Put TensorRT's own plugins into the registry, which the form standard needs; nothing where it has none."""
        register = getattr(self.trt, "init_libnvinfer_plugins", None)
        if register is not None:
            register(self.logger, "")

    def load_plugins(self) -> PluginLibrary:
        """Load the project's plugin library into the registry, once a process.

        Raises:
            UnsupportedError: if this package takes no plugins.
            LibraryNotBuiltError: if the library is not part of this installation.
            BackendError: if it does not load, or TensorRT does not find the plugins in it.
        """
        if not self.package.takes_plugins:
            raise UnsupportedError(
                f"{self.package.title} runs no custom plugins: expected a file of the form decomposed, got one with "
                "nodes of the form plugin. Convert it: dcn-deploy convert --form decomposed."
            )
        with self._lock:
            if self._plugins is None:
                self._plugins = self._load(library_path("tensorrt"))
            return self._plugins

    def _load(self, path: Path) -> PluginLibrary:
        try:
            library = ctypes.CDLL(str(path))
        except OSError as error:
            # TensorRT itself only says that it could not.
            raise BackendError(
                f"{self.title} cannot load the plugin library {path}: {error}. Expected a library built for this "
                "machine: reinstall dcn-deploy."
            ) from error
        if self._missing_creators():
            # Otherwise somebody has loaded it already, and a second time would be refused.
            self.registry.load_library(str(path))
        missing = self._missing_creators()
        if missing:
            raise BackendError(
                describe(
                    f"plugins of {path} in the registry of {self.title}",
                    expected=", ".join(f"{schema.op_type} version {schema.plugin_version}" for schema in _schemas()),
                    actual=f"no {', no '.join(missing)}",
                    remedy=f"The library is built for TensorRT {self.package.first[0]}.{self.package.first[1]} or "
                    "later: update TensorRT, or reinstall dcn-deploy.",
                )
            )
        return PluginLibrary(path, _library_version(library))

    def _missing_creators(self) -> list[str]:
        registry = self.registry
        return [
            schema.op_type
            for schema in _schemas()
            if registry.get_creator(schema.op_type, schema.plugin_version, DOMAIN) is None
        ]


# What TensorRT's messages say, and what to do about it. The first row whose words are in the message counts.
_REMEDIES = (
    (
        "CUDA initialization failure",
        "A GPU with NVIDIA's driver is needed for this; 'dcn-deploy doctor' shows what was found.",
    ),
    (
        "CUDA driver version is insufficient",
        "A GPU with NVIDIA's driver, as new as this TensorRT's CUDA, is needed for this; 'dcn-deploy doctor' shows "
        "what was found.",
    ),
    ("out of memory", "Take a smaller batch or image, or close what else uses the GPU."),
)


def _schemas() -> tuple[OperatorSchema, ...]:
    return tuple(OPERATORS.values())


def _library_version(library: ctypes.CDLL) -> str:
    try:
        function = library.dcn_deploy_version
    except AttributeError:
        return "unknown version"
    function.restype = ctypes.c_char_p
    return str(function().decode("ascii"))


def version_numbers(version: str) -> tuple[int, ...]:
    """Return a version's leading numbers: ``"10.14.1.48"`` gives (10, 14, 1, 48), ``"11.0rc1"`` gives (11, 0)."""
    numbers = []
    for part in version.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
        if digits != part:
            break
    return tuple(numbers)


_loaded: dict[str, Api] = {}


def load(backend: str, purpose: str) -> Api:
    """Import the package of a backend, once a process.

    Args:
        backend: ``"tensorrt"`` or ``"tensorrt-rtx"``.
        purpose: what needs it, as the subject of a sentence.

    Raises:
        UnsupportedError: for another backend, or a version that is too old.
        MissingDependencyError: if the package is not installed or does not load; the message says how to get it.
    """
    package = PACKAGES.get(backend)
    if package is None:
        raise UnsupportedError(describe("backend", expected=f"one of {', '.join(PACKAGES)}", actual=repr(backend)))
    found = _loaded.get(backend)
    if found is not None:
        return found
    try:
        module = require(package.module, purpose)
    except (OSError, RuntimeError) as error:
        # Its Python part is there, but the libraries or the driver that it loads are not.
        raise MissingDependencyError(
            f"{purpose} needs the package '{package.module}', which cannot be imported ({error}). "
            f"Install it again: {how_to_install(package.module)}",
            name=package.module,
        ) from error
    api = Api(package, module)
    if api.numbers[:2] < package.first:
        raise UnsupportedError(
            describe(
                f"version of {package.title}",
                expected=f"{package.first[0]}.{package.first[1]} or later",
                actual=api.version,
                remedy=f"Update it: {how_to_install(package.module)}",
            )
        )
    return _loaded.setdefault(backend, api)
