"""Finds image files in a folder or a zip archive, and reads them safely.

Files are not trusted: links may form loops, archives may contain paths that leave them, and a file
may be a pipe that never ends.
"""

import lzma
import os
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from bloodcell.errors import InputError, listed, reason

IMAGE_SUFFIXES = (
    *(".jpeg", ".jpg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif"),
)
# unsupported formats of microscopes, scanners, cameras and programs
_OTHER_SUFFIXES = (
    ".avif .bif .btf .cr2 .cr3 .czi .dcm .dicom .dng .dv .eps .fits .heic .heif .ims .j2k .jp2 "
    ".jpx .jxl .jxr .lif .lsm .mrc .mrxs .nd2 .ndpi .nef .nii .nrrd .oib .oif .oir .orf .pbm .pcx "
    ".pgm .pnm .ppm .psd .qptiff .raf .rw2 .scn .sld .stk .svs .svslide .tga .vms .vsi .zvi "
)
# beginnings of the names of hidden files, and of folders of operating systems
_HIDDEN = (".", "__MACOSX", "lost+found", "$RECYCLE.BIN", "System Volume Information")
MOST_BYTES = 300_000_000  # of one image file: 89 million uncompressed pixels
# exceptions of opening an archive
_ZIP_ERRORS = (zipfile.BadZipFile, OSError, ValueError, NotImplementedError)
# exceptions of reading and decoding an image
READ_ERRORS = (
    *(ValueError, OSError, EOFError, RuntimeError, MemoryError),
    *(zlib.error, lzma.LZMAError, zipfile.BadZipFile),
)


class LeftOut(Counter[str]):
    """Numbers of image files of unsupported types, by file extension."""

    def passes(self, name: str) -> bool:
        """Returns whether a path, with forward slashes, has an image suffix and no hidden part."""
        path = PurePosixPath(name)
        suffix = path.suffix.lower()
        if any(map(_is_hidden, path.parts)):
            return False
        if suffix and f"{suffix} " in _OTHER_SUFFIXES:
            self[suffix] += 1
        return suffix in IMAGE_SUFFIXES

    def __str__(self) -> str:
        """A message about them; empty without such files."""
        if not self:
            return ""
        kinds = listed([f"{count:,} {suffix}" for suffix, count in self.most_common()])
        files = f"{self.total():,} files of unsupported types ({kinds})"
        return f"{files} are skipped: convert them to .tif"


def walk_images(root: Path, left_out: LeftOut) -> Iterator[Path]:
    """Yields the image files below a folder, sorted within each folder.

    Links are followed, but each folder is read only once. Hidden files and folders are skipped.

    Args:
        root: the folder.
        left_out: counts the images of unsupported types.

    Raises:
        InputError: if a folder cannot be read.
    """
    for folder, names in walk(root, _refuse):
        yield from (folder / name for name in names if left_out.passes(name))


def walk(
    root: Path, unreadable: Callable[[OSError], None] | None = None
) -> Iterator[tuple[Path, list[str]]]:
    """Yields each folder with the sorted names of its files.

    Links are followed, but each folder is read only once. Hidden folders are skipped.

    Args:
        root: the folder.
        unreadable: called for each folder that cannot be read; None skips them.
    """
    visited: set[str] = set()
    for folder, below, names in os.walk(root, onerror=unreadable, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:
            below.clear()
            continue
        visited.add(real)
        below[:] = sorted(name for name in below if not _is_hidden(name))
        yield Path(folder), sorted(names)


def _refuse(error: OSError) -> None:
    raise InputError(
        f"{error.filename} cannot be read ({error.strerror}). Correct its permissions, or move it "
        "elsewhere."
    )


def open_archive(path: Path, label: str) -> zipfile.ZipFile:
    """Opens a zip archive; error messages name it by `label`.

    Raises:
        InputError: if the archive is damaged, or contains a path that leaves it.
    """
    try:
        archive = open_zip(path)
    except _ZIP_ERRORS as error:
        raise InputError(
            f"{label} cannot be read as a zip archive ({reason(error)}). If it is one, it is "
            "damaged: download it again. Otherwise give a folder."
        ) from error
    for entry in archive.infolist():
        name = PurePosixPath(entry.filename)
        if name.is_absolute() or ".." in name.parts or ":" in "".join(name.parts[:1]):
            archive.close()
            raise InputError(
                f"{label} contains a path outside of it ({entry.filename!r}), which can be an "
                "attack, so it is not read. Get the archive from its author."
            )
    return archive


def open_zip(path: Path) -> zipfile.ZipFile:
    """Opens a zip archive; its names are in Unicode, with forward slashes.

    Some programs write UTF-8 without the flag for it, and some write backslashes.
    """
    try:
        archive = zipfile.ZipFile(path, metadata_encoding="utf-8")
    except UnicodeDecodeError:
        archive = zipfile.ZipFile(path)
    for entry in archive.infolist():
        entry.filename = entry.filename.replace("\\", "/")
    archive.NameToInfo = {entry.filename: entry for entry in archive.infolist()}
    return archive


def archived_images(archive: zipfile.ZipFile, left_out: LeftOut) -> list[zipfile.ZipInfo]:
    """Returns the image files of an archive, in its order; counts those of unsupported types."""
    files = (one for one in archive.infolist() if not one.is_dir())
    return [one for one in files if left_out.passes(one.filename)]


def read_file(path: Path) -> bytes:
    """Reads an image file.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if the file is not a regular file, or too large for an image.
    """
    with open(path, "rb", opener=_open_without_waiting) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("not a regular file")
        _check_size(status.st_size)
        return file.read()


def read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """Reads an image file of an archive.

    Raises:
        ValueError: if the file is too large for an image (a small archive can contain a huge
            file), or is compressed by a method other than deflate.
    """
    _check_size(entry.file_size)
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("compressed by an unsupported method: use deflate")
    with archive.open(entry) as file:
        data = file.read(entry.file_size)  # at most the declared size
        file.read(1)  # zipfile checks the CRC at the end of the file
    return data


def _is_hidden(name: str) -> bool:
    return name.startswith(_HIDDEN)


def _check_size(size: int) -> None:
    if size > MOST_BYTES:
        raise ValueError(f"{size:,} bytes, more than the {MOST_BYTES:,} allowed for one image")


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # else a pipe would block
