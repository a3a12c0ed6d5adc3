"""The kernels through their plain C interface (plugins/core/cuda/c_api.h), by ctypes and pointers."""

from __future__ import annotations

import ctypes
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

#: Numbers of storage types, layouts and algorithms in the C interface.
DTYPES = {"float32": 0, "float16": 1, "bfloat16": 2, "int8": 3}
LAYOUTS = {"nchw": 0, "nhwc": 1}
ALGORITHMS = {"auto": 0, "tensor": 1, "simt": 2, "direct": 3}

_INVALID_ARGUMENT = 1


def _structure(name: str, fields: Sequence[tuple[str, Any]]) -> type[ctypes.Structure]:
    return type(name, (ctypes.Structure,), {"_fields_": list(fields)})


def _integers(names: str) -> list[tuple[str, Any]]:
    return [(name, ctypes.c_int64) for name in names.split()]


def _pointers(names: str) -> list[tuple[str, Any]]:
    return [(name, ctypes.c_void_p) for name in names.split()]


_Device = _structure("Device", _integers("compute_capability multiprocessors shared_bytes_per_block cluster_blocks"))
_Conv = _structure(
    "Conv",
    [
        *_integers("batch in_channels in_h in_w out_channels kernel_h kernel_w stride_h stride_w pad_top pad_left"),
        *_integers("pad_bottom pad_right dilation_h dilation_w group offset_group dtype x_layout y_layout allow_tf32"),
        *_integers("algorithm tile_rows tile_pixels splits y_dtype"),
        ("y_scale", ctypes.c_double),
    ],
)
_Info = _structure(
    "Info",
    _integers("out_h out_w algorithm tile_rows tile_pixels splits steps estimated_clocks packed_bytes shared_bytes"),
)
_Tensors = _structure("Tensors", _integers("offset_dtype mask_dtype") + _pointers("x offset bias mask scale y"))
_Pool = _structure(
    "Pool",
    [
        *_integers("variant batch in_channels in_h in_w rois out_h out_w sampling_ratio sample_per_part group_size"),
        *_integers("classes part_h part_w output_channels"),
        ("spatial_scale", ctypes.c_double),
        ("gamma", ctypes.c_double),
        *_integers("dtype x_layout y_layout rois_dtype offset_dtype mask_dtype"),
        *_pointers("x boxes offset mask y"),
    ],
)


class NativeError(RuntimeError):
    """A call of the library failed; ``refused`` says that the request was, not the machine."""

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


@dataclasses.dataclass(frozen=True)
class How:
    """How a convolution is to be computed; what is left out is chosen by the library."""

    dtype: str = "float32"
    x_layout: str = "nchw"
    y_layout: str = "nchw"
    allow_tf32: bool = False
    algorithm: str = "auto"
    tile: tuple[int, int] = (0, 0)
    #: blocks that share a tile's sum
    splits: int = 0
    #: for int8 features; with others Y has their type
    y_dtype: str = "float32"
    y_scale: float = 1.0

    def __str__(self) -> str:
        tile = "" if self.tile == (0, 0) else f" {tile_name(self.tile, self.splits)}"
        tf32 = " tf32" if self.allow_tf32 else ""
        y_dtype = f" Y {self.y_dtype}" if self.dtype == "int8" else ""
        return f"{self.dtype}{tf32}{y_dtype} {self.x_layout}->{self.y_layout} {self.algorithm}{tile}"


def tile_name(tile: tuple[int, int], splits: int) -> str:
    """A block's output channels × pixels, and how many blocks share its sum where that is said and not one."""
    return f"{tile[0]}x{tile[1]}" + (f"/{splits}" if splits > 1 else "")


