"""Every call of TensorRT in our Python exists in the real bindings, with these arguments.

TensorRT-RTX has builder, parser and runtime; TensorRT lean 11 has runtime and plugin registry, and the enumerations
that version 11 left. Whatever a package has the class for is checked against it, so what both have is checked twice.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
import source_tree
import tensorrt_bindings
from tensorrt_bindings import Bindings, Use

#: Files of ours that call TensorRT.
FILES = (
    "engine/builder.py",
    "engine/layers.py",
    "engine/parsing.py",
    "engine/progress.py",
    "engine/tensorrt.py",
    "engine/tensorrt_rtx.py",
    "runtime/engine_context.py",
    "runtime/engine_layers.py",
    "runtime/engine_tensors.py",
    "runtime/tensorrt.py",
    "runtime/tensorrt_api.py",
)
#: What only one of the packages has, and the code asks for only there or only if it is there.
ONLY_RTX = {
    "ComputeCapability",
    "CudaGraphStrategy",
    "DynamicShapesKernelSpecializationStrategy",
    "cuda_graph_strategy",
    "dynamic_shapes_kernel_specialization_strategy",
    "num_compute_capabilities",
    "set_compute_capability",
}
#: What TensorRT itself has and TensorRT lean leaves out, so that only TensorRT-RTX tells.
NOT_IN_LEAN = {"EngineInspector", "TensorFormat"}
#: What neither package here has, so that only TensorRT itself could tell: nothing.
UNCHECKED: set[str] = set()


@pytest.fixture(scope="module", params=["tensorrt_rtx", "tensorrt_lean"])
def bindings(request: pytest.FixtureRequest) -> Bindings:
    pytest.importorskip(request.param, reason=f"{request.param} is not installed")
    return Bindings(importlib.import_module(request.param))


def _paths() -> list[Path]:
    return [source_tree.CHECKOUT / "dcn_deploy" / name for name in FILES]


def _uses() -> list[Use]:
    rtx = Bindings(importlib.import_module("tensorrt_rtx"))
    return [use for path in _paths() for use in tensorrt_bindings.uses(rtx, path)]


def test_the_list_of_files_is_complete() -> None:
    """Whoever names ``trt`` is looked at."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    folders = [source_tree.CHECKOUT / "dcn_deploy" / "engine", source_tree.CHECKOUT / "dcn_deploy" / "runtime"]
    naming = {
        path.relative_to(source_tree.CHECKOUT / "dcn_deploy").as_posix()
        for folder in folders
        for path in folder.glob("*.py")
        if "trt." in path.read_text(encoding="utf-8") or "api.trt" in path.read_text(encoding="utf-8")
    }
    assert naming <= set(FILES)


def test_every_use_exists(bindings: Bindings) -> None:
    problems = []
    checked = set()
    for use in _uses():
        if bindings.class_of(use.owner) is None:
            continue  # lean has no builder
        if bindings.name == "tensorrt_lean" and use.name in _BUILDING | ONLY_RTX | NOT_IN_LEAN:
            continue
        checked.add((use.owner, use.name))
        problem = bindings.problem(use)
        if problem is not None:
            problems.append(problem)
    assert not problems, "\n".join(problems)
    expected = {("module", "Runtime"), ("module", "get_plugin_registry"), ("IPluginRegistry", "get_creator")}
    assert expected <= checked


#: Names of the module that are for building or parsing: TensorRT lean has none of them.
_BUILDING = {"Builder", "OnnxParser", "NetworkDefinitionCreationFlag", "init_libnvinfer_plugins"}


