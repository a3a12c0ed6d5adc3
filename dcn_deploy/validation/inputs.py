"""What the networks under comparison are fed with: stored arrays, generated ones, images of a folder.

All three give :class:`Feeds`, which can be walked any number of times and know their length; arrays are read or
made one batch at a time. They come in the element type of the model's inputs: :func:`conform` rounds to that
storage type, so that every runtime, the reference included, starts from the same numbers.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dcn_deploy import _lazy
from dcn_deploy.boxes import DEFAULT_COUNT
from dcn_deploy.errors import DtypeError, InvalidArgumentError, describe
from dcn_deploy.validation.comparison import Array, element_kind

if TYPE_CHECKING:
    from dcn_deploy.runtime.runner import TensorSpec

#: Mean and standard deviation, per channel, of the images of ImageNet scaled to [0, 1]: what most pretrained
#: classification and detection backbones expect of RGB input.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

#: Extent of a free axis when nobody says better: the batch, then height and width of a rank-4 input, then others.
DEFAULT_BATCH = 1
DEFAULT_SPATIAL = 224
DEFAULT_EXTENT = 16


@dataclass(frozen=True)
class Feed:
    """The input of one run.

    Attributes:
        name: where it comes from, for reports.
        arrays: one array for each input, by name.
        expected: golden outputs by name, where the source holds them.
    """

    name: str
    arrays: Mapping[str, Array]
    expected: Mapping[str, Array] | None = None


@dataclass(frozen=True)
class Feeds:
    """A sized collection of feeds that makes each one when it is its turn.

    Attributes:
        description: what they are, for reports.
    """

    description: str
    length: int
    make: Callable[[int], Feed] = field(repr=False)

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Feed]:
        for index in range(self.length):
            yield self.make(index)


def conform(arrays: Mapping[str, Array], specs: Sequence[TensorSpec], source: str) -> dict[str, Array]:
    """Round arrays to the storage types of a model's inputs and check them against their shapes.

    Floating-point arrays are rounded to the input's floating-point type; integers must keep their values.

    Args:
        arrays: by input name. Arrays of other names are refused.
        specs: the model's inputs. A spec without dtype or shape (a PyTorch network's) takes what comes.
        source: what the arrays are, for error messages.

    Raises:
        InvalidArgumentError: for missing or unknown names, or a wrong shape.
        DtypeError: where a conversion would change the meaning (float to integer) or an integer's value.
    """
    _check_names(arrays, specs, source)
    symbols: dict[str, tuple[int, str]] = {}
    return {spec.name: _conform_one(np.asarray(arrays[spec.name]), spec, source, symbols) for spec in specs}


def _check_names(arrays: Mapping[str, Array], specs: Sequence[TensorSpec], source: str) -> None:
    wanted = [spec.name for spec in specs]
    missing = [name for name in wanted if name not in arrays]
    unknown = [name for name in arrays if name not in wanted]
    if not missing and not unknown:
        return
    hints = []
    for name in unknown:
        close = difflib.get_close_matches(name, missing, n=1, cutoff=0.4)
        if close or (len(missing) == len(unknown) == 1):
            hints.append(f"rename '{name}' to '{close[0] if close else missing[0]}'")
    remedy = f"Did you mean to {', '.join(hints)}?" if hints else "Name each array after a model input."
    raise InvalidArgumentError(
        describe(
            f"arrays of {source}",
            expected=f"one for each input ({', '.join(wanted) or 'none'})",
            actual=f"{', '.join(arrays) or 'none'}"
            + (f" (missing: {', '.join(missing)})" if missing else "")
            + (f" (unknown: {', '.join(unknown)})" if unknown else ""),
            remedy=remedy,
        )
    )


def _conform_one(array: Array, spec: TensorSpec, source: str, symbols: dict[str, tuple[int, str]]) -> Array:
    what = f"input '{spec.name}' of {source}"
    if spec.shape is not None:
        if len(spec.shape) != array.ndim:
            raise InvalidArgumentError(
                describe(
                    what,
                    expected=f"rank {len(spec.shape)} {_shape_text(spec.shape)}",
                    actual=f"shape {list(array.shape)}",
                )
            )
        for axis, (extent, actual) in enumerate(zip(spec.shape, array.shape, strict=True)):
            if isinstance(extent, int) and extent != actual:
                raise InvalidArgumentError(
                    describe(
                        what,
                        expected=f"shape {_shape_text(spec.shape)}",
                        actual=f"{list(array.shape)} (axis {axis})",
                        remedy="Export the model with that axis dynamic, or give inputs of its shape.",
                    )
                )
            if isinstance(extent, str):
                first, where = symbols.setdefault(extent, (actual, spec.name))
                if first != actual:
                    raise InvalidArgumentError(
                        describe(
                            what,
                            expected=f"'{extent}' = {first} on axis {axis}, as in input '{where}'",
                            actual=actual,
                        )
                    )
    if spec.dtype is None or array.dtype == spec.dtype:
        return array
    kind, wanted = element_kind(array.dtype), element_kind(spec.dtype)
    if kind == wanted == "float" or (kind in ("integer", "boolean") and wanted == "float"):
        with np.errstate(over="ignore"):  # beyond float16's range: an infinity is how that type rounds it
            return array.astype(spec.dtype)
    if kind == wanted:
        converted = array.astype(spec.dtype)
        if not np.array_equal(converted, array):
            raise DtypeError(
                describe(
                    what, expected=f"values that {spec.dtype} can hold", actual=f"{array.dtype} values beyond its range"
                )
            )
        return converted
    raise DtypeError(
        describe(
            what,
            expected=f"element type {spec.dtype}",
            actual=f"{array.dtype}",
            remedy="Convert the array yourself if that is meant: it would change its meaning.",
        )
    )


def _shape_text(shape: Sequence[int | str | None]) -> str:
    return "[" + ", ".join("?" if extent is None else str(extent) for extent in shape) + "]"


# ---------------------------------------------------------------------------------------------- generated


def generated(
    specs: Sequence[TensorSpec],
    *,
    count: int = 1,
    seed: int = 0,
    shapes: Mapping[str, Sequence[int]] | None = None,
    integers: tuple[int, int] = (0, 10),
) -> Feeds:
    """Return feeds of random numbers: standard normal for floating-point inputs, boxes for regions of interest.

    Sample i depends on the seed, i, the input's position and its shape alone (boxes also on the shape of what they lie
    in), not on how many samples are made.

    Args:
        specs: the model's inputs, with element types. Those that hold regions of interest say so, see
            :func:`dcn_deploy.validation.roi_inputs.with_boxes`.
        count: number of feeds.
        seed: of the generator.
        shapes: shape by input name, for inputs with free axes. A free axis without one becomes 1 if it is the
            first (:data:`DEFAULT_BATCH`), 224 if it is height or width of a rank-4 input
            (:data:`DEFAULT_SPATIAL`), else 16 (:data:`DEFAULT_EXTENT`), as is the number of regions of interest; axes
            of one symbolic name agree.
        integers: half-open range of integer inputs; booleans are fair coins.

    Raises:
        InvalidArgumentError: if a shape does not fit, names an unknown input, or the rank is unknown.
        DtypeError: for inputs of text or complex numbers.
    """
    if count < 1:
        raise InvalidArgumentError(describe("number of samples", expected="at least 1", actual=count))
    if seed < 0:
        raise InvalidArgumentError(describe("seed", expected="a whole number ≥ 0", actual=seed))
    resolved = resolve_shapes(specs, shapes or {})
    for spec in specs:
        if spec.dtype is None or element_kind(spec.dtype) in ("complex", "text"):
            raise DtypeError(
                describe(
                    f"generated input '{spec.name}'",
                    expected="a floating-point, integer or boolean element type",
                    actual="an unknown one" if spec.dtype is None else f"{spec.dtype}",
                    remedy="Give the inputs in an .npz file.",
                )
            )
        if spec.boxes is not None:
            spec.boxes.check(spec.name, resolved[spec.name])

    def make(index: int) -> Feed:
        arrays = {}
        for position, spec in enumerate(specs):
            assert spec.dtype is not None
            random = np.random.default_rng([seed, index, position])
            kind = element_kind(spec.dtype)
            shape = resolved[spec.name]
            if spec.boxes is not None:
                array: Array = spec.boxes.draw(random, shape, resolved, integer=kind != "float")
            elif kind == "float":
                array = random.standard_normal(shape)
            elif kind == "integer":
                array = random.integers(*integers, size=shape)
            else:
                array = random.integers(0, 2, size=shape)
            arrays[spec.name] = np.asarray(array).astype(spec.dtype)
        return Feed(f"sample {index} of seed {seed}", arrays)

    sizes = ", ".join(
        f"{spec.name} {'×'.join(map(str, resolved[spec.name])) or 'scalar'}"
        + (f": {spec.boxes.text}" if spec.boxes is not None else "")
        for spec in specs
    )
    return Feeds(f"{count} generated sample{'s' * (count > 1)}, seed {seed} ({sizes})", count, make)


def resolve_shapes(specs: Sequence[TensorSpec], shapes: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    """Return a definite shape for each input; see :func:`generated` for the defaults.

    Raises:
        InvalidArgumentError: if a given shape contradicts the model, names an unknown input, or the rank of an
            input without a given shape is unknown.
    """
    unknown = [name for name in shapes if name not in {spec.name for spec in specs}]
    if unknown:
        raise InvalidArgumentError(
            describe(
                "--shape",
                expected=f"an input of the model ({', '.join(spec.name for spec in specs)})",
                actual=", ".join(unknown),
            )
        )
    symbols: dict[str, int] = {}
    # What the user fixed comes first, so that a symbol shared with another input takes the user's value.
    for spec in specs:
        given = shapes.get(spec.name)
        if given is None or spec.shape is None:
            continue
        clash = len(given) != len(spec.shape)
        for extent, size in zip(spec.shape, given, strict=False):
            if isinstance(extent, int):
                clash = clash or extent != size
            elif extent is not None:
                clash = clash or symbols.setdefault(extent, size) != size
        if clash:
            raise InvalidArgumentError(
                describe(
                    f"shape of input '{spec.name}'",
                    expected=_shape_text(spec.shape),
                    actual=list(given),
                    remedy="Only free axes can be chosen; axes of one name must agree.",
                )
            )
    resolved: dict[str, tuple[int, ...]] = {}
    for spec in specs:
        if spec.name in shapes:
            resolved[spec.name] = tuple(shapes[spec.name])
            continue
        if spec.shape is None:
            raise InvalidArgumentError(
                describe(
                    f"shape of input '{spec.name}'",
                    expected="a known rank",
                    actual="an input of unknown rank",
                    remedy=f"Give --shape {spec.name}=….",
                )
            )
        resolved[spec.name] = tuple(
            extent
            if isinstance(extent, int)
            else symbols.setdefault(extent if extent else f"\0{spec.name}.{axis}", _default(axis, spec))
            for axis, extent in enumerate(spec.shape)
        )
    return resolved


def _default(axis: int, spec: TensorSpec) -> int:
    rank = len(spec.shape or ())
    if spec.example is not None and len(spec.example) == rank:
        return spec.example[axis]
    if spec.boxes is not None:
        if spec.boxes.extent is not None and axis == rank - 1:
            return spec.boxes.extent
        return DEFAULT_COUNT if axis == max(rank - 2, 0) else DEFAULT_BATCH
    if axis == 0:
        return DEFAULT_BATCH
    return DEFAULT_SPATIAL if rank == 4 and axis >= 2 else DEFAULT_EXTENT


# ------------------------------------------------------------------------------------------------- stored

_BATCH_KEY = re.compile(r"(\d+)/(.+)", re.DOTALL)
#: Prefixes of the keys of an .npz: inputs, golden outputs, texts about their origin.
INPUT, OUTPUT, META = "input:", "output:", "meta:"


def read_npz(path: str | os.PathLike[str]) -> dict[str, Array]:
    """Read all arrays of an ``.npz`` file.

    Raises:
        InvalidArgumentError: if it is missing, no such file, empty, or holds pickled objects.
    """
    import zipfile

    path = Path(path)
    if not path.is_file():
        raise InvalidArgumentError(describe("inputs", expected="an .npz file", actual=f"no file '{path}'"))
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("a single array")
        with archive:
            arrays = {key: archive[key] for key in archive.files}
    except (ValueError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise InvalidArgumentError(
            describe(f"'{path}'", expected="an .npz archive of plain arrays", actual=str(error), remedy=_HOW_TO_SAVE)
        ) from error
    if not arrays:
        raise InvalidArgumentError(
            describe(f"'{path}'", expected="at least one array", actual="an empty archive", remedy=_HOW_TO_SAVE)
        )
    return arrays


_HOW_TO_SAVE = "Write it with numpy.savez(path, input_name=array)."


def split_batches(arrays: Mapping[str, Array]) -> list[dict[str, Array]]:
    """Split the keys ``0/name``, ``1/name``, … into one mapping a batch; plain keys are a single batch.

    Raises:
        InvalidArgumentError: if numbered and plain keys are mixed, or a number is left out.
    """
    batches: dict[int, dict[str, Array]] = {}
    plain = {}
    for key, array in arrays.items():
        match = _BATCH_KEY.fullmatch(key)
        if match:
            batches.setdefault(int(match[1]), {})[match[2]] = array
        else:
            plain[key] = array
    if not batches:
        return [dict(plain)]
    numbers = sorted(batches)
    if plain or numbers != list(range(len(numbers))):
        raise InvalidArgumentError(
            describe(
                "keys of several batches",
                expected="all of the form 0/NAME, 1/NAME, … without a gap",
                actual=", ".join(arrays),
            )
        )
    return [batches[number] for number in numbers]


def from_npz(paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], specs: Sequence[TensorSpec]) -> Feeds:
    """Return the feeds stored in one or several ``.npz`` files.

    A file holds one feed under the names of the model's inputs (``input:NAME`` also works, as do the nameless
    ``arr_0``, ``arr_1`` of positional ``numpy.savez``, in the model's order), or several under ``0/NAME``,
    ``1/NAME``, …

    Args:
        paths: one file, or several in the order of use.
        specs: the model's inputs.

    Raises:
        InvalidArgumentError: if a file can't be read or its arrays don't fit the inputs.
        DtypeError: if an array has the wrong kind of element.
    """
    paths = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    feeds = []
    for path in paths:
        batches = split_batches(read_npz(path))
        for number, batch in enumerate(batches):
            name = Path(path).name + (f"[{number}]" if len(batches) > 1 else "")
            arrays = {
                key.removeprefix(INPUT): array for key, array in batch.items() if not key.startswith((OUTPUT, META))
            }
            feeds.append(Feed(name, conform(_named(arrays, specs), specs, name)))
    files = ", ".join(Path(path).name for path in paths)
    return Feeds(f"{len(feeds)} feed{'s' * (len(feeds) > 1)} of {files}", len(feeds), feeds.__getitem__)


def _named(arrays: Mapping[str, Array], specs: Sequence[TensorSpec]) -> Mapping[str, Array]:
    positional = [f"arr_{index}" for index in range(len(arrays))]
    if len(specs) == len(arrays) and sorted(arrays) == sorted(positional):
        return {spec.name: arrays[key] for spec, key in zip(specs, positional, strict=True)}
    return arrays


# ------------------------------------------------------------------------------------------------- images


def images(
    folder: str | os.PathLike[str],
    specs: Sequence[TensorSpec],
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    batch: int | None = None,
    limit: int | None = None,
    shape: Sequence[int] | None = None,
) -> Feeds:
    """Return the images of a folder as batches for a model with a single image input.

    Images are taken in the order of their names, turned upright (EXIF), converted to RGB or grey by the number
    of channels of the input, resized to its height and width (bilinear, antialiased, aspect ratio not kept),
    scaled to [0, 1] and normalised to (value − mean)/std per channel. An input of unsigned bytes gets the bytes
    as they are, neither scaled nor normalised.

    Args:
        folder: searched for image files, not recursively.
        specs: the model's inputs: exactly one, of rank 4, channels in front (N, C, H, W) or last (N, H, W, C).
        mean: per channel, one value for all, or None: ImageNet's for RGB, the mean of those (0.449) for grey.
        std: likewise; 0.226 for grey.
        batch: images a run; None takes the model's own, 1 where that is free. Where the model's is fixed and the
            number of images is no multiple of it, the last batch is filled up with its last image.
        limit: largest number of images.
        shape: full shape of the input, for free axes; None takes 3 channels, 224×224.

    Raises:
        InvalidArgumentError: if the folder holds no images, a file cannot be read, or the input is none for images.
        MissingDependencyError: if Pillow is not installed.
    """
    image_module = _lazy.require("PIL.Image", "validation on images")
    image_module.init()
    folder = Path(folder)
    if not folder.is_dir():
        raise InvalidArgumentError(describe("--images", expected="a folder", actual=f"no folder '{folder}'"))
    if limit is not None and limit < 1:
        raise InvalidArgumentError(describe("limit of images", expected="at least 1", actual=limit))
    suffixes = set(image_module.registered_extensions())
    files = sorted(
        (path for path in folder.iterdir() if path.is_file() and path.suffix.lower() in suffixes),
        key=lambda path: path.name,
    )[:limit]
    if not files:
        raise InvalidArgumentError(
            describe(
                f"folder '{folder}'",
                expected="image files such as .png or .jpg",
                actual="none",
                remedy="Subfolders are not searched.",
            )
        )
    layout = _image_layout(specs, shape, batch)
    mean_array = _per_channel("mean", mean, IMAGENET_MEAN, layout.channels)
    std_array = _per_channel("std", std, IMAGENET_STD, layout.channels)
    if (std_array <= 0).any():
        raise InvalidArgumentError(describe("std", expected="positive values", actual=std_array.tolist()))

    def make(index: int) -> Feed:
        chosen = files[index * layout.batch : (index + 1) * layout.batch]
        loaded = [layout.load(path, mean_array, std_array) for path in chosen]
        if layout.batch_is_fixed:
            loaded += [loaded[-1]] * (layout.batch - len(loaded))
        name = chosen[0].name if len(chosen) == 1 else f"{chosen[0].name} … {chosen[-1].name}"
        return Feed(name, {layout.spec.name: np.stack(loaded).astype(layout.dtype)})

    count = -(-len(files) // layout.batch)
    size = f"{layout.height}×{layout.width}"
    number = f"{len(files)} image{'s' * (len(files) > 1)}"
    return Feeds(f"{number} from the folder {folder.resolve().name} at {size}, batch {layout.batch}", count, make)


@dataclass(frozen=True)
class _ImageLayout:
    """How the one image input wants its images."""

    spec: TensorSpec
    dtype: np.dtype[Any]
    batch: int
    batch_is_fixed: bool
    channels: int
    height: int
    width: int
    channels_last: bool

    def load(self, path: Path, mean: Array, std: Array) -> Array:
        """Return one image as C, H, W or H, W, C float32, or bytes where the input takes bytes."""
        from PIL import Image, ImageOps, UnidentifiedImageError

        try:
            with Image.open(path) as opened:
                upright = ImageOps.exif_transpose(opened)
                picture = upright.convert("L" if self.channels == 1 else "RGB")
        except (OSError, UnidentifiedImageError, ValueError) as error:
            raise InvalidArgumentError(
                describe(
                    f"image '{path}'", expected="a readable image", actual=str(error), remedy="Remove or replace it."
                )
            ) from error
        picture = picture.resize((self.width, self.height), Image.Resampling.BILINEAR)
        pixels: Array = np.asarray(picture).reshape(self.height, self.width, self.channels)
        if element_kind(self.dtype) == "float":
            pixels = ((pixels.astype(np.float64) / 255.0 - mean) / std).astype(np.float32)
        return pixels if self.channels_last else np.moveaxis(pixels, -1, 0)


def _image_layout(specs: Sequence[TensorSpec], shape: Sequence[int] | None, batch: int | None) -> _ImageLayout:
    if len(specs) != 1:
        raise InvalidArgumentError(
            describe(
                "model to be fed with images",
                expected="a single input",
                actual=f"{len(specs)} ({', '.join(spec.name for spec in specs)})",
                remedy="Give all inputs in an .npz file.",
            )
        )
    spec = specs[0]
    known: tuple[int | str | None, ...] = spec.shape if spec.shape is not None else (None,) * 4
    if shape is not None:
        known = resolve_shapes([spec], {spec.name: shape})[spec.name]
    kind = "float" if spec.dtype is None else element_kind(spec.dtype)
    if len(known) != 4 or not (kind == "float" or (spec.dtype is not None and spec.dtype.name == "uint8")):
        raise InvalidArgumentError(
            describe(
                f"image input '{spec.name}'",
                expected="rank 4, floating-point or unsigned bytes",
                actual=f"{_shape_text(known)} {spec.dtype}",
                remedy="Give the inputs in an .npz file.",
            )
        )
    channels_last = known[1] not in (1, 3) and known[3] in (1, 3)
    channels, height, width = (known[3], *known[1:3]) if channels_last else known[1:]
    if isinstance(channels, int) and channels not in (1, 3):
        raise InvalidArgumentError(
            describe(
                f"image input '{spec.name}'",
                expected="1 (grey) or 3 (RGB) channels",
                actual=f"{_shape_text(known)}",
                remedy="Give the inputs in an .npz file.",
            )
        )
    own = known[0]
    if batch is not None and (batch < 1 or (isinstance(own, int) and own != batch)):
        raise InvalidArgumentError(
            describe(
                "batch of images",
                expected=f"{own}, which the model fixes" if isinstance(own, int) else "at least 1",
                actual=batch,
                remedy="Export the model with that axis dynamic." if isinstance(own, int) else "",
            )
        )
    fixed = spec.shape is not None and isinstance(spec.shape[0], int)
    return _ImageLayout(
        spec=spec,
        dtype=np.dtype(np.float32) if spec.dtype is None else spec.dtype,
        batch=own if isinstance(own, int) else (batch or _example(spec, 0, DEFAULT_BATCH)),
        batch_is_fixed=fixed,
        channels=channels if isinstance(channels, int) else 3,
        height=height if isinstance(height, int) else _example(spec, 1 if channels_last else 2, DEFAULT_SPATIAL),
        width=width if isinstance(width, int) else _example(spec, 2 if channels_last else 3, DEFAULT_SPATIAL),
        channels_last=channels_last,
    )


def _example(spec: TensorSpec, axis: int, default: int) -> int:
    return default if spec.example is None else spec.example[axis]


def _per_channel(what: str, given: Sequence[float] | None, rgb: Sequence[float], channels: int) -> Array:
    if given is None:
        given = rgb if channels == 3 else [round(float(np.mean(rgb)), 3)]
    if len(given) not in (1, channels):
        raise InvalidArgumentError(
            describe(what, expected=f"1 or {channels} values, one for each channel", actual=list(given))
        )
    return np.broadcast_to(np.asarray(given, dtype=np.float64), (channels,))
