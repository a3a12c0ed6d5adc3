"""Golden files: inputs and the outputs that a reference gave for them, in one ``.npz``.

Keys are ``input:NAME`` and ``output:NAME``, or plain names where they say by themselves which they are;
``0/input:NAME``, ``1/input:NAME``, … for several feeds. Keys ``meta:…`` hold text about the origin.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dcn_deploy.errors import InvalidArgumentError, describe
from dcn_deploy.validation.comparison import Array, element_kind
from dcn_deploy.validation.inputs import INPUT, META, OUTPUT, Feed, Feeds, conform, read_npz, split_batches

if TYPE_CHECKING:
    from dcn_deploy.runtime.runner import TensorSpec


def read_golden(
    path: str | os.PathLike[str],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[str],
    feeds: Feeds | None = None,
) -> Feeds:
    """Return the feeds of a golden file, each with its golden outputs.

    Args:
        path: the file.
        inputs: the model's inputs.
        outputs: names of the model's outputs; the file may hold some of them only.
        feeds: inputs, for a file that holds outputs alone.

    Raises:
        InvalidArgumentError: if the file can't be read, a key fits neither side, no output is there, or inputs
            come from both places or neither.
        DtypeError: if an array has the wrong kind of element.
    """
    file = Path(path).name
    arrays = {key: array for key, array in read_npz(path).items() if not key.startswith(META)}
    batches = split_batches(arrays)
    given = None if feeds is None else list(feeds)
    if given is not None and len(given) != len(batches):
        raise InvalidArgumentError(
            describe(f"feeds for '{file}'", expected=f"{len(batches)}, one for each of its sets", actual=len(given))
        )
    result = []
    for number, batch in enumerate(batches):
        name = file + (f"[{number}]" if len(batches) > 1 else "")
        fed, expected = _sides(batch, inputs, outputs, name)
        if not expected:
            raise InvalidArgumentError(
                describe(
                    f"'{name}'",
                    expected=f"golden outputs ({', '.join(outputs)})",
                    actual=f"only {', '.join(batch)}",
                    remedy="Write one with dcn-deploy validate --save-golden, or give the file as --inputs.",
                )
            )
        if bool(fed) == (given is not None):
            raise InvalidArgumentError(
                describe(
                    f"inputs for '{name}'",
                    expected="them in that file or given apart, not both",
                    actual="both" if fed else "neither",
                    remedy="Drop --inputs." if fed else f"Give --inputs with {', '.join(s.name for s in inputs)}.",
                )
            )
        if given is not None:
            result.append(Feed(given[number].name, given[number].arrays, expected))
        else:
            result.append(Feed(name, conform(fed, inputs, name), expected))
    return Feeds(f"{len(result)} feed{'s' * (len(result) > 1)} of {file}", len(result), result.__getitem__)


def read_origin(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return the ``meta:`` texts of a golden file, without the prefix."""
    return {
        key.removeprefix(META): str(array.item())
        for key, array in read_npz(path).items()
        if key.startswith(META) and array.ndim == 0
    }


def _sides(
    batch: Mapping[str, Array], inputs: Sequence[TensorSpec], outputs: Sequence[str], name: str
) -> tuple[dict[str, Array], dict[str, Array]]:
    input_names = {spec.name for spec in inputs}
    fed, expected = {}, {}
    for key, array in batch.items():
        if key.startswith(INPUT):
            fed[key.removeprefix(INPUT)] = array
        elif key.startswith(OUTPUT):
            expected[key.removeprefix(OUTPUT)] = array
        elif (key in input_names) == (key in outputs):
            raise InvalidArgumentError(
                describe(
                    f"key '{key}' of '{name}'",
                    expected=f"an input ({', '.join(sorted(input_names))}) or an output ({', '.join(outputs)})",
                    actual="both" if key in outputs else "neither",
                    remedy=f"Write it as {INPUT}{key} or {OUTPUT}{key}."
                    if key in outputs
                    else "Name every array after an input or output of the model.",
                )
            )
        elif key in input_names:
            fed[key] = array
        else:
            expected[key] = array
    unknown = [key for key in expected if key not in outputs]
    if unknown:
        raise InvalidArgumentError(
            describe(
                f"golden outputs of '{name}'",
                expected=f"outputs of the model ({', '.join(outputs)})",
                actual=", ".join(unknown),
            )
        )
    return fed, expected


def golden_path(path: str | os.PathLike[str]) -> Path:
    """Return the path of a golden file to be written.

    Raises:
        InvalidArgumentError: if it does not end in ``.npz``, or its folder is not there.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise InvalidArgumentError(describe("golden file", expected="a path that ends in .npz", actual=f"'{path}'"))
    if not path.parent.is_dir():
        raise InvalidArgumentError(
            describe("golden file", expected="a folder to write it in", actual=f"no folder '{path.parent}'")
        )
    return path


def save_golden(
    path: str | os.PathLike[str],
    sets: Sequence[tuple[Mapping[str, Array], Mapping[str, Array]]],
    origin: Mapping[str, str],
) -> None:
    """Write a golden file.

    bfloat16 and narrower floating-point types, which ``.npz`` cannot name, are stored as float32.

    Args:
        path: the file; must end in ``.npz``.
        sets: inputs and outputs of each feed, by name.
        origin: texts about where the outputs come from.

    Raises:
        InvalidArgumentError: if there is nothing to write, or the file cannot be written.
    """
    path = golden_path(path)
    if not sets:
        raise InvalidArgumentError(describe("golden file", expected="at least one feed", actual="none"))
    content: dict[str, Array] = {META + key: np.array(text) for key, text in origin.items()}
    for number, (fed, expected) in enumerate(sets):
        place = f"{number}/" if len(sets) > 1 else ""
        content.update({f"{place}{INPUT}{name}": _storable(array) for name, array in fed.items()})
        content.update({f"{place}{OUTPUT}{name}": _storable(array) for name, array in expected.items()})
    try:
        with path.open("wb") as file:
            # Not savez(**content): a key called "file" would collide with its own parameter.
            _write(file, content)
    except OSError as error:
        raise InvalidArgumentError(
            describe("golden file", expected="a file that can be written", actual=f"'{path}' ({error.strerror})")
        ) from error


def _write(file: object, content: Mapping[str, Array]) -> None:
    import io
    import zipfile

    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:  # type: ignore[call-overload]
        for key, array in content.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.asarray(array), allow_pickle=False)
            archive.writestr(f"{key}.npy", buffer.getvalue())


def _storable(array: Array) -> Array:
    if array.dtype.kind == "V" and element_kind(array.dtype) == "float":
        return array.astype(np.float32)
    return array
