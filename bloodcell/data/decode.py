"""Decodes image files into arrays of pixels."""

import io
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from rich.console import Console
from rich.progress import track

from bloodcell.data.crop import InputFormat, Pixels, show
from bloodcell.data.deep import (
    FIRST_PAGE,
    Deep,
    check_size,
    is_deep_png,
    is_tiff,
    read_deep_png,
    read_tiff,
)
from bloodcell.data.image_files import READ_ERRORS
from bloodcell.data.source import Source
from bloodcell.errors import InputError, listed, reason, require
from bloodcell.machine import usable_cpus

Unreadable = Literal["stop", "skip"]
IMAGE_SIZES = range(32, 1025)  # a MobileNet halves its input five times; larger images fill memory
MOST_PIXELS = 89_000_000  # of one image; Pillow warns above this
# formats of photographs; EPS is excluded because Pillow would start Ghostscript
_FORMATS = ("JPEG", "PNG", "BMP", "DIB", "TIFF", "WEBP", "GIF")
_PAGED = ("PNG", "WEBP", "GIF")  # further pages of a JPEG are previews
_NOTE = "bloodcell"
_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_NAMED = 3  # images that are named for each note
_TOGETHER = 64  # images per task; one task per image would need a kilobyte for every image
_MANY = 1_000  # images; decoding so many is announced even if no progress bar is shown
_ROOM = 1.1  # free memory required, relative to the array, because decoding needs some too


def check_image_size(setting: str, size: int) -> None:
    """Raises InputError if images are too small or too large for the networks."""
    require(size in IMAGE_SIZES, setting, size, "32 to 1024 pixels; the published runs use 224")


class Report(NamedTuple):
    """The images that are unreadable, or were changed when they were decoded.

    Attributes:
        unreadable: names of images that cannot be read, each with the reason.
        notes: names of images that were changed, e.g. scaled, each with the change.
    """

    unreadable: dict[str, str]
    notes: dict[str, str]

    def of(self, names: Iterable[str]) -> "Report":
        """Returns the report on some of the images, in the order of `names`."""
        some = list(names)
        return Report(*({n: part[n] for n in some if n in part} for part in self))


def open_rgb(data: bytes, most_pixels: int = MOST_PIXELS) -> Image.Image:
    """Decodes an image file to RGB and rotates it upright.

    Args:
        data: the file's bytes, in any colour mode.
        most_pixels: larger images are rejected before decoding, because a small file can contain
            an image that fills the memory.

    Returns:
        The image. Transparent parts are white. `note_of` returns how it was changed.

    Raises:
        ValueError: if the file is empty, not an image, truncated or too large, or if the
            white level is unknown.
    """
    if not data:
        raise ValueError("empty file")
    try:
        tiff = read_tiff(data, most_pixels) if is_tiff(data) else Deep(None, "")
        if tiff.image:
            return _finish(tiff.image, tiff.note)
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            check_size(image.width, image.height, most_pixels)
            paged = image.format in _PAGED and getattr(image, "is_animated", False)
            note = tiff.note or (FIRST_PAGE if paged else "")
            if not is_deep_png(data):
                return _finish(image, note)
            image.load()  # fails if the file is truncated
            deep = read_deep_png(data)
            assert deep.image
            deep.image.getexif().update(image.getexif())
            return _finish(deep.image, "; ".join(filter(None, (note, deep.note))))
    except UnidentifiedImageError as error:
        raise ValueError("not an image in a supported format") from error
    except _BOMBS as error:
        raise ValueError(f"more than the {most_pixels / 1e6:.0f} million pixels allowed") from error
    except (OSError, SyntaxError) as error:
        raise ValueError(str(error)) from error


def _finish(image: Image.Image, note: str) -> Image.Image:
    upright = ImageOps.exif_transpose(image)
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        if upright.getchannel("A").getextrema() != (255, 255):
            note = "; ".join(filter(None, (note, "transparent parts are shown white")))
            white = Image.new("RGBA", upright.size, "white")
            upright = Image.alpha_composite(white, upright)
    rgb = upright.convert("RGB")
    rgb.info[_NOTE] = note  # always set, because a file may contain any entries
    return rgb


def note_of(image: Image.Image) -> str:
    """Returns how `open_rgb` changed an image; empty if it did not."""
    return str(image.info.get(_NOTE, ""))


