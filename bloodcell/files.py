"""Places of files, atomic writing, and lists of files on the standard input."""

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from filelock import FileLock

from bloodcell.errors import listed, require

_BYTE_ORDER_MARK = "\ufeff"


def cache_folder() -> Path:
    """Returns the folder of drawn smears, downloads, decoded images and temporary files."""
    return at_home(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "bloodcell"


def at_home(path: str | os.PathLike[str]) -> Path:
    """Returns a path whose leading `~` or `~user` is replaced by that home folder.

    Args:
        path: any path; it is not changed if there is no such user, as in the file name `~a.jpg`.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def read_listed() -> Iterator[str]:
    """Yields the lines of the standard input that are not empty, paths in any encoding."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
    lines = (line.lstrip(_BYTE_ORDER_MARK).rstrip("\r\n") for line in sys.stdin)
    yield from filter(None, lines)


def look_near(path: Path) -> tuple[Path, list[Path]]:
    """Returns the closest existing folder on the way to a path, and what it contains, sorted."""
    for folder in (path, *path.parents):
        if folder.is_dir():
            return folder, sorted(folder.iterdir())
    return Path(path.anchor), []  # e.g. a drive that is not there


def make_once(folder: Path, make: Callable[[], None]) -> None:
    """Makes a folder in the cache if it is missing; other processes wait until it is made.

    Args:
        folder: the folder.
        make: creates it, all at once.
    """
    if folder.is_dir():  # a cache that is complete may be read-only
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not folder.is_dir():
            make()


def check_place(flag: str, path: str | None, *suffixes: str) -> None:
    """Checks early that an output file can be written.

    Args:
        flag: the option that names it.
        path: the file; None if none is wanted.
        suffixes: what its name may end in.

    Raises:
        InputError: if the name has another suffix, is that of a folder, or the folder that it is in
            does not exist or may not be written to.
    """
    if path is None:
        return
    require(Path(path).suffix in suffixes, flag, path, f"a file ending in {listed([*suffixes])}")
    folder = Path(path).absolute().parent
    require(folder.is_dir(), flag, path, "in a folder that exists")
    require(os.access(folder, os.W_OK), flag, path, "in a folder that you may write to")
    require(not Path(path).is_dir(), flag, path, "a file, not a folder")


def is_folder(out: str) -> bool:
    """Returns whether `--out` is an existing folder, ends in `/` or has no suffix."""
    return out.endswith(("/", os.sep)) or Path(out).is_dir() or not Path(out).suffix


@contextmanager
def write_whole(path: Path) -> Iterator[TextIO]:
    """Opens a temporary text file, and renames it to `path` if no exception is raised.

    Args:
        path: the final file, which is replaced if it exists.
    """
    with (
        beside(path) as partial,
        partial.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        yield file


def write_whole_bytes(path: Path, data: bytes) -> None:
    """Writes a temporary file, and renames it to `path`.

    Args:
        path: the final file, which is replaced if it exists.
        data: the contents.
    """
    with beside(path) as partial:
        partial.write_bytes(data)


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Yields a temporary path, and renames it to `path` if no exception is raised.

    Args:
        path: the final file, which is replaced if it exists.
    """
    partial = path.with_stem(f"{path.stem}.partial")  # keeps the suffix
    try:
        yield partial
        _settle(partial)
        partial.replace(path)
        _settle(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def _settle(path: Path) -> None:
    """Flushes a file or folder to disk, so that it survives a power failure."""
    with contextlib.suppress(OSError):  # Windows and some file systems cannot sync folders
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
