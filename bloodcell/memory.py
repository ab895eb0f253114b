"""Settings of the memory allocator."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # from glibc's <malloc.h>
_NEVER, _BYTES_AT_ONCE = -1, 64 * 2**20


def keep_memory() -> bool:
    """Makes the process keep the memory it frees, if glibc allocates it.

    A training step allocates and frees gigabytes. By default glibc returns large blocks to the
    system and gets new ones, which the system fills with zeros page by page. That takes a third of
    the time of a step at 224 pixels.

    Returns:
        Whether the allocator accepted the settings.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None:
        return False
    settings = (
        (_M_MMAP_MAX, 0),
        (_M_TRIM_THRESHOLD, _NEVER),
        (_M_TOP_PAD, _BYTES_AT_ONCE),
    )
    return all([mallopt(key, value) for key, value in settings])
