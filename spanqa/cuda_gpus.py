"""The GPUs that CUDA shows to this process, by the driver's library: CUDA_VISIBLE_DEVICES hides some."""

from __future__ import annotations

import ctypes

_MAJOR, _MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of cuda.h."""


def cuda_gpus_here() -> int:
    """Count the GPUs that CUDA shows to this process, by the driver's library; none where there is no driver."""
    count = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        is_known = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    except (OSError, AttributeError):
        return 0
    return count.value if is_known else 0


def cuda_capabilities_here() -> list[tuple[int, int]]:
    """Give the compute capability of each GPU that CUDA shows to this process; none where the driver does not say."""
    found = []
    for number in range(cuda_gpus_here()):
        device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        try:
            driver = ctypes.CDLL("libcuda.so.1")
            faults = (
                driver.cuDeviceGet(ctypes.byref(device), number),
                driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device),
                driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device),
            )
        except (OSError, AttributeError):
            return []
        if not any(faults):
            found.append((major.value, minor.value))
    return found
