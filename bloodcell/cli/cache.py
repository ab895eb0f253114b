"""`bloodcell cache`: lists or deletes the decoded images on disk."""

import time

from bloodcell.data import cache as decoded
from bloodcell.files import cache_folder


def cache(empty: bool = False) -> None:
    """Lists the decoded images that are kept on disk.

    Args:
        empty: delete them.
    """
    folder = cache_folder() / "pixels"
    if empty:
        print(f"{decoded.empty() / 2**30:.2f} GiB freed in {folder}")
        return
    print(f"decoded images in {folder}:")
    entries = decoded.list_entries()
    for entry in entries:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
        size = f"{entry.bytes / 2**30:7.2f} GiB  {entry.images:>9,} images at {entry.size} px"
        print(f"{size}  used {used}  {entry.root}")
    if not entries:
        print("  none")
