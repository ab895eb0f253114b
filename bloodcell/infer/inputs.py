"""The images a user names: files, folders, archives, patterns, or paths on the standard input."""

import glob
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from fnmatch import fnmatch
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol

from PIL import Image

from bloodcell.data.cell import Cell
from bloodcell.data.crop import InputFormat, Pixels, show, show_cells
from bloodcell.data.decode import READ_ERRORS, open_rgb
from bloodcell.data.image_files import (
    IMAGE_SUFFIXES,
    archived_images,
    is_image,
    open_archive,
    read_entry,
    read_file,
    walk_images,
)
from bloodcell.errors import InputError, reason, require

STDIN = "-"
NO_CELL = "no white cell found"
_AHEAD = 3  # batches that are read while one is being classified


class Input(Protocol):
    """An image to be decoded: a file, or an array in memory."""

    @property
    def name(self) -> str:
        """How the answer calls it."""

    @property
    def read(self) -> Callable[[], bytes] | None:
        """Reads the bytes of its file; None if it has none."""

    def open(self) -> Image.Image:
        """Returns it in RGB, or raises one of `READ_ERRORS`."""


class Named(NamedTuple):
    """An image file.

    Attributes:
        name: how the answer calls it.
        read: reads its bytes.
    """

    name: str
    read: Callable[[], bytes]

    def open(self) -> Image.Image:
        """Reads and decodes it."""
        return open_rgb(self.read())


class InMemory(NamedTuple):
    """An image that is an array already.

    Attributes:
        name: how the answer calls it.
        pixels: (H, W, 3) RGB.
        read: None, because there is no file.
    """

    name: str
    pixels: Pixels
    read: None = None

    def open(self) -> Image.Image:
        """Wraps the pixels."""
        return Image.fromarray(self.pixels)


class Decoded(NamedTuple):
    """A decoded image, or the reason why there is none.

    Attributes:
        name: how the answer calls it.
        pixels: (H, W, 3), as the model wants it; None if it cannot be read.
        error: the reason why it cannot be read; empty if it can.
        cell: its place on the picture, if it is a cell of it.
        read: reads the picture's bytes again; the same object for all cells of a picture.
    """

    name: str
    pixels: Pixels | None
    error: str
    cell: Cell | None = None
    read: Callable[[], bytes] | None = None


def check_given(given: Sequence[str]) -> None:
    """Checks that a command line names images.

    Raises:
        InputError: if it does not.
    """
    rule = "at least one file, folder, .zip, pattern, or - for paths"
    require(bool(given), "IMAGES", "", rule)


def find_images(given: Sequence[str], archives: ExitStack) -> Iterator[Named]:
    """Finds images one after another, so a million of them need no list.

    Args:
        given: files, folders, .zip files, places inside of one (`x.zip/folder`, `x.zip/*/a*.png`),
            patterns, or `-` for a path a line on the standard input.
        archives: closes what is opened for reading.

    Raises:
        InputError: if one of them does not exist, holds no image or cannot be read.
    """
    for word in given:
        if word == STDIN:
            lines = (line.rstrip("\r\n") for line in sys.stdin)
            yield from (_file(line) for line in lines if line)
            continue
        found = 0
        for found, image in enumerate(_find(word, archives), 1):  # noqa: B007  counted
            yield image
        if not found:
            raise InputError(f"{word}: no images there. Looked for {', '.join(IMAGE_SUFFIXES)}.")


def decode_batches(
    images: Iterable[Input], input_format: InputFormat | None, batch_size: int
) -> Iterator[list[Decoded]]:
    """Reads and decodes images on all cores, a few batches ahead.

    Args:
        images: the images.
        input_format: the format the model wants; None: the whole picture in its own size.
        batch_size: images in each list; the last may have fewer.
    """

    def whole(name: str, image: Image.Image) -> list[Decoded]:
        return [Decoded(name, show(image, input_format), "")]

    yield from _decode_ahead(images, whole, batch_size)


def decode_cells(
    images: Iterable[Input], size: int, field: float, batch_size: int
) -> Iterator[list[Decoded]]:
    """Reads pictures and finds their white cells, on all cores, a few batches ahead.

    Args:
        images: the pictures. A picture without a white cell, or too small for the field of view,
            gives one `Decoded` with an error.
        size: side of the squares around the cells in pixels.
        field: field of view relative to the Kaggle set's: 2 means twice as wide.
        batch_size: pictures that are read together, and cells in each list at most.
    """

    def cells(name: str, image: Image.Image) -> list[Decoded]:
        found = show_cells(image, size, field)
        every = [Decoded(name, pixels, "", cell) for cell, pixels in found]
        return every or [Decoded(name, None, NO_CELL)]

    for together in _decode_ahead(images, cells, batch_size):
        for start in range(0, len(together), batch_size):
            yield together[start : start + batch_size]


Make = Callable[[str, Image.Image], list[Decoded]]


def _decode_ahead(images: Iterable[Input], make: Make, batch_size: int) -> Iterator[list[Decoded]]:
    """Yields what `make` returns, joined for every `batch_size` images."""
    waiting: deque[list[Future[list[Decoded]]]] = deque()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
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
        return [one._replace(read=image.read) for one in make(image.name, image.open())]
    except READ_ERRORS as error:
        system = error.strerror if isinstance(error, OSError) else None
        return [Decoded(image.name, None, system or reason(error), read=image.read)]


def _file(path: str) -> Named:
    return Named(path, partial(read_file, Path(path)))


def _find(word: str, archives: ExitStack) -> Iterator[Named]:
    path = Path(word).expanduser()
    if path.is_dir():
        return _folder(path)
    archive = next((p for p in (path, *path.parents) if p.suffix == ".zip" and p.is_file()), None)
    if archive:
        return _archive(archive, path.relative_to(archive).as_posix(), archives)
    if path.is_file():
        return iter([_file(str(path))])
    if glob.has_magic(word):
        matches = glob.iglob(str(path), recursive=True)  # noqa: PTH207  may be absolute
        return (one for match in matches for one in _matched(Path(match)))
    raise InputError(f"{word}: no such file or folder.")


def _matched(path: Path) -> Iterator[Named]:
    if path.is_dir():
        yield from _folder(path)
    elif is_image(path.name):
        yield _file(str(path))


def _folder(root: Path) -> Iterator[Named]:
    return (_file(str(path)) for path in walk_images(root))


def _archive(path: Path, inside: str, archives: ExitStack) -> Iterator[Named]:
    """Finds the images of an archive: all, those below a folder, or those that fit a pattern."""
    archive = archives.enter_context(open_archive(path, str(path)))
    for entry in archived_images(archive):
        name = entry.filename
        wanted = inside == "." or name == inside or name.startswith(f"{inside}/")
        if wanted or fnmatch(name, inside):
            yield Named(f"{path}/{name}", partial(read_entry, archive, entry))
