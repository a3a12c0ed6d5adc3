"""The one tree of exceptions of the package.

Every message says what was expected, what came, and what to do about it. Each class also derives from
the built-in exception that callers of PyTorch or NumPy would look for, so ``except ValueError`` works.
"""

from __future__ import annotations


class DcnDeployError(Exception):
    """Base of every error raised by ``dcn_deploy``."""


class InvalidArgumentError(DcnDeployError, ValueError):
    """An argument, an attribute or a tensor's shape does not fit the operator."""


class DtypeError(DcnDeployError, TypeError):
    """A tensor's element type is not supported, or does not go with another tensor's."""


class MissingDependencyError(DcnDeployError, ImportError):
    """A Python package that this feature needs is not installed; the message names what to install."""


class LibraryNotBuiltError(DcnDeployError, FileNotFoundError):
    """A native library is not in this installation; the message names the missing piece."""


class ModelSourceError(DcnDeployError, ValueError):
    """A network or its weights could not be found, imported, called or loaded."""


class ExportError(DcnDeployError, RuntimeError):
    """A network could not be turned into an ONNX file of the wanted form."""


class InvalidModelError(DcnDeployError, ValueError):
    """An ONNX file is broken, or a deformable node in it is malformed."""


class UnsupportedError(DcnDeployError, NotImplementedError):
    """The request is well-formed, but this form, backend or version cannot do it; the message says which can."""


class BackendError(DcnDeployError, RuntimeError):
    """A runtime refused a model or failed while running it."""


def describe(what: str, *, expected: object, actual: object, remedy: str = "") -> str:
    """Return the text of an error in the project's form: ``what: expected E, got A. Remedy.``"""
    text = f"{what}: expected {expected}, got {actual}."
    return f"{text} {remedy}" if remedy else text
