"""What of the deployment's parts is here, works, or is missing, and how to get it."""

from __future__ import annotations

import importlib
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from dcn_deploy._lazy import require
from dcn_deploy._libraries import LIBRARIES, library_path
from dcn_deploy.errors import DcnDeployError, LibraryNotBuiltError, MissingDependencyError
from dcn_deploy.runtime.backends import BACKENDS, availability, create
from dcn_deploy.runtime.device_memory import find_binding
from dcn_deploy.runtime.processor import cpu_features, cpu_model, usable_cpus
from dcn_deploy.schema import BY_STANDARD_OP_TYPE, DEFORM_CONV2D, DEFORM_ROI_POOL2D, OperatorSchema

Status = Literal["ok", "missing", "broken"]

#: ONNX Runtime versions: the first one the custom-op library's API is in, and the first one with DeformConv.
ONNXRUNTIME_FIRST, ONNXRUNTIME_STANDARD = (1, 21), (1, 25)

# Extensions that kernels are chosen by. The names are those of /proc/cpuinfo on x86 and on Arm.
_CPU_FEATURES = ("avx2", "fma", "f16c", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "asimd", "asimdhp", "bf16")


@dataclass(frozen=True)
class Finding:
    """One part and how it is.

    Attributes:
        group: kind of part: "system", "packages", "libraries", "core way", "gpu", "backends".
        part: its name.
        status: "ok", "missing", or "broken" (there, but it does not work).
        detail: version, path, or what is wrong.
        remedy: how to get or mend it; empty if it is ok.
        required: whether the core way needs it: PyTorch → ONNX → ONNX Runtime with our library, on the CPU.
    """

    group: str
    part: str
    status: Status
    detail: str
    remedy: str = ""
    required: bool = False


