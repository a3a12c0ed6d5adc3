"""Grey images as data that a page can hold."""

from __future__ import annotations

import base64
import struct
import zlib

from torch import Tensor


def png_data_uri(image: Tensor) -> str:
    """Return ``image``, ``(H, W)`` with values in [0, 1], as the address of an inline 8-bit grey PNG."""
    pixels = (image.clamp(0, 1) * 255).round().byte()
    height, width = pixels.shape
    # each row starts with its filter type, 0 for none (PNG specification, section 9)
    rows = b"".join(b"\0" + row.numpy().tobytes() for row in pixels)
    png = (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
        + _chunk(b"IDAT", zlib.compress(rows, 9))
        + _chunk(b"IEND", b"")
    )
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
