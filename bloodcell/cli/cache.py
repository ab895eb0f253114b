"""`bloodcell cache`: lists or deletes the decoded images on disk."""

import time

from bloodcell.data import cache as decoded
from bloodcell.files import cache_folder
from bloodcell.text import binary_size


def cache(empty: bool = False) -> None:
    """Lists the decoded images that are kept on disk.

    Args:
        empty: delete them.
    """
    folder = cache_folder() / "pixels"
    if empty:
        print(f"{binary_size(decoded.empty())} freed in {folder}")
        return
    print(f"decoded images in {folder}:")
    entries = decoded.list_entries()
    for entry in entries:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
        size = f"{binary_size(entry.bytes):>11}  {entry.images:>9,} images at {entry.size} px"
        print(f"{size}  used {used}  {entry.root}")
    if not entries:
        print("  none")
