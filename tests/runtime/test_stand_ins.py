"""The stand-ins against the real bindings: same names, same arguments. What the tests of engines prove rests on this.

TensorRT's bindings are those of TensorRT lean, whose runtime is that of the full package, and of TensorRT-RTX; neither
needs a GPU to be looked at. The stand-in for pycuda has no real counterpart here, since that builds with a CUDA
toolkit.
"""

from __future__ import annotations

import enum
import importlib
import inspect
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import engine_files
import pytest

#: What TensorRT lean leaves out of the full package: these are compared with TensorRT-RTX alone.
NOT_IN_LEAN = {"EngineInspector", "TensorFormat"}
TENSORRT = {"tensorrt": "tensorrt_lean", "tensorrt-rtx": "tensorrt_rtx"}


@pytest.fixture(scope="module")
def real() -> dict[str, ModuleType]:
    """The real packages by what stands in for them."""
    names = {**TENSORRT, "cuda": "cuda.bindings.runtime"}
    return {standing_in: importlib.import_module(name) for standing_in, name in names.items()}


@pytest.fixture
def standing_in(real: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    cuda = engine_files.use_stand_ins(monkeypatch)
    yield {"cuda": cuda, **{name: importlib.import_module(name.replace("-", "_")) for name in TENSORRT}}
    engine_files.forget_stand_ins()


def overloads(function: Any) -> list[list[tuple[str, bool]]]:
    """Arguments of a bound C++ function without self, as (name, has a default), one list an overload."""
    found = []
    for line in (function.__doc__ or "").splitlines():
        match = re.match(rf"\s*(?:\d+\. )?{function.__name__}\((.*)\) -> ", line)
        if match is None:
            continue
        # Commas within brackets separate no arguments.
        text, depth = "", 0
        for character in match[1]:
            depth += (character in "[(<") - (character in "])>")
            text += "\0" if character == "," and depth == 0 else character
        arguments = [argument.strip() for argument in text.split("\0") if argument.strip()]
        found.append(
            [
                (argument.partition(":")[0], " = " in argument)
                for argument in arguments
                if not argument.startswith("self")
            ]
        )
    return found


def arguments_of(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


def fits(names: list[str], overload: list[tuple[str, bool]]) -> bool:
    """Whether a call with these arguments is one of that overload."""
    return names == [name for name, _ in overload[: len(names)]] and all(
        optional for _, optional in overload[len(names) :]
    )


def public(thing: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(thing).items() if not name.startswith("_")}


@pytest.mark.parametrize("backend", TENSORRT)
def test_tensorrt(backend: str, real: dict[str, ModuleType], standing_in: dict[str, ModuleType]) -> None:
    theirs, ours = real[backend], standing_in[backend]
    classes = {
        name: value
        for name, value in public(ours).items()
        if inspect.isclass(value) and value.__module__ == "tensorrt_stand_in" and not issubclass(value, AssertionError)
    }
    if backend == "tensorrt":
        assert not any(hasattr(theirs, name) for name in NOT_IN_LEAN)
        classes = {name: value for name, value in classes.items() if name not in NOT_IN_LEAN}
    assert {"ICudaEngine", "IExecutionContext", "Runtime", "IProfiler", "DataType"} <= set(classes)
    compared = 0
    for name, ours_class in classes.items():
        their_class = getattr(theirs, name)
        if issubclass(ours_class, enum.Enum):
            assert set(ours_class.__members__) <= set(their_class.__members__), name
            continue
        for base in reversed(ours_class.__mro__[:-1]):
            for member, value in public(base).items():
                assert hasattr(their_class, member), f"{name}.{member}"
                their_member = getattr(their_class, member)
                if inspect.isfunction(value):
                    assert any(fits(arguments_of(value), overload) for overload in overloads(their_member)), (
                        f"{name}.{member}{inspect.signature(value)} is none of {overloads(their_member)}"
                    )
                    compared += 1
                elif isinstance(value, property):
                    assert isinstance(their_member, property), f"{name}.{member}"
    assert compared >= 15


@pytest.mark.parametrize("backend", TENSORRT)
def test_what_is_set_on_tensorrts_objects(backend: str, real: dict[str, ModuleType]) -> None:
    names = {"IExecutionContext": ["profiler"], "Runtime": ["engine_host_code_allowed"]}
    if backend == "tensorrt-rtx":
        names["IRuntimeConfig"] = ["cuda_graph_strategy", "dynamic_shapes_kernel_specialization_strategy"]
    for owner, members in names.items():
        for member in members:
            value = getattr(getattr(real[backend], owner), member)
            assert isinstance(value, property), f"{owner}.{member}"
            assert value.fset is not None, f"{owner}.{member}"


@pytest.mark.parametrize("backend", TENSORRT)
def test_what_the_registry_takes(backend: str, real: dict[str, ModuleType], standing_in: dict[str, ModuleType]) -> None:
    assert callable(real[backend].get_plugin_registry)
    ours = type(standing_in[backend].get_plugin_registry())
    for member in ("load_library", "get_creator"):
        their = getattr(real[backend].IPluginRegistry, member)
        assert any(fits(arguments_of(getattr(ours, member)), overload) for overload in overloads(their)), member


@pytest.mark.parametrize("backend", TENSORRT)
def test_what_tensorrt_calls(backend: str, real: dict[str, ModuleType]) -> None:
    """Methods that TensorRT calls by name: the bindings' documentation is all that says what they are."""
    from dcn_deploy.runtime.engine_context import _output_allocator
    from dcn_deploy.runtime.engine_layers import LayerRecorder, profiler_of

    trt = real[backend]
    recorder = LayerRecorder()
    recorder.begin()
    for made, expected in (
        (_output_allocator(trt, None), 3),  # type: ignore[arg-type]
        (profiler_of(trt, recorder), 1),
    ):
        (base,) = type(made).__bases__
        described = dict(re.findall(r"def (\w+)\(self, ([^)]*)\)", base.__doc__ or ""))
        assert len(described) == expected
        for name, arguments in described.items():
            assert arguments_of(getattr(made, name)) == arguments.split(", ")
    profiler_of(trt, recorder).report_layer_time("conv", 2.0)
    assert recorder.runs == [[("conv", 0.002)]]


def test_cuda_bindings(real: dict[str, ModuleType], standing_in: dict[str, ModuleType]) -> None:
    theirs, ours = real["cuda"], standing_in["cuda"]
    names = [name for name in public(ours) if name.startswith("cuda")]
    functions = 0
    for name in names:
        value, their_value = getattr(ours, name), getattr(theirs, name)
        if inspect.isclass(value) and issubclass(value, enum.Enum):
            for member in value:
                assert int(getattr(their_value, member.name)) == member.value, f"{name}.{member.name}"
        elif inspect.isclass(value):
            continue
        elif callable(value):
            assert arguments_of(value) == arguments_of(their_value), name
            functions += 1
        else:
            assert value == their_value, name
    assert functions >= 25
    properties = theirs.cudaDeviceProp()
    for member in ("name", "major", "minor", "totalGlobalMem"):
        assert hasattr(properties, member)


def test_cuda_bindings_without_a_driver(real: dict[str, ModuleType]) -> None:
    """The real package imports where there is no GPU, and answers as the stand-in does: a status first."""
    status, count = real["cuda"].cudaGetDeviceCount()
    assert int(status) == 0 or count is None
    code, text = real["cuda"].cudaGetErrorName(status), real["cuda"].cudaGetErrorString(status)
    assert code[1].startswith(b"cuda")
    assert text[1]
    assert real["cuda"].cudaMemcpyKind.cudaMemcpyHostToDevice is not None
