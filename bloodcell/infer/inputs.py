"""The images a user names: files, folders, archives, patterns, or paths on the standard input."""

import glob
import os
import sys
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from bloodcell.data.cell import Cell
from bloodcell.data.crop import InputFormat, Pixels, show_cells
from bloodcell.data.decode import READ_ERRORS, decode, open_rgb
from bloodcell.data.source import (
    IMAGE_SUFFIXES,
    ZIP_ERRORS,
    is_image,
    read_entry,
    read_file,
)
from bloodcell.errors import InputError, reason, require

STDIN = "-"
NO_CELL = "no white cell found"
_AHEAD = 3  # batches that are read while one is being classified


class Named(NamedTuple):
    """An image file.

    Attributes:
        name: as it is called in the answer.
        read: gives its bytes.
    """

    name: str
    read: Callable[[], bytes]


class Decoded(NamedTuple):
    """An image, or the reason why there is none.

    Attributes:
        name: as it is called in the answer.
        pixels: (H, W, 3), as the model wants it; None if there are none.
        error: why; empty if there are.
        cell: where it lies on the picture, if it is a cell of it.
        read: gives the picture's bytes again; the same object for all cells of a picture.
    """

    name: str
    pixels: Pixels | None
    error: str
    cell: Cell | None = None
    read: Callable[[], bytes] | None = None


def check_given(given: Sequence[str]) -> None:
    """Refuses a command line that names no images.

    Raises:
        InputError: if it does not.
    """
    rule = "at least one file, folder, .zip, pattern, or - for paths"
    require(bool(given), "IMAGES", "", rule)


def find_images(given: Sequence[str], archives: ExitStack) -> Iterator[Named]:
    """Finds images one after another: a million of them need no list.

    Args:
        given: files, folders, .zip files, places inside of one (`x.zip/folder`, `x.zip/*/a*.png`),
            patterns, or `-` for a path a line on the standard input.
        archives: closes what is opened for reading.

    Raises:
        InputError: if there is nothing where one of them says, or no image in it.
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
    images: Iterable[Named], input_format: InputFormat | None, batch_size: int
) -> Iterator[list[Decoded]]:
    """Reads and decodes on all cores, a few batches ahead.

    Args:
        images: what is to be read.
        input_format: what of each picture the model wants; None: the whole, as it is.
        batch_size: images in each list; the last may have fewer.
    """

    def whole(name: str, data: bytes) -> list[Decoded]:
        return [Decoded(name, decode(data, input_format), "")]

    yield from _decode_ahead(images, whole, batch_size)


def decode_cells(
    images: Iterable[Named], size: int, field: float, batch_size: int
) -> Iterator[list[Decoded]]:
    """Reads pictures and finds their white cells, on all cores, a few batches ahead.

    Args:
        images: the pictures; one without a white cell gives one `Decoded`, whose error says so.
        size: side of the squares around the cells, as the model wants them.
        field: how many times as wide as on the Kaggle set's pictures the field of view is.
        batch_size: pictures whose cells are read together, and cells in each list at most.
    """

    def cells(name: str, data: bytes) -> list[Decoded]:
        return cells_of(name, open_rgb(data), size, field)

    for together in _decode_ahead(images, cells, batch_size):
        for start in range(0, len(together), batch_size):
            yield together[start : start + batch_size]


def cells_of(name: str, image: Image.Image, size: int, field: float) -> list[Decoded]:
    """The white cells of a picture; of one without any, that there is none.

    Args:
        name: as it is called in the answer.
        image: RGB.
        size: side of the squares around the cells, as the model wants them.
        field: how many times as wide as on the Kaggle set's pictures the field of view is.

    Raises:
        ValueError: if the picture is too small to show so wide a field.
    """
    found = show_cells(image, size, field)
    cells = [Decoded(name, pixels, "", cell) for cell, pixels in found]
    return cells or [Decoded(name, None, NO_CELL)]


def _decode_ahead(
    images: Iterable[Named], make: Callable[[str, bytes], list[Decoded]], batch_size: int
) -> Iterator[list[Decoded]]:
    """What is made of each image; of `batch_size` images together."""
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


def _decode(image: Named, make: Callable[[str, bytes], list[Decoded]]) -> list[Decoded]:
    try:
        data = image.read()
        if not data:
            return [Decoded(image.name, None, "empty file", read=image.read)]
        return [one._replace(read=image.read) for one in make(image.name, data)]
    except READ_ERRORS as error:
        said = error.strerror if isinstance(error, OSError) else None
        return [Decoded(image.name, None, said or reason(error), read=image.read)]


def _file(path: str) -> Named:
    return Named(path, lambda: read_file(Path(path)))


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
    for folder, below, names in os.walk(root):
        below.sort()
        for name in sorted(names):
            path = Path(folder, name)
            if is_image(path.relative_to(root).as_posix()):
                yield _file(str(path))


def _archive(path: Path, inside: str, archives: ExitStack) -> Iterator[Named]:
    """The images of an archive: all, or those below a folder, or those a pattern names."""
    try:
        archive = archives.enter_context(zipfile.ZipFile(path))
    except ZIP_ERRORS as error:
        raise InputError(f"{path} cannot be read as a zip archive ({reason(error)}).") from error
    for entry in archive.infolist():
        name = entry.filename
        wanted = inside == "." or name == inside or name.startswith(f"{inside}/")
        if is_image(name) and (wanted or fnmatch(name, inside)):
            yield Named(f"{path}/{name}", lambda entry=entry: read_entry(archive, entry))  # type: ignore[misc]
