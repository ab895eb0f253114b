"""Settings of the memory allocator, and the errors of memory that runs out."""

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # from glibc's <malloc.h>
_NEVER, _BYTES_AT_ONCE = -1, 64 * 2**20
# parts of messages, as PyTorch has an exception class for one of its allocators only
_FULL = (
    *("out of memory", "can't allocate memory", "not enough memory"),
    *("Failed to allocate memory", "bad_alloc"),  # of ONNX Runtime and C++
    *("ALLOC_FAILED", "ALLOCATION_FAILED"),  # of cuBLAS and cuDNN, for their own buffers
    *("unable to find an engine", "Unable to find a valid cuDNN algorithm"),
)


def is_full(error: BaseException) -> bool:
    """Returns whether an error says that the memory of the machine or of a device ran out."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in _FULL)


def use_huge_pages() -> None:
    """Lets PyTorch ask Linux for pages of 2 MiB instead of 4 KiB for its large tensors.

    A training step walks through gigabytes, and the processor remembers the places of few pages.
    A program that holds tensors of many sizes needs more memory with them. PyTorch reads the
    variable once, at its first large allocation, so call this before torch is used. A value that
    the user has set stays.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


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
