"""Which NVIDIA GPU this machine has, asked of its driver alone: no CUDA package is needed for it."""

from __future__ import annotations

import ctypes

from dcn_deploy.runtime.engine_metadata import Device

# Numbers of CUdevice_attribute, which never change.
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
_NAME_BYTES = 256


def find(ordinal: int = 0) -> Device | None:
    """Return a GPU by its number; None if there is none, or no driver.

    Args:
        ordinal: number of the GPU, as CUDA counts.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, name = ctypes.c_int(0), ctypes.create_string_buffer(_NAME_BYTES)
    major, minor = ctypes.c_int(0), ctypes.c_int(0)
    failed = (
        driver.cuInit(0)
        or driver.cuDeviceGet(ctypes.byref(device), ordinal)
        or driver.cuDeviceGetName(name, _NAME_BYTES, device)
        or driver.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, device)
        or driver.cuDeviceGetAttribute(ctypes.byref(minor), _CAPABILITY_MINOR, device)
    )
    return None if failed else Device(name.value.decode(errors="replace"), (major.value, minor.value))
