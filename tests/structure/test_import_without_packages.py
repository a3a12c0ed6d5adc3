"""Every module can be looked at where the heavy packages are missing, or says which one it needs and how to get it."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import source_tree

#: Everything but NumPy, which is part of the smallest installation.
_BLOCKED = (
    "torch",
    "torchvision",
    "onnx",
    "onnxscript",
    "onnx_ir",
    "onnxruntime",
    "openvino",
    "ml_dtypes",
    "matplotlib",
    "PIL",
    "sklearn",
    "scipy",
    "safetensors",
    "jinja2",
    "tensorrt",
    "tensorrt_rtx",
    "cuda",
    "pycuda",
)

#: What ``import dcn_deploy`` and its lazy packages must not load: NumPy takes a third of the time of ``--help``.
_HEAVY = (*_BLOCKED, "numpy")

#: Modules that define torch operators, layers or networks, or build on one that does: they need torch, and say so.
_NEEDS_TORCH = {
    "dcn_deploy.ops.autocast",
    "dcn_deploy.ops.bags",
    "dcn_deploy.ops.checks",
    "dcn_deploy.ops.functional",
    "dcn_deploy.ops.deform_conv2d_torch",
    "dcn_deploy.ops.deform_conv2d_torchvision",
    "dcn_deploy.ops.deform_conv2d_vectorized",
    "dcn_deploy.ops.deform_roi_pool_torch",
    "dcn_deploy.ops.deform_roi_pool_vectorized",
    "dcn_deploy.nn.deform_conv",
    "dcn_deploy.nn.deform_roi_pool",
    "dcn_deploy.nn.learning_rates",
    "dcn_deploy.nn.offset_branch",
    "dcn_deploy.models.digits",
    "dcn_deploy.models.initialisation",
    "dcn_deploy.models.resnet",
    "dcn_deploy.models.roi_heads",
    "dcn_deploy.models.single",
    "dcn_deploy.models.two_stage",
}

_PROGRAM = """
import importlib, json, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None

BLOCKED = set(json.loads(sys.argv[1]))
sys.meta_path.insert(0, Blocker())
results = {}
for name in json.loads(sys.argv[2]):
    try:
        importlib.import_module(name)
        results[name] = None
    except BaseException as error:
        results[name] = [type(error).__name__, [c.__name__ for c in type(error).__mro__], str(error)]
results["loaded"] = sorted(BLOCKED & {module.partition(".")[0] for module in sys.modules})
print(json.dumps(results))
"""


def _run(blocked: tuple[str, ...], names: list[str], folder: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, json.dumps(blocked), json.dumps(names)],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


@cache
def _outcomes() -> dict[str, Any]:
    return _run(_BLOCKED, list(source_tree.modules()), source_tree.CHECKOUT / "tests")


@pytest.mark.parametrize("module", list(source_tree.modules()))
def test_module(module: str) -> None:
    outcome = _outcomes()[module]
    if outcome is None:
        return
    kind, bases, message = outcome
    assert module in _NEEDS_TORCH, f"{module} cannot be imported without heavy packages: {kind}: {message}"
    assert kind == "MissingDependencyError", f"{kind}: {message}"
    assert "ImportError" in bases
    assert "'torch'" in message, message
    assert "pip install torch" in message, message
    assert "dcn_deploy" in message, message


def test_nothing_blocked_was_loaded() -> None:
    """Otherwise the blocker does not block, and the test above shows nothing."""
    assert _outcomes()["loaded"] == []


def test_the_list_of_exceptions_is_exact() -> None:
    """A module on the list that imports without torch does not belong there, nor does one that is gone."""
    assert set(source_tree.modules()) >= _NEEDS_TORCH
    assert {module for module in _NEEDS_TORCH if _outcomes()[module] is None} == set()


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("import dcn_deploy.ops as o; o.deform_conv2d", ["'torch'", "pip install torch"]),
        ("import dcn_deploy.nn as n; n.DeformConv2d", ["'torch'", "pip install torch"]),
        ("import dcn_deploy.export as e; e.export(None, (), 'x.onnx')", ["pip install"]),
        ("import dcn_deploy.export as e; e.lint('x.onnx')", ["pip install"]),
        ("import dcn_deploy.engine as e; e.build_engine('x', 'y', backend='tensorrt-rtx')", ["dcn-deploy[rtx]"]),
        ("import dcn_deploy.models as m; m.create('single_dcn')", ["'torch'", "pip install torch"]),
        ("import dcn_deploy.runtime as r; r.create('torch', None).activate()", ["'torch'", "pip install torch"]),
    ],
)
def test_first_use_names_package_and_remedy(statement: str, words: list[str]) -> None:
    program = _PROGRAM.replace("importlib.import_module(name)", "exec(name)")
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(_BLOCKED), json.dumps([statement])],
        capture_output=True,
        text=True,
        cwd=source_tree.CHECKOUT / "tests",
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout.splitlines()[-1])[statement]
    assert outcome is not None, "no error at all"
    kind, _, message = outcome
    assert kind == "MissingDependencyError", f"{kind}: {message}"
    for word in words:
        assert word in message, message


@pytest.mark.parametrize(
    "module",
    [
        "dcn_deploy",
        "dcn_deploy.errors",
        "dcn_deploy.schema",
        "dcn_deploy.export",
        "dcn_deploy.runtime",
        "dcn_deploy.validation",
        "dcn_deploy.profiling",
        "dcn_deploy.engine",
        "dcn_deploy.models",
        "dcn_deploy.cli.main",
    ],
)
def test_import_is_light_where_everything_is_installed(module: str) -> None:
    """Nothing heavy is loaded before it is used, although it could be."""
    program = (
        f"import sys, {module}; print(sorted({set(_HEAVY)!r} & {{name.partition('.')[0] for name in sys.modules}}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=source_tree.CHECKOUT / "tests",
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_the_package_offers_its_parts_lazily() -> None:
    program = (
        "import dcn_deploy; print(dcn_deploy.errors.__name__, 'export' in dir(dcn_deploy), dcn_deploy.__version__)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    version = (source_tree.CHECKOUT / "VERSION").read_text().strip()
    assert done.stdout.split() == ["dcn_deploy.errors", "True", version], done.stderr
