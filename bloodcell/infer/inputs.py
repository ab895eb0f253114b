"""Finds images in files, folders and archives, or listed on the standard input."""

import contextlib
import glob
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from fnmatch import fnmatch
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple, Protocol
from zipfile import ZipFile, ZipInfo

from PIL import Image

from bloodcell.data.crop import Pixels
from bloodcell.data.decode import open_rgb
from bloodcell.data.image_files import (
    IMAGE_SUFFIXES,
    LeftOut,
    archived_images,
    open_archive,
    read_entry,
    read_file,
    walk_images,
)
from bloodcell.errors import InputError
from bloodcell.files import at_home, read_listed

STDIN = "-"


class Input(Protocol):
    """An image to decode: a file, or an array in memory."""

    @property
    def name(self) -> str:
        """The image's name in the output."""

    @property
    def read(self) -> Callable[[], bytes] | None:
        """Function that reads the bytes of the file; None for an array."""

    def open(self) -> Image.Image:
        """Returns the image in RGB, or raises one of `READ_ERRORS`."""


class Named(NamedTuple):
    """An image file.

    Attributes:
        name: the image's name in the output.
        read: reads the bytes of the file.
    """

    name: str
    read: Callable[[], bytes]

    def open(self) -> Image.Image:
        """Reads and decodes the file."""
        return open_rgb(self.read())


class InMemory(NamedTuple):
    """An image given as an array.

    Attributes:
        name: the image's name in the output.
        pixels: (H, W, 3) RGB.
        read: None, because there is no file.
    """

    name: str
    pixels: Pixels
    read: None = None

    def open(self) -> Image.Image:
        """Returns the pixels as a Pillow image."""
        return Image.fromarray(self.pixels)


def check_given(given: Sequence[str]) -> None:
    """Checks that the command line has at least one path, and that all exist.

    Raises:
        InputError: if it has none, or one does not exist.
    """
    if not given:
        raise InputError(
            "no images given. Give at least one file, folder, .zip file or pattern, or - to read "
            "paths from the standard input."
        )
    for word in given:
        path = at_home(word)
        if not (word == STDIN or path.exists() or glob.has_magic(word) or _archive_above(path)):
            raise InputError(_missing(word))


def reads(given: Sequence[str], folder: Path) -> str:
    """Returns the path or pattern that would read new images in a folder; empty if none would.

    Args:
        given: files, folders and patterns.
        folder: the folder, which need not exist.
    """
    around = [folder.resolve(), *folder.resolve().parents]
    places = [folder.absolute() / "0001.cells.png", folder.absolute(), *folder.absolute().parents]
    for word in given:
        path = at_home(word)
        if path.resolve() in around:
            return word
        root = [] if path.is_absolute() else map(glob.escape, Path.cwd().parts)
        pattern = [*root, *path.parts]
        if glob.has_magic(word) and any(_matches(one.parts, pattern) for one in places):
            return word
    return ""


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Returns whether a path matches a pattern, in which `**` stands for any folders."""
    if not pattern or not parts:
        return not parts and all(one == "**" for one in pattern)
    if pattern[0] == "**":
        return any(_matches(parts[start:], pattern[1:]) for start in range(len(parts) + 1))
    return fnmatch(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def find_images(
    given: Sequence[str], archives: ExitStack, left_out: LeftOut | None = None
) -> Iterator[Named]:
    """Yields the images one by one, to save memory.

    Args:
        given: files, folders, .zip files, paths or patterns inside a .zip file (`x.zip/folder`,
            `x.zip/*/a*.png`), patterns, or `-` to read a file or a path inside a .zip file from
            each line of the standard input.
        archives: exit stack that closes the opened archives.
        left_out: counts the images of unsupported types.

    Raises:
        InputError: if a path does not exist, contains no image or cannot be read.
    """
    left_out = LeftOut() if left_out is None else left_out

    @cache
    def entries(path: Path) -> _Entries:  # a list of paths may name an archive thousands of times
        archive = archives.enter_context(open_archive(path, str(path)))
        return archive, {one.filename: one for one in archived_images(archive, left_out)}

    for word in given:
        if word == STDIN:
            for line in read_listed():
                yield from _listed(line, entries)
            continue
        found = 0
        for found, image in enumerate(_find(word, entries, left_out), 1):  # noqa: B007  counted
            yield image
        if not found:
            others = f" {left_out}." if left_out else ""
            kinds = ", ".join(IMAGE_SUFFIXES)
            raise InputError(f"{word}: contains no images. Looked for {kinds}.{others}")


def _file(path: str) -> Named:
    return Named(path, partial(read_file, Path(path)))


_Entries = tuple[ZipFile, dict[str, ZipInfo]]  # an opened archive, and its images by their names


def _listed(line: str, entries: Callable[[Path], _Entries]) -> Iterator[Named]:
    """Yields the images that a line names; opening a file says what is wrong with it."""
    if archive := _archive_above(Path(line)):
        with contextlib.suppress(InputError):  # a damaged archive is an error of this line
            if found := [*_archived(Path(line), archive, entries)]:
                return iter(found)
    return iter([_file(line)])


def _find(word: str, entries: Callable[[Path], _Entries], left_out: LeftOut) -> Iterator[Named]:
    path = at_home(word)
    if path.is_dir():
        return _folder(path, left_out)
    if archive := _archive_above(path):
        return _archived(path, archive, entries)
    if path.is_file():
        return iter([_file(str(path))])
    if glob.has_magic(word):
        matches = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207  may be absolute
        paths = map(Path, matches)
        if word.lower().endswith(".zip"):
            return (one for path in paths for one in _archived(path, path, entries))
        return _each_once(one for path in paths for one in _matched(path, left_out))
    raise InputError(_missing(word))


def _archive_above(path: Path) -> Path | None:
    """Returns the archive that a path is, or is inside of."""
    paths = (p for p in (path, *path.parents) if p.suffix.lower() == ".zip")
    return next((p for p in paths if p.is_file()), None)


def _missing(word: str) -> str:
    return f"{word}: no such file or folder."


def _each_once(images: Iterable[Named]) -> Iterator[Named]:
    """Leaves out images that a pattern such as `**` matches in several ways."""
    seen = set[str]()
    for image in images:
        if image.name not in seen:
            seen.add(image.name)
            yield image


def _matched(path: Path, left_out: LeftOut) -> Iterator[Named]:
    if path.is_dir():
        yield from _folder(path, left_out)
    elif left_out.passes(path.name):
        yield _file(str(path))


def _folder(root: Path, left_out: LeftOut) -> Iterator[Named]:
    return (_file(str(path)) for path in walk_images(root, left_out))


def _archived(path: Path, archive: Path, entries: Callable[[Path], _Entries]) -> Iterator[Named]:
    """Yields all images of an archive, one of them, those in a folder, or those of a pattern."""
    inside = path.relative_to(archive).as_posix()
    opened, images = entries(archive)
    chosen = [inside] if inside in images else images
    for name in chosen:
        wanted = inside in (".", name) or name.startswith(f"{inside}/")
        if wanted or fnmatch(name, inside):
            yield Named(f"{archive}/{name}", partial(read_entry, opened, images[name]))
