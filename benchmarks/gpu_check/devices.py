"""Arrays where the kernels can reach them: PyTorch's on a GPU, NumPy's where the host plays the GPU in a rehearsal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

#: Elements kept poisoned before and after every output: a kernel that writes beside its output changes them.
MARGIN = 256
#: What poisons int8, which has no NaN.
INT8_POISON = -91


#: PyTorch's name of the device. A rehearsal sets "cpu": then the library has to be the one that the host plays.
DEVICE = "cuda"


def current_stream() -> int:
    """PyTorch's current stream, as the library takes it; 0 where there is none."""
    import torch

    return int(torch.cuda.current_stream().cuda_stream) if DEVICE == "cuda" else 0


def synchronize() -> None:
    """Wait for everything that PyTorch's device has to do."""
    import torch

    if DEVICE == "cuda":
        torch.cuda.synchronize()


def trouble() -> str | None:
    """What PyTorch's device says instead of working; None if it works. After some errors it never does again."""
    import torch

    try:
        synchronize()
        torch.zeros(1, device=DEVICE).add_(1)
        synchronize()
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return None


class Device(Protocol):
    """What the checks need of a device. An array is whatever :meth:`put` and :meth:`poisoned` give."""

    def put(self, array: Array, dtype: str) -> Any:
        """Copy to the device, rounded to ``dtype``."""

    def get(self, array: Any) -> Array:
        """Copy to the host as float64."""

    def poisoned(self, shape: Sequence[int], dtype: str) -> Any:
        """A contiguous array of NaN (int8: of some number) with poisoned margins."""

    def margins_are_poisoned(self, array: Any) -> bool:
        """Whether nothing was written beside an array of :meth:`poisoned`."""

    def scratch(self, size: int) -> Any:
        """``size`` bytes, aligned to 16, of a pattern that is NaN in every storage type."""

    def pointer(self, array: Any) -> int:
        """Address of its first element."""

    def stream(self) -> int:
        """The current stream."""

    def synchronize(self) -> None:
        """Wait for everything."""

    def trouble(self) -> str | None:
        """What it says instead of working; None if it works."""


def to_nhwc(array: Array) -> Array:
    """[N, C, H, W] → contiguous [N, H, W, C]."""
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1))


def to_nchw(array: Array) -> Array:
    """[N, H, W, C] → contiguous [N, C, H, W]."""
    return np.ascontiguousarray(array.transpose(0, 3, 1, 2))


def relative_rms(actual: Array, expected: Array) -> float:
    """‖actual − expected‖/‖expected‖; infinite if anything is not finite, or the norm is 0 and anything differs."""
    if actual.size == 0:
        return 0.0
    if not np.isfinite(actual).all():
        return math.inf
    difference, norm = float(np.linalg.norm(actual - expected)), float(np.linalg.norm(expected))
    return difference / norm if norm > 0 else (0.0 if difference == 0 else math.inf)


class HostDevice:
    """The host's own memory, for the library that is built with the host as the device."""

    def _dtype(self, name: str) -> Any:
        if name == "bfloat16":
            import ml_dtypes

            return ml_dtypes.bfloat16
        return np.dtype(name)

    def put(self, array: Array, dtype: str) -> Array:
        """Copy, rounded."""
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(array.astype(self._dtype(dtype)))

    def get(self, array: Array) -> Array:
        """Copy as float64."""
        return array.astype(np.float64)

    def poisoned(self, shape: Sequence[int], dtype: str) -> Array:
        """A view into the middle of a larger array of NaN."""
        poison = INT8_POISON if dtype == "int8" else np.nan
        whole = np.full(math.prod(shape) + 2 * MARGIN, poison, np.float64).astype(self._dtype(dtype))
        return whole[MARGIN : whole.size - MARGIN].reshape(shape)

    def margins_are_poisoned(self, array: Array) -> bool:
        """Whether nothing was written beside it."""
        whole = array
        while isinstance(whole.base, np.ndarray):
            whole = whole.base
        edges = np.concatenate([whole[:MARGIN], whole[-MARGIN:]])
        if edges.dtype == np.int8:
            return bool((edges == INT8_POISON).all())
        return bool(np.isnan(edges.astype(np.float64)).all())

    def scratch(self, size: int) -> Array:
        """Bytes of 0xff."""
        whole = np.full(size + 16, 0xFF, np.uint8)
        return whole[-whole.ctypes.data % 16 :][:size]

    def pointer(self, array: Array) -> int:
        """Its address."""
        return int(array.ctypes.data)

    def stream(self) -> int:
        """There is none."""
        return 0

    def synchronize(self) -> None:
        """A launch is done when it returns."""

    def trouble(self) -> str | None:
        """The host has none."""
        return None


class TorchDevice:
    """PyTorch's memory and streams on the current GPU.

    Everything is made on the host and copied, nothing is written by a kernel of PyTorch: compute-sanitizer is told to
    watch this project's kernels alone, and would call what another kernel has written uninitialized.
    """

    def __init__(self) -> None:
        import torch

        self._torch = torch
        # By storage type, the longest array of poison so far: new ones are copied from it.
        self._poison: dict[str, Any] = {}

    def _dtype(self, name: str) -> Any:
        return getattr(self._torch, name)

    def put(self, array: Array, dtype: str) -> Any:
        """Copy to the GPU, rounded."""
        # Rounded first: the other way round a kernel of PyTorch would write what ours read.
        return self._torch.from_numpy(np.ascontiguousarray(array)).to(self._dtype(dtype)).to(DEVICE)

    def get(self, array: Any) -> Array:
        """Copy to the host as float64."""
        result: Array = array.double().cpu().numpy()
        return result

    def poisoned(self, shape: Sequence[int], dtype: str) -> Any:
        """A view into the middle of a larger tensor of NaN."""
        size = math.prod(shape)
        # Contiguous and of one type, so this is a copy of memory, too.
        whole = self._poisoned(size + 2 * MARGIN, dtype).clone()
        return whole[MARGIN : MARGIN + size].view(*shape)

    def _poisoned(self, size: int, dtype: str) -> Any:
        if dtype not in self._poison or self._poison[dtype].numel() < size:
            poison = INT8_POISON if dtype == "int8" else math.nan
            self._poison[dtype] = self._torch.full((size,), poison, dtype=self._dtype(dtype)).to(DEVICE)
        return self._poison[dtype][:size]

    def margins_are_poisoned(self, array: Any) -> bool:
        """Whether nothing was written beside it."""
        storage = array.untyped_storage()
        whole = self._torch.empty(0, dtype=array.dtype, device=DEVICE).set_(storage)
        edges = self._torch.cat([whole[:MARGIN], whole[MARGIN + array.numel() :]])
        return bool((edges == INT8_POISON).all() if edges.dtype == self._torch.int8 else edges.isnan().all())

    def scratch(self, size: int) -> Any:
        """Bytes of 0xff."""
        return self._torch.full((size,), 0xFF, dtype=self._torch.uint8).to(DEVICE)

    def pointer(self, array: Any) -> int:
        """Its address."""
        return int(array.data_ptr())

    def stream(self) -> int:
        """PyTorch's current stream."""
        return current_stream()

    def synchronize(self) -> None:
        """Wait for the GPU."""
        synchronize()

    def trouble(self) -> str | None:
        """What the GPU says instead of working."""
        return trouble()