def test_what_is_followed_is_what_the_code_does() -> None:
    """The way from ``trt`` to an engine, so that a use that the test lost sight of is noticed."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    found = {(use.owner, use.name) for use in _uses()}
    assert found >= {
        ("module", "Builder"),
        ("module", "OnnxParser"),
        ("module", "IProgressMonitor"),
        ("module", "init_libnvinfer_plugins"),
        ("Builder", "create_network"),
        ("Builder", "create_builder_config"),
        ("Builder", "create_optimization_profile"),
        ("Builder", "build_serialized_network"),
        ("BuilderFlag", "TF32"),
        ("BuilderFlag", "VERSION_COMPATIBLE"),
        ("EngineInspector", "get_engine_information"),
        ("IBuilderConfig", "add_optimization_profile"),
        ("IBuilderConfig", "builder_optimization_level"),
        ("IBuilderConfig", "create_timing_cache"),
        ("IBuilderConfig", "get_timing_cache"),
        ("IBuilderConfig", "hardware_compatibility_level"),
        ("IBuilderConfig", "num_compute_capabilities"),
        ("IBuilderConfig", "profiling_verbosity"),
        ("IBuilderConfig", "progress_monitor"),
        ("IBuilderConfig", "set_compute_capability"),
        ("IBuilderConfig", "set_memory_pool_limit"),
        ("IBuilderConfig", "set_timing_cache"),
        ("ICudaEngine", "create_engine_inspector"),
        ("ICudaEngine", "create_execution_context"),
        ("ICudaEngine", "create_runtime_config"),
        ("ICudaEngine", "get_tensor_profile_shape"),
        ("IExecutionContext", "execute_async_v3"),
        ("IExecutionContext", "infer_shapes"),
        ("IExecutionContext", "profiler"),
        ("IExecutionContext", "set_input_shape"),
        ("IExecutionContext", "set_optimization_profile_async"),
        ("IExecutionContext", "set_output_allocator"),
        ("IExecutionContext", "set_tensor_address"),
        ("IRuntimeConfig", "cuda_graph_strategy"),
        ("IRuntimeConfig", "set_execution_context_allocation_strategy"),
        ("INetworkDefinition", "get_input"),
        ("IOptimizationProfile", "set_shape"),
        ("IPluginRegistry", "load_library"),
        ("ITimingCache", "serialize"),
        ("OnnxParser", "get_error"),
        ("OnnxParser", "parse_from_file"),
        ("OnnxParser", "supports_operator"),
        ("ParserError", "node_operator"),
        ("Runtime", "deserialize_cuda_engine"),
        ("Runtime", "engine_host_code_allowed"),
        ("TensorFormat", "LINEAR"),
    }
    here = [Bindings(importlib.import_module("tensorrt_rtx"))]
    unknown = {use.name for use in _uses() if all(each.member(use) is None for each in here)}
    assert unknown == UNCHECKED


def test_overridden_methods_exist_with_these_parameters(bindings: Bindings) -> None:
    found = [override for path in _paths() for override in tensorrt_bindings.overrides(path)]
    assert {(owner, method) for owner, method, _ in found} == {
        ("ILogger", "log"),
        ("IProgressMonitor", "phase_start"),
        ("IProgressMonitor", "step_complete"),
        ("IProgressMonitor", "phase_finish"),
    }
    for owner, method, parameters in found:
        documentation = getattr(bindings.class_of(owner), method).__doc__
        (signature,) = tensorrt_bindings._signatures(documentation, bound=True)
        assert [name for name, _ in signature] == parameters


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("trt.Bilder(logger)", "has no module.Bilder"),
        ("trt.BuilderFlag.FP16", "has no BuilderFlag.FP16"),  # removed in TensorRT 11
        ("trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH", "has no NetworkDefinitionCreationFlag.EXPLICIT_BATCH"),
        ("b = trt.Builder(logger)\n    b.build_engine(n, c)", "has no Builder.build_engine"),
        ("trt.Builder(logger).create_network(1, 2)", "takes .* called with"),
        (
            "c = trt.Builder(logger).create_builder_config()\n    c.set_timing_cache(t, ignore=False)",
            "takes .*'ignore'",
        ),
        ("c = trt.Builder(logger).create_builder_config()\n    c.set_timing_cache(t)", "ignore_mismatch', False"),
        ("parser.get_error(0).node_title()", "has no ParserError.node_title"),
        ("getattr(trt.BuilderFlag, 'INT8')", "has no BuilderFlag.INT8"),
        ("f = self._created(lambda: trt.Builder(l), 'x')\n    f.nothing", "has no Builder.nothing"),
        ("config.max_workspace_size = 3", "has no IBuilderConfig.max_workspace_size"),
    ],
)
def test_the_check_sees(tmp_path: Path, source: str, words: str) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    path = tmp_path / "wrong.py"
    path.write_text(f"def f(trt):\n    {source}\n")
    rtx = Bindings(importlib.import_module("tensorrt_rtx"))
    problems = [problem for use in tensorrt_bindings.uses(rtx, path) if (problem := rtx.problem(use)) is not None]
    assert problems, "nothing was seen"
    assert re.search(words, problems[0]), problems
