"""What our Python calls of TensorRT, read from the source, beside what the real bindings have.

Tests write ``import tensorrt_bindings``. The expressions of a function are followed from the names that are known to
be TensorRT's (``trt`` and what :data:`KNOWN` says of parameters) through assignments and calls, whose results the
bindings' docstrings tell; every attribute on the way is a :class:`Use`.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

#: The type of the module itself.
MODULE = "module"

#: What expressions and parameters of our code are, by their text; the same name is the same thing everywhere.
KNOWN: Mapping[str, str] = {
    "trt": MODULE,
    "self.trt": MODULE,
    "api.trt": MODULE,
    "self.api.trt": MODULE,
    "self._api.trt": MODULE,
    "self.registry": "IPluginRegistry",
    "api.registry": "IPluginRegistry",
    "engine": "ICudaEngine",
    "self._engine": "ICudaEngine",
    "self._runtime": "Runtime",
    "context": "IExecutionContext",
    "self._context": "IExecutionContext",
    "builder": "Builder",
    "config": "IBuilderConfig",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "error": "ParserError",
    "severity": "ILogger.Severity",
    "creator": "IPluginCreatorV3One",
}

#: The same for names that are TensorRT's in one file alone.
KNOWN_IN: Mapping[str, Mapping[str, str]] = {
    "layers.py": {"runtime": "Runtime"},
    "parsing.py": {"tensor": "ITensor"},
}


@dataclass(frozen=True)
class Use:
    """One attribute that our code takes of TensorRT.

    Attributes:
        where: file and line.
        owner: the class (or :data:`MODULE`) that has it.
        name: the attribute.
        positional: number of positional arguments if it is called, None if not.
        keywords: names of the keyword arguments.
    """

    where: str
    owner: str
    name: str
    positional: int | None = None
    keywords: tuple[str, ...] = ()


class Bindings:
    """One package's bindings."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module
        self.name = module.__name__

    def class_of(self, owner: str) -> Any:
        """The class called ``owner``; None if the package has none."""
        found: Any = self.module
        if owner != MODULE:
            for part in owner.split("."):
                found = getattr(found, part, None)
        return found

    def member(self, use: Use) -> Any:
        """The attribute itself; None if the class has none of that name."""
        return getattr(self.class_of(use.owner), use.name, None)

    def result(self, owner: str, name: str, called: bool) -> str | None:
        """Class of an attribute's value, or of what calling it gives, as the docstring says it; None if unknown."""
        member = getattr(self.class_of(owner), name, None)
        if inspect.isclass(member):
            return f"{owner}.{name}" if owner != MODULE else name
        if not called and isinstance(member, property):
            member = member.fget
        if member is None:
            return None
        returns = re.search(r"->\s*([\w.:]+)", member.__doc__ or "")
        kind = returns[1].rpartition(f"{self.name}.")[2] if returns else ""
        if kind.startswith("nvonnxparser"):
            kind = {"nvonnxparser::IParserError": "ParserError"}.get(kind, "")
        return kind if kind and self.class_of(kind) is not None and inspect.isclass(self.class_of(kind)) else None

    def problem(self, use: Use) -> str | None:
        """Why our use is wrong; None if it is right."""
        member = self.member(use)
        if member is None:
            return f"{use.where}: {self.name} has no {use.owner}.{use.name}"
        if use.positional is None:
            return None
        # base.__init__(self) says its self; whatever else is called has it already, or has none.
        bound = use.name != "__init__" and (use.owner != MODULE or inspect.isclass(member))
        documentation = member.__init__.__doc__ if inspect.isclass(member) else member.__doc__
        signatures = list(_signatures(documentation or "", bound=bound))
        if not signatures or any(_fits(parameters, use) for parameters in signatures):
            return None
        return f"{use.where}: {self.name}'s {use.owner}.{use.name} takes {signatures}, called with {use}"


def _signatures(documentation: str, *, bound: bool) -> Iterator[list[tuple[str, bool]]]:
    """(name, has a default) of each parameter, for each overload that a docstring of pybind11 lists."""
    for line in documentation.splitlines():
        match = re.match(r"\s*(?:\d+\.\s*)?\w+\((.*)\)\s*->", line)
        if match is None or match[1].startswith("*args"):
            continue
        parameters = [part for part in re.split(r",\s*(?=[\w*]+\s*:)", match[1]) if part]
        named = [(part.partition(":")[0].strip(), "=" in part.partition(":")[2]) for part in parameters]
        yield named[1:] if bound and named and named[0][0] == "self" else named


def _fits(parameters: list[tuple[str, bool]], use: Use) -> bool:
    positional = use.positional or 0
    rest = dict(parameters[positional:])
    return (
        positional <= len(parameters)
        and set(use.keywords) <= set(rest)
        and all(has_default or name in use.keywords for name, has_default in rest.items())
    )


