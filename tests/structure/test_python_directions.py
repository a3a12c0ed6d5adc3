"""The direction of dependency between the Python packages, read from the source.

    ops ← nn ← {adapters, export, runtime} ← {validation, profiling, analysis} ← engine ← cli        models ← nn, ops

A package may use what stands left of it; packages in one pair of braces never use each other. So ``export``
and ``runtime`` meet only through an ONNX file. An import inside a function counts, and so does one by name:
``importlib.import_module("dcn_deploy.nn")``, a string in a table of lazily imported modules, an attribute of
the package (``dcn_deploy.nn``).
"""

from __future__ import annotations

import ast
import re

import pytest
import source_tree

_BASE = {"errors", "schema", "boxes", "_lazy", "_libraries"}
_NETWORK = _BASE | {"ops", "nn"}
_LIBRARY = _NETWORK | {"adapters", "export", "runtime"}

#: Part of the package → the parts it may use besides itself.
_MAY_USE: dict[str, set[str]] = {
    "errors": set(),
    "schema": set(),
    "boxes": {"errors"},
    "_lazy": {"errors"},
    "_libraries": {"errors"},
    "ops": _BASE,
    "nn": _BASE | {"ops"},
    "models": _NETWORK,
    "adapters": _NETWORK,
    "export": _NETWORK,
    "runtime": _NETWORK,
    "validation": _LIBRARY,
    "profiling": _LIBRARY,
    "analysis": _LIBRARY,
    "engine": _LIBRARY | {"validation"},
    "cli": _LIBRARY | {"models", "validation", "profiling", "analysis", "engine"},
}
#: What nothing in the package may import: folders of the checkout that are no packages once installed.
_FOREIGN = {"cli", "models", "tests", "benchmarks", "examples", "plugins", "cases", "peers"}
# Provided by dcn_deploy/__init__.py itself, for everyone.
_OF_THE_ROOT = {"library_path", "__version__", "__file__", "__path__", "__name__"}
_MODULE_NAME = re.compile(r"dcn_deploy(\.[A-Za-z_]\w*)+")
# Calls whose string arguments are text for a person.
_CALLS_WITH_TEXT = {"require": {1}}