class Library:
    """The shared library of the kernels, loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._c = ctypes.CDLL(str(path))
        for name in ("device", "conv2d_plan", "conv2d_pack", "conv2d_run", "conv2d_tiles", "roi_pool_run"):
            getattr(self._c, f"dcn_deploy_cuda_{name}").restype = ctypes.c_int
        self._c.dcn_deploy_cuda_conv2d_destroy.restype = None
        self._c.dcn_deploy_version.restype = ctypes.c_char_p

    @property
    def version(self) -> str:
        """The project's version that the library was built from."""
        return str(self._c.dcn_deploy_version().decode("ascii"))

    def device(self) -> dict[str, int]:
        """What the library asks of the current device: every field of the C structure."""
        device = _Device()
        self._call("device", ctypes.byref(device))
        return {name: int(getattr(device, name)) for name, _ in _Device._fields_}

    def tiles(self, algorithm: str) -> list[tuple[int, int]]:
        """(output channels, pixels) of a block, for every kernel of an algorithm."""
        capacity = 32
        pairs = (ctypes.c_int64 * (2 * capacity))()
        count = self._c.dcn_deploy_cuda_conv2d_tiles(ctypes.c_int64(ALGORITHMS[algorithm]), pairs, capacity)
        return [(int(pairs[2 * i]), int(pairs[2 * i + 1])) for i in range(min(max(count, 0), capacity))]

    def plan(self, sizes: dict[str, int], how: How, device: dict[str, int] | None = None) -> Plan:
        """Check a request and choose its kernel.

        Args:
            sizes: every field of the C structure from ``batch`` to ``offset_group``.
            how: the rest of it.
            device: as from :meth:`device`; None asks for it.

        Raises:
            NativeError: ``refused`` if the request does not fit the operator or this device.
        """
        request = _Conv(
            **sizes,
            dtype=DTYPES[how.dtype],
            x_layout=LAYOUTS[how.x_layout],
            y_layout=LAYOUTS[how.y_layout],
            allow_tf32=int(how.allow_tf32),
            algorithm=ALGORITHMS[how.algorithm],
            tile_rows=how.tile[0],
            tile_pixels=how.tile[1],
            splits=how.splits,
            y_dtype=DTYPES[how.y_dtype],
            y_scale=how.y_scale,
        )
        handle = ctypes.c_void_p()
        info = _Info()
        on = _Device(**(device or self.device()))
        self._call("conv2d_plan", ctypes.byref(request), ctypes.byref(on), ctypes.byref(handle), ctypes.byref(info))
        return Plan(self, handle, {name: int(getattr(info, name)) for name, _ in _Info._fields_})

    def pool(self, fields: dict[str, Any], pointers: dict[str, int | None], stream: int) -> None:
        """Enqueue a deformable RoI pooling: every field of the C structure, and its pointers."""
        request = _Pool(**fields, **pointers)
        self._call("roi_pool_run", ctypes.byref(request), ctypes.c_void_p(stream))

    def _call(self, name: str, *arguments: Any) -> None:
        message = ctypes.create_string_buffer(512)
        function = getattr(self._c, f"dcn_deploy_cuda_{name}")
        code = function(*arguments, message, ctypes.c_size_t(len(message)))
        if code != 0:
            raise NativeError(message.value.decode("utf-8", "replace"), refused=code == _INVALID_ARGUMENT)


class Plan:
    """One convolution, checked: pack its weights, then run it any number of times."""

    def __init__(self, library: Library, handle: ctypes.c_void_p, info: dict[str, int]) -> None:
        self._library = library
        self._handle = handle
        self.info = info
        names = {number: name for name, number in ALGORITHMS.items()}
        self.algorithm = names[info["algorithm"]]
        self.tile = (info["tile_rows"], info["tile_pixels"])
        self.splits = info["splits"]

    def __del__(self) -> None:
        self._library._c.dcn_deploy_cuda_conv2d_destroy(self._handle)

    def pack(self, weight: int, packed: int, stream: int) -> None:
        """Enqueue the packing of W into ``info["packed_bytes"]`` at ``packed``."""
        self._library._call(
            "conv2d_pack", self._handle, ctypes.c_void_p(weight), ctypes.c_void_p(packed), ctypes.c_void_p(stream)
        )

    def run(self, pointers: dict[str, int | None], packed: int, stream: int, *, dtypes: tuple[str, str]) -> None:
        """Enqueue the convolution.

        Args:
            pointers: x, offset, bias, mask, y; scale for int8.
            packed: what :meth:`pack` has written.
            stream: a cudaStream_t.
            dtypes: of offset and mask.
        """
        tensors = _Tensors(offset_dtype=DTYPES[dtypes[0]], mask_dtype=DTYPES[dtypes[1]], **pointers)
        self._library._call(
            "conv2d_run", self._handle, ctypes.byref(tensors), ctypes.c_void_p(packed), ctypes.c_void_p(stream)
        )
