"""From what a user writes for MODEL to a network that is ready to export."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from dcn_deploy import _lazy
from dcn_deploy.boxes import Boxes, by_name
from dcn_deploy.errors import ModelSourceError, describe
from dcn_deploy.models import zoo

if TYPE_CHECKING:
    import torch

_GRAMMAR = "a name of the zoo, package.module:callable or path/to/file.py:callable"


@dataclass(frozen=True)
class ResolvedModel:
    """A network and what is known about its inputs.

    Attributes:
        module: the network, in evaluation mode.
        spec: what the user wrote.
        example_inputs: one tensor for each input, or None if the source names none.
        input_names: a name for each example input, or None.
        weights_path: the file whose weights it has, or None.
        output_names: names of the outputs in order, or None.
        boxes: which inputs hold regions of interest, and what those must fit.
    """

    module: torch.nn.Module
    spec: str
    example_inputs: tuple[torch.Tensor, ...] | None
    input_names: tuple[str, ...] | None
    weights_path: Path | None
    output_names: tuple[str, ...] | None = None
    boxes: Mapping[str, Boxes] = field(default_factory=dict)


def resolve(spec: str, weights: str | os.PathLike[str] | None = None) -> ResolvedModel:
    """Build the network that ``spec`` names and load its weights.

    Args:
        spec: one of

            - a name of the zoo, see :func:`dcn_deploy.models.names`;
            - ``package.module:callable``; the working directory is searched first, as ``python -m`` does;
            - ``path/to/file.py:callable``; the file's own folder is searched first, as ``python file.py`` does.

            The callable is a function or class that gives a ``torch.nn.Module`` when called without arguments,
            or such a module itself. A function may instead return ``(module, example_inputs)`` with a tuple
            of tensors or a dictionary of them by input name.
        weights: a weight file, see :func:`dcn_deploy.models.load_weights`.

    Raises:
        ModelSourceError: if the network cannot be found, imported or built, or the weights do not fit.
        MissingDependencyError: if torch is not installed.
    """
    from dcn_deploy.models.weights import load_weights

    _lazy.require("torch", f"the network '{spec}'")
    location, separator, attribute = spec.rpartition(":")
    if not separator:
        module, example_inputs, input_names = _from_zoo(spec)
        output_names = zoo.entry(spec).outputs or None
        boxes = dict(zoo.entry(spec).boxes)
    elif not location or not attribute:
        raise ModelSourceError(describe("MODEL", expected=_GRAMMAR, actual=repr(spec)))
    else:
        module, example_inputs, input_names = _from_user(location, attribute)
        output_names = None
        boxes = by_name(
            {name: tuple(x.shape) for name, x in zip(input_names or (), example_inputs or (), strict=False)}
        )
    if weights is not None:
        load_weights(module, weights)
    return ResolvedModel(
        module=module.eval(),
        spec=spec,
        example_inputs=example_inputs,
        input_names=input_names,
        weights_path=None if weights is None else Path(weights),
        output_names=output_names,
        boxes=boxes,
    )


_Parts = tuple["torch.nn.Module", "tuple[torch.Tensor, ...] | None", "tuple[str, ...] | None"]


def _from_zoo(name: str) -> _Parts:
    if name not in zoo.ZOO and (name.endswith((".py", ".onnx", ".pt", ".pth")) or os.sep in name):
        remedy = f"Name the callable: {name}:build" if name.endswith(".py") else "Give the network's source."
        raise ModelSourceError(describe("MODEL", expected=_GRAMMAR, actual=repr(name), remedy=remedy))
    row = zoo.entry(name)
    return zoo.create(name), zoo.example_inputs(name), tuple(row.inputs)


def _from_user(location: str, attribute: str) -> _Parts:
    import torch

    what = f"MODEL '{location}:{attribute}'"
    folder = str(Path(location).resolve().parent) if location.endswith(".py") else os.getcwd()
    with _first_on_path(folder):
        found: Any = _import(location, what)
        for part in attribute.split("."):
            if not hasattr(found, part):
                raise ModelSourceError(
                    describe(
                        what,
                        expected=f"an attribute '{part}'",
                        actual=f"'{location}' with {_public_callables(found)}",
                        remedy="Name a function, class or module object defined there.",
                    )
                )
            found = getattr(found, part)
        if not isinstance(found, torch.nn.Module):
            found = _call(found, what)
    example_inputs: Any = None
    if isinstance(found, tuple) and len(found) == 2:
        found, example_inputs = found
    if not isinstance(found, torch.nn.Module):
        raise ModelSourceError(
            describe(
                what,
                expected="a torch.nn.Module, or a callable that returns one (or one and its example inputs)",
                actual=f"a {type(found).__name__}",
                remedy="Return the network from the callable.",
            )
        )
    return found, *_named_inputs(found, example_inputs, what)


def _named_inputs(
    module: torch.nn.Module, example_inputs: Any, what: str
) -> tuple[tuple[torch.Tensor, ...] | None, tuple[str, ...] | None]:
    import torch

    if example_inputs is None:
        return None, None
    if isinstance(example_inputs, torch.Tensor):
        example_inputs = (example_inputs,)
    parameters = tuple(inspect.signature(module.forward).parameters)
    if isinstance(example_inputs, Mapping):
        names, tensors = tuple(example_inputs), tuple(example_inputs.values())
    else:
        tensors = tuple(example_inputs)
        names = parameters[: len(tensors)]
    if not all(isinstance(tensor, torch.Tensor) for tensor in tensors):
        raise ModelSourceError(
            describe(
                f"example inputs of {what}",
                expected="a tuple of tensors, or a dictionary of tensors by input name",
                actual=", ".join(type(tensor).__name__ for tensor in tensors),
            )
        )
    return tensors, names


def _import(location: str, what: str) -> ModuleType:
    try:
        if location.endswith(".py"):
            return _import_file(Path(location))
        if os.sep in location:
            raise ModelSourceError(describe(what, expected=_GRAMMAR, actual="a path that does not end in .py"))
        return importlib.import_module(location)
    except ModelSourceError:
        raise
    except ModuleNotFoundError as error:
        # the module itself (or a parent package) is absent, as opposed to something that it imports
        if error.name and (location == error.name or location.startswith(f"{error.name}.")):
            raise ModelSourceError(
                describe(
                    what,
                    expected=f"a module '{location}' on Python's path or in the working directory",
                    actual=f"no module named '{error.name}'",
                    remedy="Install its package, run from its folder, or give path/to/file.py:callable.",
                )
            ) from error
        raise ModelSourceError(_failed(what, "importing", error)) from error
    except Exception as error:  # whatever the user's code raises
        raise ModelSourceError(_failed(what, "importing", error)) from error


def _import_file(path: Path) -> ModuleType:
    path = path.expanduser().resolve()
    if not path.is_file():
        raise ModelSourceError(
            describe("MODEL", expected="an existing Python file", actual=f"'{path}'", remedy="Check the path.")
        )
    # a name of its own, so that two files of the same name, or a file called like a package, don't collide
    name = f"_dcn_deploy_model_{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look a class's module up here
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _call(found: Any, what: str) -> Any:
    if not callable(found):
        raise ModelSourceError(
            describe(
                what,
                expected="a torch.nn.Module, or a callable that returns one",
                actual=f"a {type(found).__name__}",
                remedy="Name a function or class.",
            )
        )
    try:
        signature = inspect.signature(found)
    except (TypeError, ValueError):  # a callable written in C may have no signature: calling it will tell
        signature = inspect.Signature()
    try:
        signature.bind()
    except TypeError as error:
        raise ModelSourceError(
            describe(
                what,
                expected="a callable that needs no argument",
                actual=f"{getattr(found, '__name__', found)}{signature} ({error})",
                remedy="Write a function without arguments that builds the network, and name that one.",
            )
        ) from error
    try:
        return found()
    except Exception as error:  # whatever the user's code raises
        raise ModelSourceError(_failed(what, "calling", error)) from error


def _failed(what: str, doing: str, error: BaseException) -> str:
    return f"{what}: {doing} it raised {type(error).__name__}: {error}. Run it by itself in Python to see where."


def _public_callables(found: Any) -> str:
    names = [name for name, value in vars(found).items() if callable(value) and not name.startswith("_")]
    return ", ".join(names[:8]) if names else "no callables"


@contextmanager
def _first_on_path(folder: str) -> Iterator[None]:
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