def _is_docstring(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> bool:
    return isinstance(parents.get(node), ast.Expr)


def _is_text_argument(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> bool:
    call = parents.get(node)
    if not isinstance(call, ast.Call) or node not in call.args:
        return False
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    return call.args.index(node) in _CALLS_WITH_TEXT.get(name, set())  # type: ignore[arg-type]


def used_modules(source: str, module: str, is_package: bool = False) -> set[tuple[int, str]]:
    """(line, dotted name) of everything of this project that ``source``, the text of ``module``, refers to."""
    tree = ast.parse(source)
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    package = module if is_package else module.rpartition(".")[0]
    used: set[tuple[int, str]] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            used |= {(node.lineno, alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                start = ".".join([*above, start]).rstrip(".")
            used |= {(node.lineno, f"{start}.{alias.name}") for alias in node.names}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == "dcn_deploy":
                used.add((node.lineno, f"dcn_deploy.{node.attr}"))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            named = _MODULE_NAME.fullmatch(node.value)
            if named and named.group(0).split(".")[1] not in _MAY_USE:
                continue  # a key of ONNX metadata, say: those have the package's name as prefix too
            if named and not _is_docstring(node, parents) and not _is_text_argument(node, parents):
                used.add((node.lineno, node.value))
    return used


def violations(source: str, module: str, is_package: bool = False) -> list[str]:
    """What ``module`` uses against the direction, as text."""
    part = module.split(".")[1]
    found = []
    for line, name in sorted(used_modules(source, module, is_package)):
        pieces = name.split(".")
        if pieces[0] in _FOREIGN:
            found.append(f"{module}, line {line}: imports '{name}', which is not part of the installed package")
        if pieces[0] != "dcn_deploy" or len(pieces) < 2 or pieces[1] in _OF_THE_ROOT:
            continue
        target = pieces[1]
        if target not in _MAY_USE:
            found.append(f"{module}, line {line}: '{name}' is no known part of dcn_deploy")
        elif target != part and target not in _MAY_USE[part]:
            allowed = ", ".join(sorted(_MAY_USE[part])) or "nothing"
            found.append(f"{module}, line {line}: uses '{name}', but {part} may use only {allowed}")
    return found


@pytest.mark.parametrize("module", [name for name in source_tree.modules() if name != "dcn_deploy"])
def test_module_keeps_the_direction(module: str) -> None:
    path = source_tree.modules()[module]
    found = violations(path.read_text(encoding="utf-8"), module, path.name == "__init__.py")
    assert not found, "\n".join(found)


def test_every_part_is_known() -> None:
    """A new package or module at the top must be given its place in the table."""
    parts = {name.split(".")[1] for name in source_tree.modules() if name != "dcn_deploy"}
    assert parts <= set(_MAY_USE), f"add to the table: {sorted(parts - set(_MAY_USE))}"
    assert {"ops", "nn", "export", "runtime", "validation", "profiling", "cli", "models"} <= parts


def test_the_table_has_no_cycle() -> None:
    order: list[str] = []
    while len(order) < len(_MAY_USE):
        free = [part for part in _MAY_USE if part not in order and _MAY_USE[part] - {part} <= set(order)]
        assert free, f"cycle among {sorted(set(_MAY_USE) - set(order))}"
        order += free


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("dcn_deploy.export.a", "from dcn_deploy import runtime"),
        ("dcn_deploy.export.a", "from dcn_deploy.runtime import create"),
        ("dcn_deploy.export.a", "import dcn_deploy.runtime.base as base"),
        ("dcn_deploy.export.a", "from ..runtime import create"),
        ("dcn_deploy.export.a", "def f():\n    from dcn_deploy.runtime import create"),
        ("dcn_deploy.export.a", "import importlib\nimportlib.import_module('dcn_deploy.runtime')"),
        ("dcn_deploy.export.a", "require('dcn_deploy.runtime.base', 'dcn_deploy.export')"),
        ("dcn_deploy.export.a", "TABLE = {'create': 'dcn_deploy.runtime.base'}"),
        ("dcn_deploy.export.a", "import dcn_deploy\ndcn_deploy.runtime.create('torch')"),
        ("dcn_deploy.export.a", "if TYPE_CHECKING:\n    from dcn_deploy.validation import Report"),
        ("dcn_deploy.runtime.a", "from dcn_deploy.export import convert"),
        ("dcn_deploy.adapters.a", "from dcn_deploy.export import convert"),
        ("dcn_deploy.profiling.a", "from dcn_deploy.validation import compare"),
        ("dcn_deploy.ops.a", "from dcn_deploy.nn import DeformConv2d"),
        ("dcn_deploy.models.a", "from dcn_deploy.export import export"),
        ("dcn_deploy.runtime.a", "from dcn_deploy.engine import build_engine"),
        ("dcn_deploy.validation.a", "from dcn_deploy.models import create"),
        ("dcn_deploy.runtime.a", "from dcn_deploy.cli import main"),
        ("dcn_deploy.schema", "from dcn_deploy.ops import geometry"),
        ("dcn_deploy.cli.a", "from dcn_deploy.nothing import x"),
        ("dcn_deploy.cli.a", "from cli import main"),
        ("dcn_deploy.models.a", "import tests.cases"),
    ],
)
def test_the_check_sees(module: str, source: str) -> None:
    assert violations(source, module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("dcn_deploy.export.a", "from dcn_deploy.export.forms import Form\nfrom .b import c"),
        ("dcn_deploy.export.a", '"""dcn_deploy.runtime"""'),
        ("dcn_deploy.ops.a", "require('torch', 'dcn_deploy.nn')"),
        ("dcn_deploy.runtime.a", "import dcn_deploy\ndcn_deploy.library_path('onnxruntime')"),
        ("dcn_deploy.cli.a", "from dcn_deploy import export, models, runtime, validation"),
        ("dcn_deploy.runtime.a", "import torch.export\nimport onnx"),
        ("dcn_deploy.export.a", "KEY = 'dcn_deploy.precision'"),
        ("dcn_deploy.export.a", "'run dcn_deploy.runtime.create for that'"),
    ],
)
def test_the_check_allows(module: str, source: str) -> None:
    assert not violations(source, module)


def test_commands_use_no_framework_themselves() -> None:
    """A command parses, calls and prints. What loads a network or a runtime belongs into the library."""
    frameworks = {"torch", "onnx", "onnxruntime", "onnx_ir", "onnxscript", "tensorrt", "tensorrt_rtx"}
    for module, path in source_tree.modules().items():
        if module.startswith("dcn_deploy.cli."):
            names = {name.split(".")[0] for _, name in used_modules(path.read_text(encoding="utf-8"), module)}
            assert not names & frameworks, f"{module} imports {sorted(names & frameworks)}"
