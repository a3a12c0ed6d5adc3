"""The least time that a shape can take on a GPU, and what decides it: an estimate on paper, not a measurement.

Four floors, each as if the others cost nothing and everything ran at its published peak:

- memory: each tensor is moved once between the GPU's memory and its multiprocessors (weights, biases and outputs
  included), over the memory's bandwidth. Nothing is found in L2.
- product: 2·macs over the peak of the unit that multiplies: tensor cores for float16, bfloat16 and TF32 (dense, float32
  sums), float32 arithmetic for exact float32. Depthwise convolutions have no product for tensor cores.
- sampling: each sample once: 4 weights times 4 values and their sum, 8 operations for each channel and tap, in float32
  arithmetic, which the masks' and conversions' operations come on top of.
- gather: each sample reads 4 values through the first-level cache, at 128 bytes a clock and multiprocessor. That is
  half a byte for each float32 operation of the peak, since a multiprocessor makes 128 multiply-adds a clock.

A sample is counted once although a kernel whose tile has fewer rows than the filter takes it anew for each tile, and
launch and tail of a kernel are left out: all of these make the truth slower than the estimate.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

#: Bytes that the first-level cache delivers while the float32 units make one operation.
_GATHER_BYTES_PER_OPERATION = 0.5
_SAMPLE_OPERATIONS = 8
_SAMPLE_CORNERS = 4

PRECISIONS = ("float16", "bfloat16", "tf32", "float32")


@dataclass(frozen=True)
class Gpu:
    """Published peaks of a GPU, dense.

    Attributes:
        name: as NVIDIA writes it.
        keys: words that all occur in the name that the driver gives.
        bandwidth: bytes a second between memory and chip.
        half: operations a second, float16 or bfloat16 products with float32 sums.
        tf32: the same for TF32.
        single: operations a second, float32 arithmetic.
    """

    name: str
    keys: tuple[str, ...]
    bandwidth: float
    half: float
    tf32: float
    single: float


#: From NVIDIA's data sheets. The first row whose words fit the driver's name counts.
GPUS = (
    Gpu("H200 SXM", ("H200",), 4.8e12, 989e12, 494e12, 67e12),
    Gpu("H100 PCIe", ("H100", "PCIe"), 2.0e12, 756e12, 378e12, 51e12),
    Gpu("H100 SXM", ("H100",), 3.35e12, 989e12, 494e12, 67e12),
    Gpu("A100 SXM 80GB", ("A100", "80GB"), 2.039e12, 312e12, 156e12, 19.5e12),
    Gpu("A100 SXM 40GB", ("A100",), 1.555e12, 312e12, 156e12, 19.5e12),
)


def gpu_called(name: str) -> Gpu | None:
    """The row of :data:`GPUS` that fits the driver's name of a GPU; None for one that is not in the table."""
    return next((gpu for gpu in GPUS if all(key in name for key in gpu.keys)), None)


@dataclass(frozen=True)
class Floor:
    """The floors of one shape in seconds."""

    memory: float
    product: float
    sampling: float
    gather: float

    @property
    def seconds(self) -> float:
        """The highest of them: no kernel is faster."""
        return max(self.memory, self.product, self.sampling, self.gather)

    @property
    def binds(self) -> str:
        """Its name."""
        return max(("memory", "product", "sampling", "gather"), key=lambda name: getattr(self, name))


def storage_bytes(precision: str) -> int:
    """Bytes of an element."""
    return 2 if precision in ("float16", "bfloat16") else 4


def moved_bytes(shape: Any, precision: str) -> int:
    """Bytes of all tensors of a ``ConvShape``, offset and mask in the features' type."""
    elements = [shape.input_shape, shape.weight_shape, shape.offset_shape, shape.output_shape, (shape.m,)]
    if shape.mask_shape is not None:
        elements.append(shape.mask_shape)
    total = 0
    for dims in elements:
        count = 1
        for dim in dims:
            count *= dim
        total += count
    return total * storage_bytes(precision)


def samples(shape: Any) -> int:
    """Bilinear samples, one for each channel, tap and output pixel."""
    return int(shape.n * shape.c * shape.kernel**2 * shape.out_h * shape.out_w)


def floor(shape: Any, precision: str, gpu: Gpu) -> Floor:
    """The floors of a ``ConvShape`` in one of :data:`PRECISIONS` on a GPU."""
    has_product = shape.c // shape.group > 1
    unit = {"float16": gpu.half, "bfloat16": gpu.half, "tf32": gpu.tf32, "float32": gpu.single}[precision]
    taken = samples(shape)
    return Floor(
        memory=moved_bytes(shape, precision) / gpu.bandwidth,
        product=2 * shape.macs / (unit if has_product else gpu.single),
        sampling=_SAMPLE_OPERATIONS * taken / gpu.single,
        gather=_SAMPLE_CORNERS * taken * storage_bytes(precision) / (_GATHER_BYTES_PER_OPERATION * gpu.single),
    )


def markdown(shapes: Iterable[Any], gpu: Gpu, precisions: Iterable[str] = ("float16", "tf32", "float32")) -> str:
    """A table of the floors in microseconds, and which of them binds."""
    precisions = tuple(precisions)
    lines = [
        "| " + " | ".join(["shape", *(f"{p}: µs, bound by" for p in precisions)]) + " |",
        "|---" * (1 + len(precisions)) + "|",
    ]
    for shape in shapes:
        floors = [floor(shape, precision, gpu) for precision in precisions]
        cells = [f"{f.seconds * 1e6:.2f} {f.binds}" for f in floors]
        lines.append("| " + " | ".join([f"`{shape.name}`", *cells]) + " |")
    return "\n".join(lines)
