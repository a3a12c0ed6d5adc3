"""The direction of dependency between the native parts, read from their includes.

    core, include ← {onnxruntime, tensorrt}

``core`` knows no framework; the adapters above it never include each other.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import source_tree

_PLUGINS = source_tree.CHECKOUT / "plugins"
_SUFFIXES = {".h", ".hpp", ".cuh", ".cc", ".cpp", ".cu"}
_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]', re.MULTILINE)

_FRAMEWORKS = {
    "torch": re.compile(r"^(torch|ATen|c10|caffe2|pybind11|Python\.h)(/|$)"),
    "ONNX Runtime": re.compile(r"(^|/)onnxruntime_\w+\.h$|^onnxruntime/|^core/(session|framework|providers)/"),
    "TensorRT": re.compile(r"(^|/)Nv(Infer|OnnxParser|Utils)\w*\.h$"),
}
#: Part → the frameworks it may include, and the other parts.
_MAY_INCLUDE: dict[str, tuple[set[str], set[str]]] = {
    "core": (set(), set()),
    "include": (set(), set()),  # the header that is installed
    "onnxruntime": ({"ONNX Runtime"}, {"core"}),
    "tensorrt": ({"TensorRT"}, {"core", "include"}),
}


def _sources() -> list[Path]:
    return sorted(path for path in _PLUGINS.rglob("*") if path.suffix in _SUFFIXES)


def _part(path: Path) -> str:
    return path.relative_to(_PLUGINS).parts[0]


def _framework(include: str, part: str) -> str | None:
    if part == "onnxruntime" and (_PLUGINS / include).is_file():
        return None  # our own folder of that name
    return next((name for name, pattern in _FRAMEWORKS.items() if pattern.search(include)), None)


def violations(text: str, path: Path) -> list[str]:
    """What ``text``, the contents of the file ``path`` below plugins/, includes against the direction."""
    part = _part(path)
    frameworks, parts = _MAY_INCLUDE[part]
    found = []
    for quote, include in _INCLUDE.findall(text):
        framework = _framework(include, part)
        if framework is not None and framework not in frameworks:
            found.append(f"{path.relative_to(_PLUGINS)}: {part} includes {framework}'s {include}")
            continue
        if framework is not None or quote == "<":
            continue
        candidates = [
            path.parent / include,
            _PLUGINS / include,
            _PLUGINS / part / include,
            _PLUGINS / "include" / include,
        ]
        target = next((c.resolve() for c in candidates if c.is_file()), None)
        if target is None:
            found.append(f"{path.relative_to(_PLUGINS)}: no file for the include {include}")
        elif not target.is_relative_to(_PLUGINS):
            found.append(f"{path.relative_to(_PLUGINS)}: {include} is outside plugins/")
        elif _part(target) != part and _part(target) not in parts:
            found.append(f"{path.relative_to(_PLUGINS)}: {part} includes {_part(target)}'s {include}")
    return found


@pytest.mark.parametrize("path", _sources(), ids=lambda path: str(path.relative_to(_PLUGINS)))
def test_file_keeps_the_direction(path: Path) -> None:
    found = violations(path.read_text(encoding="utf-8"), path)
    assert not found, "\n".join(found)


def test_every_part_is_known() -> None:
    parts = {_part(path) for path in _sources()}
    assert parts <= set(_MAY_INCLUDE), f"add to the table: {sorted(parts - set(_MAY_INCLUDE))}"
    assert set(_MAY_INCLUDE) == parts


@pytest.mark.parametrize(
    ("where", "line"),
    [
        ("core/a.h", "#include <onnxruntime_c_api.h>"),
        ("core/a.h", '#include "onnxruntime_cxx_api.h"'),
        ("core/a.h", "#  include <NvInfer.h>"),
        ("core/cpu/a.cc", "#include <torch/extension.h>"),
        ("core/cpu/a.cc", "#include <ATen/ATen.h>"),
        ("core/a.h", '#include "onnxruntime/api.h"'),
        ("core/cpu/a.h", '#include "../../onnxruntime/api.h"'),
        ("onnxruntime/a.cc", "#include <NvInferRuntime.h>"),
        ("onnxruntime/a.cc", "#include <torch/torch.h>"),
        ("tensorrt/a.cc", "#include <onnxruntime_c_api.h>"),
        ("tensorrt/a.cc", '#include "onnxruntime/api.h"'),
        ("onnxruntime/a.cc", '#include "no_such_file.h"'),
        ("onnxruntime/a.cc", '#include "../../tests/cpp/no_such_file.h"'),
    ],
)
def test_the_check_sees(where: str, line: str) -> None:
    assert violations(f"int a;\n{line}\n", _PLUGINS / where)


def test_the_check_allows() -> None:
    assert not violations("#include <vector>\n#include <onnxruntime_c_api.h>\n", _PLUGINS / "onnxruntime/a.cc")
    assert not violations("// #include <NvInfer.h>\n", _PLUGINS / "core/a.cc")
    assert not violations('#include "core/status.h"\n', _PLUGINS / "onnxruntime/a.cc")


@pytest.mark.parametrize("path", _sources(), ids=lambda path: str(path.relative_to(_PLUGINS)))
def test_bad_input_never_ends_the_process(path: Path) -> None:
    """No exit, abort or assert: a library reports bad input to its host."""
    text = re.sub(r"//[^\n]*|/\*.*?\*/", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    calls = re.findall(r"(?<![\w.>:])(?:std::)?(exit|abort|quick_exit|_Exit|assert|terminate)\s*\(", text)
    assert not calls, f"{path.relative_to(_PLUGINS)} calls {calls}"


def test_cmake_lists_its_sources() -> None:
    """A glob does not see a file that was added after the configure step."""
    lists = [*_PLUGINS.rglob("CMakeLists.txt"), *(source_tree.CHECKOUT / "cmake").glob("*.cmake")]
    for path in [source_tree.CHECKOUT / "CMakeLists.txt", *lists]:
        text = re.sub(r"#[^\n]*", "", path.read_text(encoding="utf-8"))
        assert not re.search(r"file\s*\(\s*GLOB", text, re.IGNORECASE), path
