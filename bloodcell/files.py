"""Files that are written whole or not at all, and the folder of the cache."""

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from bloodcell.errors import listed, require


def cache_folder() -> Path:
    """Returns the folder of drawn smears and decoded images."""
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "bloodcell"


def check_place(flag: str, path: str | None, *suffixes: str) -> None:
    """Refuses a file that could not be written, before any work is done for it.

    Args:
        flag: the option that names it.
        path: the file; None if none is wanted.
        suffixes: what its name may end in.

    Raises:
        InputError: if it ends in something else, or its folder does not exist.
    """
    if path is None:
        return
    require(Path(path).suffix in suffixes, flag, path, f"a file ending in {listed([*suffixes])}")
    require(Path(path).absolute().parent.is_dir(), flag, path, "in a folder that exists")


@contextmanager
def write_whole(path: Path) -> Iterator[TextIO]:
    """Opens a text file to be written beside its place, and puts it there when all went well.

    Args:
        path: where it will lie; what lies there is replaced.
    """
    with (
        beside(path) as partial,
        partial.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        yield file


def write_whole_bytes(path: Path, data: bytes) -> None:
    """Writes a file beside its place, and puts it there when it is whole.

    Args:
        path: where it will lie; what lies there is replaced.
        data: all of it.
    """
    with beside(path) as partial:
        partial.write_bytes(data)


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Gives a name to write to, and puts what was written in its place when all went well.

    Args:
        path: where it will lie; what lies there is replaced.
    """
    partial = path.with_stem(f"{path.stem}.partial")  # the ending says what it is
    try:
        yield partial
        _settle(partial)
        partial.replace(path)
        _settle(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def _settle(path: Path) -> None:
    """Waits until the disk has a file or what a folder lists: a power cut leaves it whole."""
    with contextlib.suppress(OSError):  # Windows opens no folder, and some file systems wait not
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
