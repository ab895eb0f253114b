"""Finds and decodes images in files, folders and archives, or listed on the standard input."""

import contextlib
import glob
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from fnmatch import fnmatch
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol
from zipfile import ZipFile, ZipInfo

from PIL import Image

from bloodcell.data.cell import Cell
from bloodcell.data.crop import AUTO, Field, InputFormat, Pixels, show, show_cells
from bloodcell.data.decode import note_of, open_rgb
from bloodcell.data.image_files import (
    IMAGE_SUFFIXES,
    READ_ERRORS,
    LeftOut,
    archived_images,
    open_archive,
    read_entry,
    read_file,
    walk_images,
)
from bloodcell.errors import InputError, reason
from bloodcell.files import at_home, read_listed
from bloodcell.machine import usable_cpus

STDIN = "-"
NO_CELL = "no white cell found"
_AHEAD = 3  # batches that are decoded while one is classified


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


class Decoded(NamedTuple):
    """A decoded image, or the reason why decoding failed.

    Attributes:
        name: the image's name in the output.
        pixels: (H, W, 3) in the model's input format; None if decoding failed.
        error: reason why decoding failed; empty otherwise.
        cell: position of the cell in the picture; None for a whole image.
        read: reads the picture's bytes again; all cells of a picture share this object.
        note: how the picture was changed when it was read, e.g. scaled; empty if it was not.
    """

    name: str
    pixels: Pixels | None
    error: str
    cell: Cell | None = None
    read: Callable[[], bytes] | None = None
    note: str = ""


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


def decode_batches(
    images: Iterable[Input], input_format: InputFormat | None, batch_size: int
) -> Iterator[list[Decoded]]:
    """Yields batches of images, decoded on all cores a few batches ahead.

    Args:
        images: the images.
        input_format: the model's input format; None keeps whole images, reduced if they are large.
        batch_size: images per list; the last list may be shorter.
    """

    def whole(name: str, image: Image.Image) -> list[Decoded]:
        return [Decoded(name, show(image, input_format), "")]

    yield from _decode_ahead(images, whole, batch_size)


def decode_cells(
    images: Iterable[Input], size: int, field: Field, batch_size: int
) -> Iterator[list[Decoded]]:
    """Yields batches of white cells, found on all cores a few batches ahead.

    Args:
        images: the pictures. A picture that has no white cell, or is too small for the field of
            view, yields one `Decoded` with an error.
        size: side of the square crops around the cells in pixels.
        field: width of the field of view relative to the Kaggle images'; 2 is twice as wide, `auto`
            measures it.
        batch_size: pictures decoded together, and largest number of cells per list.
    """

    def cells(name: str, image: Image.Image) -> list[Decoded]:
        found = show_cells(image, size, field)
        decoded = [Decoded(name, pixels, "", cell) for cell, pixels in found]
        return decoded or [Decoded(name, None, f"{NO_CELL}; {_hint(field)}")]

    for together in _decode_ahead(images, cells, batch_size):
        for start in range(0, len(together), batch_size):
            yield together[start : start + batch_size]


def _hint(field: Field) -> str:
    if field == AUTO:
        return "if the picture shows one, the width of its field was measured wrongly: set field"
    return f"if the field of view is wider than about {6.4 * field:.3g} red cells, set field"


Make = Callable[[str, Image.Image], list[Decoded]]


def _decode_ahead(images: Iterable[Input], make: Make, batch_size: int) -> Iterator[list[Decoded]]:
    """Yields the joined results of `make` for every `batch_size` images."""
    waiting: deque[list[Future[list[Decoded]]]] = deque()
    with ThreadPoolExecutor(usable_cpus()) as pool:
        try:
            coming = iter(images)
            while chunk := list(islice(coming, batch_size)):
                waiting.append([pool.submit(_decode, image, make) for image in chunk])
                if len(waiting) > _AHEAD:
                    yield [one for future in waiting.popleft() for one in future.result()]
            while waiting:
                yield [one for future in waiting.popleft() for one in future.result()]
        finally:
            pool.shutdown(cancel_futures=True)


def _decode(image: Input, make: Make) -> list[Decoded]:
    try:
        opened = image.open()
        note = note_of(opened)
        return [one._replace(read=image.read, note=note) for one in make(image.name, opened)]
    except READ_ERRORS as error:
        system = error.strerror if isinstance(error, OSError) else None
        return [Decoded(image.name, None, system or reason(error), read=image.read)]


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
        matches = glob.iglob(str(path), recursive=True)  # noqa: PTH207  may be absolute
        return (one for match in matches for one in _matched(Path(match), left_out))
    raise InputError(_missing(word))


def _archive_above(path: Path) -> Path | None:
    """Returns the archive that a path is, or is inside of."""
    paths = (p for p in (path, *path.parents) if p.suffix.lower() == ".zip")
    return next((p for p in paths if p.is_file()), None)


def _missing(word: str) -> str:
    return f"{word}: no such file or folder."


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