class _Function(ast.NodeVisitor):
    """Follows the expressions of one function."""

    def __init__(self, bindings: Bindings, path: Path, known: Mapping[str, str]) -> None:
        self._bindings = bindings
        self._path = path
        self._types = dict(known)
        self.uses: list[Use] = []

    def type_of(self, node: ast.AST) -> str | None:
        """Class of an expression's value, as far as it is known."""
        if ast.unparse(node) in self._types:
            return self._types[ast.unparse(node)]
        if isinstance(node, ast.IfExp):
            return self.type_of(node.body) or self.type_of(node.orelse)
        if isinstance(node, ast.Attribute):
            owner = self.type_of(node.value)
            return None if owner is None else self._bindings.result(owner, node.attr, called=False)
        if isinstance(node, ast.Call):
            return self._type_of_call(node)
        return None

    def _type_of_call(self, node: ast.Call) -> str | None:
        function = node.func
        if isinstance(function, ast.Attribute):
            if function.attr == "_created":  # self._created(lambda: trt.Builder(...), ...)
                made = node.args[0]
                return self.type_of(made.body) if isinstance(made, ast.Lambda) else self._returned(made)
            return self._returned(function)
        if isinstance(function, ast.Name) and function.id == "getattr" and len(node.args) >= 2:
            owner, name = self.type_of(node.args[0]), node.args[1]
            if owner is not None and isinstance(name, ast.Constant):
                return self._bindings.result(owner, str(name.value), called=False)
        return None

    def _returned(self, function: ast.AST) -> str | None:
        if not isinstance(function, ast.Attribute):
            return None
        owner = self.type_of(function.value)
        return None if owner is None else self._bindings.result(owner, function.attr, called=True)

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        for target in node.targets:
            pairs = (
                zip(target.elts, node.value.elts, strict=True)
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
                else [(target, node.value)]
            )
            for each, value in pairs:
                self.visit(each)
                kind = self.type_of(value)
                if kind is not None and isinstance(each, ast.Name):
                    self._types[each.id] = kind

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)
            kind = self.type_of(node.value)
            if kind is not None and isinstance(node.target, ast.Name):
                self._types[node.target.id] = kind

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self._use(node)
        self.visit(node.value)

    def visit_Call(self, node: ast.Call) -> None:
        keywords = tuple(keyword.arg for keyword in node.keywords if keyword.arg)
        if isinstance(node.func, ast.Attribute) and self._use(node.func, len(node.args), keywords):
            self.visit(node.func.value)
        else:
            self.visit(node.func)
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        owner = self.type_of(node.args[0]) if name == "getattr" and node.args else None
        if owner is not None and isinstance(node.args[1], ast.Constant):
            self.uses.append(Use(self._where(node), owner, str(node.args[1].value)))
        for child in (*node.args, *node.keywords):
            self.visit(child)

    def _use(self, node: ast.Attribute, positional: int | None = None, keywords: tuple[str, ...] = ()) -> bool:
        if ast.unparse(node) in KNOWN:
            return False
        owner = self.type_of(node.value)
        if owner is None:
            return False
        self.uses.append(Use(self._where(node), owner, node.attr, positional, keywords))
        return True

    def _where(self, node: ast.AST) -> str:
        return f"{self._path.name}, line {getattr(node, 'lineno', 0)}"


def uses(bindings: Bindings, path: Path) -> list[Use]:
    """Return everything that a file of ours takes of TensorRT, followed with the docstrings of ``bindings``."""
    found: list[Use] = []
    for function in _functions(ast.parse(path.read_text(encoding="utf-8"))):
        follower = _Function(bindings, path, {**KNOWN, **KNOWN_IN.get(path.name, {})})
        for statement in function.body:
            follower.visit(statement)
        found += follower.uses
    return list(dict.fromkeys(found))


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    """The outermost functions, methods included; what is defined inside one is followed with it."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef):
            yield node
        elif isinstance(node, ast.ClassDef):
            yield from _functions(node)


def overrides(path: Path) -> Iterator[tuple[str, str, list[str]]]:
    """(class of TensorRT, method, parameters) of each method that a class of ours overrides."""
    for function in _functions(ast.parse(path.read_text(encoding="utf-8"))):
        bases = {
            target.target.id: target.value.attr
            for target in ast.walk(function)
            if isinstance(target, ast.AnnAssign)
            and isinstance(target.target, ast.Name)
            and isinstance(target.value, ast.Attribute)
            and ast.unparse(target.value.value) in KNOWN
        }
        for node in ast.walk(function):
            if isinstance(node, ast.ClassDef):
                for base in node.bases:
                    if isinstance(base, ast.Name) and base.id in bases:
                        for method in node.body:
                            if isinstance(method, ast.FunctionDef) and method.name != "__init__":
                                yield bases[base.id], method.name, [a.arg for a in method.args.args[1:]]
