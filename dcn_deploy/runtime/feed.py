"""The one place where what a caller hands to a runner is checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dcn_deploy.errors import InvalidArgumentError, describe
from dcn_deploy.runtime.runner import TensorSpec

if TYPE_CHECKING:
    import numpy as np


def check_feed(
    backend: str,
    specs: Sequence[TensorSpec],
    feed: Mapping[str, Any],
    *,
    optional: Sequence[TensorSpec] = (),
    also: Iterable[Any] = (),
) -> None:
    """Refuse a feed that does not fit the model's inputs.

    Args:
        backend: name for the messages.
        specs: inputs that must be there.
        feed: one array for each input, by name.
        optional: inputs that may be there.
        also: further NumPy dtypes taken wherever a floating-point one is expected.

    Raises:
        InvalidArgumentError: naming the input, what was expected and what came.
    """
    known = {spec.name: spec for spec in (*specs, *optional)}
    unknown = [name for name in feed if name not in known]
    missing = [spec.name for spec in specs if spec.name not in feed]
    if unknown or missing:
        parts = [f"missing {', '.join(missing)}"] if missing else []
        parts += [f"unknown {', '.join(map(str, unknown))}"] if unknown else []
        raise InvalidArgumentError(
            describe(
                f"feed of the backend '{backend}'",
                expected="the inputs " + (", ".join(known) or "(none)"),
                actual=f"{', '.join(map(str, feed)) or 'nothing'} ({'; '.join(parts)})",
            )
        )
    extents: dict[str, tuple[int, str]] = {}
    for name, value in feed.items():
        _check_array(backend, known[name], value, tuple(also), extents)


def _check_array(
    backend: str, spec: TensorSpec, value: Any, also: tuple[Any, ...], extents: dict[str, tuple[int, str]]
) -> None:
    import numpy as np

    what = f"input '{spec.name}' of the backend '{backend}'"
    if not isinstance(value, np.ndarray):
        raise InvalidArgumentError(describe(what, expected="a NumPy array", actual=type(value).__qualname__))
    if spec.dtype is not None and value.dtype != spec.dtype:
        takes_also = also if _is_float(spec.dtype) else ()
        if not any(value.dtype == other for other in takes_also):
            remedy = f"Convert it: array.astype({spec.dtype.name!r})" + (
                " with ml_dtypes.bfloat16." if spec.dtype.name == "bfloat16" else "."
            )
            raise InvalidArgumentError(
                describe(f"element type of {what}", expected=spec.dtype, actual=value.dtype, remedy=remedy)
            )
    if spec.shape is None:
        return
    shape = "×".join("?" if extent is None else str(extent) for extent in spec.shape) or "a scalar"
    actual = "×".join(map(str, value.shape)) or "a scalar"
    if value.ndim != len(spec.shape):
        raise InvalidArgumentError(
            describe(
                f"shape of {what}",
                expected=f"{shape} (rank {len(spec.shape)})",
                actual=f"{actual} (rank {value.ndim})",
            )
        )
    for axis, (expected, extent) in enumerate(zip(spec.shape, value.shape, strict=True)):
        if isinstance(expected, int) and expected != extent:
            raise InvalidArgumentError(
                describe(
                    f"shape of {what}",
                    expected=f"{shape}: {expected} on axis {axis}",
                    actual=f"{actual}: {extent}",
                    remedy="Export with this axis dynamic to vary it.",
                )
            )
        if isinstance(expected, str):
            seen, where = extents.setdefault(expected, (extent, f"'{spec.name}' axis {axis}"))
            if seen != extent:
                raise InvalidArgumentError(
                    describe(
                        f"shape of {what}",
                        expected=f"{shape}: '{expected}' on axis {axis} is {seen} as in {where}",
                        actual=f"{actual}: {extent}",
                    )
                )


def _is_float(dtype: np.dtype[Any]) -> bool:
    # NumPy knows bfloat16 only as an opaque kind 'V' type registered by ml_dtypes.
    return dtype.kind == "f" or dtype.name == "bfloat16"


def check_outputs(backend: str, specs: Sequence[TensorSpec], wanted: Sequence[str] | None) -> list[str]:
    """Return the names of the wanted outputs, all of them for None.

    Raises:
        InvalidArgumentError: if the model has no output of a wanted name.
    """
    names = [spec.name for spec in specs]
    if wanted is None:
        return names
    unknown = [name for name in wanted if name not in names]
    if unknown:
        shown = names if len(names) <= 20 else [*names[:20], f"... ({len(names)} in all)"]
        raise InvalidArgumentError(
            describe(
                f"outputs of the backend '{backend}'", expected=f"some of {', '.join(shown)}", actual=", ".join(unknown)
            )
        )
    return list(wanted)