@dataclass(frozen=True)
class Diagnosis:
    """Everything that was looked at."""

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether everything that the core way needs is ok."""
        return all(finding.status == "ok" for finding in self.findings if finding.required)

    def to_json(self) -> dict[str, Any]:
        """Return the findings, ready for ``json.dumps``."""
        return {
            "schema": "dcn_deploy.doctor/1",
            "ok": self.ok,
            "findings": [
                {
                    "group": finding.group,
                    "part": finding.part,
                    "status": finding.status,
                    "detail": finding.detail,
                    "remedy": finding.remedy,
                    "required": finding.required,
                }
                for finding in self.findings
            ],
        }


@dataclass(frozen=True)
class _Package:
    name: str
    purpose: str
    remedy: str
    required: bool = False
    check: Callable[[Any], str] | None = None


def examine() -> Diagnosis:
    """Look at everything. Imports what it looks at, which takes seconds; never raises for what is missing."""
    return Diagnosis(
        (*_system(), *_packages(), *_libraries(), *_core_way(), *_gpu(), *_backends()),
    )


def _system() -> Iterator[Finding]:
    yield Finding("system", "python", "ok", platform.python_version(), required=True)
    yield Finding("system", "platform", "ok", platform.platform())
    features = [name for name in _CPU_FEATURES if name in cpu_features()]
    yield Finding(
        "system", "cpu", "ok", f"{cpu_model()}, {usable_cpus()} usable, {' '.join(features) or 'features unknown'}"
    )
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    yield _program("c++ compiler", compiler, "--version", "to build the native libraries: apt-get install g++")


def _program(part: str, path: str | None, argument: str, remedy: str, group: str = "system") -> Finding:
    if path is None:
        return Finding(group, part, "missing", "not on PATH", remedy)
    try:
        result = subprocess.run([path, argument], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        return Finding(group, part, "broken", f"{path}: {error}", remedy)
    lines = [line.strip() for line in result.stdout.splitlines() if line.strip()]
    if result.returncode != 0:
        return Finding(group, part, "broken", f"{path} ends with status {result.returncode}", remedy)
    # nvcc prints its release in the last but one line, compilers their version in the first.
    shown = next((line for line in lines if "release" in line), lines[0] if lines else "no version")
    return Finding(group, part, "ok", f"{shown} ({path})")


def _onnxruntime_range(module: Any) -> str:
    found = _numbers(module.__version__)
    if found < ONNXRUNTIME_FIRST:
        raise RuntimeError(f"{module.__version__} is older than {'.'.join(map(str, ONNXRUNTIME_FIRST))}")
    standard = "runs" if found >= ONNXRUNTIME_STANDARD else "does not run"
    return f"{standard} the form 'standard' ({', '.join(BY_STANDARD_OP_TYPE)} from 1.25 on)"


def _torchvision_operator(module: Any) -> str:
    import torch

    # Present but built for another torch, it imports without its compiled operators.
    importlib.import_module("torchvision.ops")
    torch.ops.torchvision.deform_conv2d  # noqa: B018
    return "compiled deform_conv2d usable"


_PACKAGES = (
    _Package("numpy", "arrays", "pip install numpy", required=True),
    _Package("torch", "networks, export", "pip install torch", required=True),
    _Package("onnx", "ONNX files", "pip install onnx", required=True),
    _Package("onnxscript", "export, convert", "pip install onnxscript", required=True),
    _Package("onnxruntime", "deployment", "pip install onnxruntime", required=True, check=_onnxruntime_range),
    _Package("torchvision", "a faster operator in PyTorch", "pip install torchvision", check=_torchvision_operator),
    _Package("safetensors", "weights in .safetensors", "pip install safetensors"),
    _Package("openvino", "an independent check in tests and benchmarks", "pip install openvino"),
    _Package("matplotlib", "pictures", "pip install 'dcn-deploy[viz]'"),
    _Package("sklearn", "the demonstration's images", "pip install 'dcn-deploy[demo]'"),
)
_DISTRIBUTIONS = {"sklearn": "scikit-learn", "tensorrt_rtx": "tensorrt-rtx-cu13"}


def _packages() -> Iterator[Finding]:
    for package in _PACKAGES:
        yield _package(package)


def _package(package: _Package) -> Finding:
    try:
        module = importlib.import_module(package.name)
    except ModuleNotFoundError as error:
        if error.name == package.name:
            detail = f"not installed; for {package.purpose}"
            return Finding("packages", package.name, "missing", detail, package.remedy, package.required)
        return _broken_package(package, error)
    except Exception as error:
        # A package built for another version of a library raises whatever the loader or its own code does.
        return _broken_package(package, error)
    detail = getattr(module, "__version__", None) or _version_of(package.name)
    if package.check is not None:
        try:
            detail = f"{detail}, {package.check(module)}"
        except Exception as error:
            return _broken_package(package, error)
    return Finding("packages", package.name, "ok", detail, required=package.required)


def _broken_package(package: _Package, error: Exception) -> Finding:
    text = " ".join(str(error).split())
    remedy = f"{package.remedy} --force-reinstall, in the version that fits the other packages"
    return Finding("packages", package.name, "broken", f"{type(error).__name__}: {text}", remedy, package.required)


def _version_of(package: str) -> str:
    try:
        return version(_DISTRIBUTIONS.get(package, package))
    except PackageNotFoundError:
        return "unknown version"


def _numbers(text: str) -> tuple[int, ...]:
    parts = []
    for part in text.split(".")[:2]:
        digits = "".join(c for c in part if c.isdigit())
        parts.append(int(digits or 0))
    return tuple(parts)


def _libraries() -> Iterator[Finding]:
    for kind, library in LIBRARIES.items():
        required = kind == "onnxruntime"
        try:
            path = library_path(kind)
        except LibraryNotBuiltError:
            detail = f"{library.filename} is not in this installation"
            yield Finding("libraries", kind, "missing", detail, library.remedy, required)
            continue
        yield _loaded(kind, str(path), required)


def _loaded(kind: str, path: str, required: bool) -> Finding:
    if kind == "tensorrt":
        return _plugin_library(path)
    if kind == "tensorrt_register":
        # Opening it is what it is for, which only a process with TensorRT in it should do.
        return Finding("libraries", kind, "ok", f"{path}, for programs that open a plugin library and no more")
    try:
        ort = require("onnxruntime", "the library")
        if kind == "onnxruntime_cuda":
            from dcn_deploy.runtime.onnxruntime_cuda import what_is_missing

            missing = what_is_missing()
            if missing is not None:
                # Nothing is wrong with the library: it would refuse to be registered, for that reason.
                detail = f"{_library_version(path)}, {path}, not tried: {missing[0]}"
                return Finding("libraries", kind, "ok", detail, required=required)
        ort.SessionOptions().register_custom_ops_library(path)
    except Exception as error:
        # ONNX Runtime raises its own classes, and the loader OSError.
        remedy = "reinstall dcn-deploy, or update onnxruntime: the library needs its API 1.21 or later"
        return Finding("libraries", kind, "broken", f"{path} does not load: {error}", remedy, required)
    detail = f"{_library_version(path)}, {path}, loads in ONNX Runtime {ort.__version__}"
    return Finding("libraries", kind, "ok", detail, required=required)


def _plugin_library(path: str) -> Finding:
    """Whether the library of plugins can be loaded, which needs no TensorRT: a registry does no more at first."""
    import ctypes

    try:
        ctypes.CDLL(path).getCreators  # noqa: B018
    except (OSError, AttributeError) as error:
        remedy = "reinstall dcn-deploy"
        return Finding("libraries", "tensorrt", "broken", f"{path} does not load: {error}", remedy)
    detail = f"{_library_version(path)}, {path}, plugins for TensorRT 10 and later"
    return Finding("libraries", "tensorrt", "ok", detail)


def _library_version(path: str) -> str:
    import ctypes

    try:
        function = ctypes.CDLL(path).dcn_deploy_version
    except (OSError, AttributeError):
        return "unknown version"
    function.restype = ctypes.c_char_p
    return str(function().decode("ascii"))


@dataclass(frozen=True)
class _Check:
    """One node with inputs so small that its result is known.

    Attributes:
        schema: the operator.
        inputs: values and shape of each input.
        attributes: those of the node.
        shape: shape of the output.
        expected: its values.
        kind: what the operator is called in the report.
    """

    schema: OperatorSchema
    inputs: Mapping[str, tuple[Sequence[float], tuple[int, ...]]]
    attributes: Mapping[str, Any]
    shape: tuple[int, ...]
    expected: list[float]
    kind: str


_CHECKS = (
    # Moved by half a pixel in x, the map [[1, 3]] has 2 between its pixels, and 3/2 between the last and nothing.
    _Check(
        DEFORM_CONV2D,
        {"X": ([1, 3], (1, 1, 1, 2)), "W": ([1], (1, 1, 1, 1)), "offset": ([0, 0, 0.5, 0.5], (1, 2, 1, 2))},
        {"kernel_shape": [1, 1]},
        (1, 1, 1, 2),
        [2.0, 1.5],
        "a deformable convolution",
    ),
    # A RoI of the map's size has its one sample between the pixels of [[1, 3]]; moved by a quarter of the RoI, it is at
    # the last pixel, of which its mask leaves a quarter.
    _Check(
        DEFORM_ROI_POOL2D,
        {
            "X": ([1, 3], (1, 1, 1, 2)),
            "rois": ([0, 0, 0, 2, 1, 0, 0, 0, 2, 1], (2, 5)),
            "offset": ([0, 0, 1, 0], (2, 2, 1, 1)),
            "mask": ([1, 0.25], (2, 1, 1, 1)),
        },
        {"output_size": [1, 1], "sampling_ratio": 1, "gamma": 0.25},
        (2, 1, 1, 1),
        [2.0, 0.75],
        "a deformable RoI pooling",
    ),
)


def _core_way() -> Iterator[Finding]:
    """Run one node of each operator through our library and compare it with what it must give."""
    for check in _CHECKS:
        part = f"{check.schema.op_type} in ONNX Runtime"
        try:
            actual = _run_one_node(check)
        except DcnDeployError as error:
            yield Finding("core way", part, "broken", str(error), "mend what is marked above first", True)
            continue
        except Exception as error:
            detail = f"{type(error).__name__}: {error}"
            yield Finding("core way", part, "broken", detail, "mend what is above first", True)
            continue
        if actual != check.expected:
            detail = f"expected {check.expected}, got {actual}"
            yield Finding("core way", part, "broken", detail, "report this with the output of doctor --json", True)
            continue
        yield Finding("core way", part, "ok", f"{check.kind} gives the right result", required=True)


def _run_one_node(check: _Check) -> list[float]:
    require("onnx", "the check of the core way")
    import numpy as np
    import onnx
    from onnx import helper

    float32, schema = onnx.TensorProto.FLOAT, check.schema
    node = helper.make_node(
        schema.op_type, list(check.inputs), ["Y"], name="check", domain=schema.domain, **check.attributes
    )
    graph = helper.make_graph(
        [node],
        "check",
        [helper.make_tensor_value_info(name, float32, shape) for name, (_, shape) in check.inputs.items()],
        [helper.make_tensor_value_info("Y", float32, check.shape)],
    )
    model = helper.make_model(
        graph,
        ir_version=9,
        opset_imports=[helper.make_opsetid("", 19), helper.make_opsetid(schema.domain, schema.version)],
    )
    feed = {name: np.array(values, dtype=np.float32).reshape(shape) for name, (values, shape) in check.inputs.items()}
    with create("onnxruntime", model) as runner:
        result: list[float] = runner.infer(feed)["Y"].ravel().tolist()
    return result


def _gpu() -> Iterator[Finding]:
    smi = shutil.which("nvidia-smi")
    if smi is None:
        yield Finding("gpu", "NVIDIA GPU", "missing", "no nvidia-smi on PATH", "install NVIDIA's driver")
    else:
        query = "--query-gpu=name,driver_version,compute_cap"
        result = subprocess.run(
            [smi, query, "--format=csv,noheader"], capture_output=True, text=True, timeout=30, check=False
        )
        cards = "; ".join(line.strip() for line in result.stdout.splitlines() if line.strip())
        if result.returncode == 0 and cards:
            yield Finding("gpu", "NVIDIA GPU", "ok", cards)
        else:
            yield Finding(
                "gpu", "NVIDIA GPU", "broken", result.stdout.strip() or "nvidia-smi failed", "check the driver"
            )
    yield _program("nvcc", shutil.which("nvcc"), "--version", "to build CUDA kernels: install the CUDA toolkit", "gpu")
    for package, purpose, remedy in (
        ("tensorrt", "TensorRT engines", "pip install 'dcn-deploy[tensorrt]', from NVIDIA's package index"),
        ("tensorrt_rtx", "TensorRT-RTX engines", "pip install 'dcn-deploy[rtx]'"),
    ):
        found = _package(_Package(package, purpose, remedy))
        yield Finding("gpu", package, found.status, found.detail, found.remedy)
    try:
        binding = find_binding("running engines")
    except MissingDependencyError as error:
        detail, _, remedy = str(error).partition(" Install it: ")
        yield Finding("gpu", "device memory", "missing", detail, remedy)
    else:
        yield Finding("gpu", "device memory", "ok", f"{binding.package} {binding.version}")


def _backends() -> Iterator[Finding]:
    for name, row in BACKENDS.items():
        available = availability(name)
        status: Status = "ok" if available.ok else "missing"
        detail = f"{row.summary}: {available.detail}"
        yield Finding("backends", name, status, detail, available.remedy, name in ("torch", "onnxruntime"))