class Notes:
    """Collects the notes on images; the memory does not grow with their number."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._first: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, name: str, note: str) -> None:
        """Adds the note on an image."""
        self._counts[note] += 1
        if len(self._first[note]) < _NAMED:
            self._first[note].append(name)

    def lines(self) -> list[str]:
        """Returns a line for each note, with the first images and the number of the others."""
        return [
            f"{note}: {listed(self._first[note], _NAMED, n)}" for note, n in self._counts.items()
        ]


def summarise(notes: Mapping[str, str]) -> list[str]:
    """Returns a line for each note, from the notes of images by name."""
    collected = Notes()
    for name, note in notes.items():
        collected.add(name, note)
    return collected.lines()


def decode(data: bytes, input_format: InputFormat | None) -> Pixels:
    """Decodes an image file into the network's input.

    Args:
        data: the file's bytes.
        input_format: the format of the input; None for the whole picture, reduced if it is large.

    Returns:
        (size, size, 3), or (H, W, 3) without a format.

    Raises:
        ValueError: if the file is empty, not an image, truncated or too large.
    """
    return show(open_rgb(data), input_format)


def decode_into(
    pixels: Pixels, source: Source, names: Sequence[str], input_format: InputFormat
) -> Report:
    """Decodes images into an array, in threads, because Pillow releases the GIL.

    Standard error shows a progress bar in a terminal, otherwise one line if there are many images.

    Args:
        pixels: (n, size, size, 3), filled in the order of `names`.
        source: the source of the images.
        names: n names of images.
        input_format: the format of the network's input.

    Returns:
        Which images cannot be read, and which were changed.
    """
    notes: dict[str, str] = {}
    if len(names) >= _MANY and not sys.stderr.isatty():
        print(f"decoding {len(names):,} images, which can take minutes ...", file=sys.stderr)
    with source.reader() as read, ThreadPoolExecutor(usable_cpus()) as pool:

        def fill(start: int) -> list[str | None]:
            return [fill_one(n) for n in range(start, min(start + _TOGETHER, len(names)))]

        def fill_one(place: int) -> str | None:
            try:
                image = open_rgb(read(names[place]))
                pixels[place] = show(image, input_format, source.centre(names[place]))
            except READ_ERRORS as error:
                return reason(error)
            if note := note_of(image):
                notes[names[place]] = note
            return None

        reasons = track(
            chain.from_iterable(pool.map(fill, range(0, len(names), _TOGETHER))),
            "reading images",
            total=len(names),
            console=Console(file=sys.stderr),
            transient=True,
            disable=not sys.stderr.isatty(),
        )
        bad = {name: why for name, why in zip(names, reasons, strict=True) if why}
    return Report(bad, notes).of(names)


def check_readable(report: Report, total: int, unreadable: Unreadable) -> None:
    """Raises InputError for images that cannot be read, or lists them on standard error.

    Args:
        report: which images cannot be read.
        total: number of all images.
        unreadable: `stop` raises the error, `skip` lists the images.

    Raises:
        InputError: if an image cannot be read and `unreadable` is `stop`.
    """
    for line in summarise(report.notes):
        print(line, file=sys.stderr)
    bad = report.unreadable
    if not bad:
        return
    names = listed([f"{name} ({why})" for name, why in bad.items()])
    problem = f"{len(bad)} of {total} images cannot be read: {names}"
    if unreadable == "stop":
        raise InputError(
            f"data.unreadable=stop, and {problem}. Fix or delete them, or use "
            "--data.unreadable skip to train without them."
        )
    print(f"data.unreadable=skip: {problem}. They are left out.", file=sys.stderr)


def allocate(count: int, size: int) -> Pixels:
    """Allocates memory for images.

    Args:
        count: number of images.
        size: side of the square images in pixels.

    Returns:
        (count, size, size, 3), not initialised.

    Raises:
        InputError: if there is too little free memory.
    """
    needed = count * size * size * 3
    free = _free_memory()
    if free is not None and needed * _ROOM > free:
        raise InputError(
            f"data.image_size={size} needs {needed / 2**30:.1f} GiB for {count:,} images; "
            f"{free / 2**30:.1f} GiB of memory are free. Use a smaller --data.image_size, or a "
            "--data.cache_gib that is large enough."
        )
    return np.empty((count, size, size, 3), np.uint8)


def _free_memory() -> int | None:
    """Returns the bytes that can be allocated without swapping; None if unknown."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.is_file():
        return None
    lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024
