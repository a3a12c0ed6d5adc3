"""Shape profiles: which extents an engine's dynamic inputs may have, and for which it is made fast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dcn_deploy.errors import InvalidArgumentError, describe
from dcn_deploy.runtime.engine_metadata import Range
from dcn_deploy.runtime.runner import TensorSpec

#: Range of each input, by name.
Profile = Mapping[str, Range]

_WHICH = ("smallest", "optimal", "largest")


def fixed(shape: Sequence[int]) -> Range:
    """Return the range of one shape alone."""
    return tuple(shape), tuple(shape), tuple(shape)


def check_profiles(profiles: Sequence[Profile], inputs: Sequence[TensorSpec]) -> tuple[dict[str, Range], ...]:
    """Return the profiles for the builder: ranges of those inputs that have dynamic extents.

    Args:
        profiles: ranges by input; an input of fixed shape may be there or not.
        inputs: what the network takes.

    Returns:
        One entry a profile; none if every input has a fixed shape.

    Raises:
        InvalidArgumentError: if a name is unknown, a dynamic input has no range, or a range does not fit the input.
    """
    dynamic = [spec for spec in inputs if is_dynamic(spec)]
    if dynamic and not profiles:
        raise _missing(dynamic)
    checked = []
    for number, profile in enumerate(profiles):
        where = f" in profile {number + 1}" if len(profiles) > 1 else ""
        _check_names(profile, inputs, where)
        lacking = [spec for spec in dynamic if spec.name not in profile]
        if lacking:
            raise _missing(lacking, where)
        for spec in inputs:
            if spec.name in profile:
                _check_range(spec, profile[spec.name], where)
        _check_named_extents(profile, inputs, where)
        checked.append({spec.name: profile[spec.name] for spec in dynamic})
    return tuple(checked) if dynamic else ()


def is_dynamic(spec: TensorSpec) -> bool:
    """Whether an input has an extent that is not fixed."""
    return spec.shape is None or not all(isinstance(extent, int) for extent in spec.shape)


def _missing(specs: Sequence[TensorSpec], where: str = "") -> InvalidArgumentError:
    names = ", ".join(f"'{spec.name}' ({_text(spec)})" for spec in specs)
    options = " ".join(f"--shape {spec.name}={_example(spec)}" for spec in specs)
    ranges = " ".join(f"{spec.name}=MIN:OPT:MAX" for spec in specs)
    return InvalidArgumentError(
        describe(
            f"shapes of the dynamic inputs {names}{where}",
            expected="a shape, or a range of shapes, for each",
            actual="none",
            remedy=f"Give {options} for one shape, or --profile '{ranges}' for a range.",
        )
    )


def _example(spec: TensorSpec) -> str:
    if spec.shape is None:
        return "N,C,H,W"
    return ",".join(str(extent) if extent is not None else "?" for extent in spec.shape)


def _text(spec: TensorSpec) -> str:
    return "any rank" if spec.shape is None else "×".join("?" if e is None else str(e) for e in spec.shape)


def _check_names(profile: Profile, inputs: Sequence[TensorSpec], where: str) -> None:
    known = [spec.name for spec in inputs]
    unknown = [name for name in profile if name not in known]
    if unknown:
        raise InvalidArgumentError(
            describe(
                f"name of an input{where}", expected=f"one of {', '.join(known)}", actual=f"'{', '.join(unknown)}'"
            )
        )


def _check_range(spec: TensorSpec, range_: Range, where: str) -> None:
    for which, shape in zip(_WHICH, range_, strict=True):
        what = f"{which} shape of '{spec.name}'{where}"
        fits = spec.shape is None or (
            len(shape) == len(spec.shape)
            and all(not isinstance(e, int) or e == given for e, given in zip(spec.shape, shape, strict=True))
        )
        if not fits:
            raise InvalidArgumentError(describe(what, expected=_text(spec), actual="×".join(map(str, shape))))
        if any(extent < 0 for extent in shape):
            raise InvalidArgumentError(describe(what, expected="whole numbers", actual="×".join(map(str, shape))))
    low, best, high = range_
    if len({len(low), len(best), len(high)}) > 1 or any(
        not a <= b <= c for a, b, c in zip(low, best, high, strict=True)
    ):
        raise InvalidArgumentError(
            describe(
                f"shapes of '{spec.name}'{where}",
                expected="smallest ≤ optimal ≤ largest along each axis",
                actual=" ".join("×".join(map(str, shape)) for shape in range_),
            )
        )


def _check_named_extents(profile: Profile, inputs: Sequence[TensorSpec], where: str) -> None:
    """Two axes of the same name have the same extent in each of the three shapes."""
    for index, which in enumerate(_WHICH):
        seen: dict[str, tuple[int, str]] = {}
        for spec in inputs:
            if spec.shape is None or spec.name not in profile:
                continue
            for axis, (name, extent) in enumerate(zip(spec.shape, profile[spec.name][index], strict=True)):
                if not isinstance(name, str):
                    continue
                first, place = seen.setdefault(name, (extent, f"'{spec.name}' axis {axis}"))
                if first != extent:
                    raise InvalidArgumentError(
                        describe(
                            f"{which} shape of '{spec.name}'{where}",
                            expected=f"'{name}' on axis {axis} to be {first} as in {place}",
                            actual=extent,
                        )
                    )
