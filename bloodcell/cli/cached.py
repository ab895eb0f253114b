"""What `bloodcell cache` says."""

import time

from bloodcell.data import cache
from bloodcell.files import cache_folder


def table() -> str:
    """Lists the decoded images on disk, a line an entry."""
    lines = [
        f"{entry.bytes / 2**30:7.2f} GiB  {entry.images:>9,} images at {entry.size} px  used "
        f"{time.strftime('%Y-%m-%d %H:%M', time.localtime(entry.used))}  {entry.root}"
        for entry in cache.list_entries()
    ]
    return "\n".join([f"decoded images in {cache_folder() / 'pixels'}:", *(lines or ["  none"])])


def empty() -> str:
    """Deletes them, and says what was freed."""
    return f"{cache.empty() / 2**30:.2f} GiB freed in {cache_folder() / 'pixels'}"
