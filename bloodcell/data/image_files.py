"""Finds image files in a folder or a zip archive, and reads them safely.

Files are not trusted: links may form loops, archives may contain paths that leave them, and a file
may be a pipe that never ends.
"""

import os
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from bloodcell.errors import InputError, reason

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".tif", ".tiff", ".webp")
MOST_BYTES = 300_000_000  # of one image file: 89 million uncompressed pixels
# exceptions of opening an archive
_ZIP_ERRORS = (zipfile.BadZipFile, OSError, ValueError, NotImplementedError)


def is_image(name: str) -> bool:
    """Returns whether a path, with forward slashes, has an image suffix and no hidden part."""
    path = PurePosixPath(name)
    return path.suffix.lower() in IMAGE_SUFFIXES and not any(map(_is_hidden, path.parts))


def walk_images(root: Path) -> Iterator[Path]:
    """Yields the image files below a folder, sorted within each folder.

    Links are followed, but each folder is read only once. Hidden files and folders are skipped.
    """
    visited: set[str] = set()
    for folder, below, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:
            below.clear()
            continue
        visited.add(real)
        below[:] = sorted(name for name in below if not _is_hidden(name))
        yield from (Path(folder, name) for name in sorted(names) if is_image(name))


def open_archive(path: Path, label: str) -> zipfile.ZipFile:
    """Opens a zip archive; error messages name it by `label`.

    Raises:
        InputError: if the archive is damaged, or contains a path that leaves it.
    """
    try:
        archive = zipfile.ZipFile(path)
    except _ZIP_ERRORS as error:
        raise InputError(
            f"{label} cannot be read as a zip archive ({reason(error)}). If it is one, it is cut "
            "off: download it again. Otherwise give a folder."
        ) from error
    for entry in archive.infolist():
        name = PurePosixPath(entry.filename.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts or ":" in "".join(name.parts[:1]):
            archive.close()
            raise InputError(
                f"{label} holds a path that leaves the archive ({entry.filename!r}). Such a file "
                "can be an attack and is not read: get the archive from its author."
            )
    return archive


def archived_images(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """Returns the image files of an archive, in its order."""
    return [one for one in archive.infolist() if not one.is_dir() and is_image(one.filename)]


def read_file(path: Path) -> bytes:
    """Reads an image file.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if the file is not a regular file, or too large for an image.
    """
    with open(path, "rb", opener=_open_without_waiting) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("no regular file")
        _check_size(status.st_size)
        return file.read()


def read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """Reads an image file of an archive.

    Raises:
        ValueError: if the file is too large for an image, which a small archive can contain, or
            compressed by a method other than deflate.
    """
    _check_size(entry.file_size)
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("compressed in a way that can unfold without limit: pack it with deflate")
    with archive.open(entry) as file:
        data = file.read(entry.file_size)  # at most the declared size
        file.read(1)  # zipfile checks the CRC at the end of the file
    return data


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX"))


def _check_size(size: int) -> None:
    if size > MOST_BYTES:
        raise ValueError(f"{size:,} bytes, more than the {MOST_BYTES:,} allowed for one image")


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # else a pipe would block
