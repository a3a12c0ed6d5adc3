"""What the tracked files may and must contain."""

from __future__ import annotations

import ast
import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import source_tree


def _tracked_text() -> list[tuple[Path, str]]:
    pairs = [(path, source_tree.text_of(path)) for path in source_tree.tracked_files()]
    return [(path, text) for path, text in pairs if text is not None]


def _name(path: Path) -> str:
    return str(path.relative_to(source_tree.CHECKOUT))


# One version.


def test_version_has_the_form_of_a_release() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", (source_tree.CHECKOUT / "VERSION").read_text())


def test_the_version_is_written_in_one_place() -> None:
    """Nothing but VERSION states it; the changelog, which tells of versions, is the exception."""
    version = re.escape((source_tree.CHECKOUT / "VERSION").read_text().strip())
    code = {".py", ".cc", ".h", ".cu", ".cuh", ".cmake", ".toml", ".txt", ".cfg", ".yaml", ".yml", ".json", ".sh"}
    literal = re.compile(rf"""(["'(\s=]|VERSION\s+)v?{version}(["')\s]|$)""", re.MULTILINE)
    found = []
    for path, text in _tracked_text():
        if path.suffix not in code and path.name != "Makefile":
            continue
        if path.name == "constraints.txt" or "results" in (*path.parts, path.stem):  # of others, of a measurement
            continue
        found += [f"{_name(path)}: {match.group(0)!r}" for match in literal.finditer(text)]
    assert not found, "\n".join(found)


def test_no_version_variable_is_assigned_a_literal() -> None:
    assigned = re.compile(r"""__version__\s*=\s*["']|^\s*version\s*=\s*["']\d""", re.MULTILINE)
    for path, text in _tracked_text():
        if path.suffix in {".py", ".toml"} and "tests" not in path.parts:
            assert not assigned.search(text), _name(path)


# Nothing of the machine on which it was written.


@functools.cache
def _registry_hosts() -> set[str]:
    """Hosts of package registries: the public ones, and those this machine is set up with."""
    public = ("pypi", "org"), ("pythonhosted", "org"), ("deb.debian", "org"), ("download.pytorch", "org")
    hosts = {".".join(parts) for parts in (*public, ("pypi.nvidia", "com"), ("conda.anaconda", "org"))}
    configured = [value for key, value in os.environ.items() if re.search(r"INDEX|PROXY|MIRROR", key.upper())]
    shown = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False)
    configured.append(shown.stdout)
    sources = [*Path("/etc/apt").glob("sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
    configured += [path.read_text(errors="replace") for path in sources if path.is_file()]
    for text in configured:
        hosts |= set(re.findall(r"https?://(?:[^/@\s'\"]*@)?([A-Za-z0-9.-]+\.[A-Za-z]+)", text))
    return hosts - {"github.com"}  # code, not packages


def _of_the_machine(text: str) -> list[tuple[int, str]]:
    """(line, text) of every machine path and registry host in a file's contents."""
    roots = ("root", "work", "Users/[a-z]+", "home/[a-z]+", "workspace", "mnt/[a-z]+")
    machine_path = re.compile(r"(?<![\w.$})~/-])/(?:" + "|".join(roots) + r")/[\w.-]+")
    hosts = re.compile("|".join(re.escape(host) for host in sorted(_registry_hosts())))
    return [
        (text.count("\n", 0, match.start()) + 1, match.group(0))
        for pattern in (machine_path, hosts)
        for match in pattern.finditer(text)
    ]


def test_no_machine_path_or_registry_host_is_in_the_tracked_files() -> None:
    found = [
        f"{_name(path)}, line {line}: {what}" for path, text in _tracked_text() for line, what in _of_the_machine(text)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (f"a = '{os.sep}root{os.sep}x'", 1),
        (f"see {os.sep}home{os.sep}me{os.sep}project", 1),
        ("https://" + ".".join(["pypi", "org"]) + "/simple", 1),
        (f"one{os.sep}root{os.sep}two, ${{prefix}}{os.sep}work{os.sep}x, {os.sep}usr{os.sep}include", 0),
    ],
)
def test_the_search_for_machine_paths_finds(text: str, count: int) -> None:
    assert len(_of_the_machine(text)) == count


def test_the_checkout_path_is_in_no_tracked_file() -> None:
    here = str(source_tree.CHECKOUT)
    assert not [_name(path) for path, text in _tracked_text() if here in text]


def test_no_large_file_is_tracked() -> None:
    large = {_name(p): p.stat().st_size for p in source_tree.tracked_files() if p.stat().st_size > 1_000_000}
    assert not large, "results and models are made, not stored"


# What a reader finds.


def _without_docstring(path: Path) -> list[str]:
    missing = []
    tree = source_tree.tree_of(path)
    if not ast.get_docstring(tree):
        missing.append(f"{_name(path)}: the module")
    definition = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)

    def walk(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.If, ast.Try)):
                walk(child, prefix)
            if not isinstance(child, definition) or child.name.startswith("_"):
                continue
            decorators = {ast.unparse(decorator) for decorator in child.decorator_list}
            if not ast.get_docstring(child) and not decorators & {"overload", "typing.overload"}:
                missing.append(f"{_name(path)}, line {child.lineno}: {prefix}{child.name}")
            if isinstance(child, ast.ClassDef):
                walk(child, f"{prefix}{child.name}.")

    walk(tree, "")
    return missing


def test_every_public_name_has_a_docstring() -> None:
    missing = [line for path in source_tree.modules().values() for line in _without_docstring(path.resolve())]
    assert not missing, "\n".join(missing)


def test_no_catch_all_module() -> None:
    """A file is one thing, and its name says which."""
    vague = {"util", "utils", "helper", "helpers", "common", "misc", "stuff", "tools"}
    found = [
        _name(path)
        for path in source_tree.tracked_files()
        if vague & {part.split(".")[0].lower() for part in path.relative_to(source_tree.CHECKOUT).parts}
    ]
    assert not found


def test_no_test_is_expected_to_fail() -> None:
    pattern = re.compile(r"mark\.x" + r"fail|pytest\.x" + r"fail\(")
    found = [_name(path) for path, text in _tracked_text() if path.suffix == ".py" and pattern.search(text)]
    assert not found


def test_the_tests_mirror_the_source() -> None:
    parts = {
        name.split(".")[1] for name, path in source_tree.modules().items() if path.name == "__init__.py" and "." in name
    }
    missing = [part for part in sorted(parts) if not list((source_tree.CHECKOUT / "tests" / part).glob("test_*.py"))]
    assert not missing, f"no tests/{{{','.join(missing)}}}/test_*.py"


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "Makefile", ".ci/run"])
def test_what_a_newcomer_looks_for_is_there(name: str) -> None:
    path = source_tree.CHECKOUT / name
    assert path.is_file()
    assert path.stat().st_size > 0


def test_ci_runs_the_same_command_as_the_readme() -> None:
    ci = source_tree.CHECKOUT / ".ci" / "run"
    assert os.access(ci, os.X_OK)
    assert re.search(r"\bmake\b[^\n]*\btest\b", ci.read_text())
