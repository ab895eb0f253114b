"""Decodes image files into arrays of pixels."""

import io
import lzma
import os
import sys
import zipfile
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from rich.console import Console
from rich.progress import track

from bloodcell.data.crop import InputFormat, Pixels, show
from bloodcell.data.source import Source
from bloodcell.errors import InputError, listed, reason

Unreadable = Literal["stop", "skip"]
# exceptions of reading and decoding an image
READ_ERRORS = (
    *(ValueError, OSError, EOFError, RuntimeError, MemoryError),
    *(zlib.error, lzma.LZMAError, zipfile.BadZipFile),
)
IMAGE_SIZES = range(32, 1025)  # a MobileNet halves its input five times; larger images fill memory
MOST_PIXELS = 89_000_000  # of one image; Pillow warns above
# formats of photographs; EPS is excluded because Pillow would start Ghostscript
_FORMATS = ("JPEG", "PNG", "BMP", "DIB", "TIFF", "WEBP", "GIF")
_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_TOGETHER = 64  # images of a task, because a task takes a kilobyte
_ROOM = 1.1  # free memory required, relative to the array, because decoding needs some too


def open_rgb(data: bytes, most_pixels: int = MOST_PIXELS) -> Image.Image:
    """Decodes an image file to RGB and rotates it upright.

    Args:
        data: the file's bytes, in any colour mode.
        most_pixels: larger images are rejected before decoding, because a small file can contain
            an image that fills the memory.

    Raises:
        ValueError: if the file is empty, not an image, truncated or too large.
    """
    if not data:
        raise ValueError("empty file")
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if image.width * image.height > most_pixels:
                raise ValueError(
                    f"{image.width:,} x {image.height:,} pixels, more than the "
                    f"{most_pixels / 1e6:.0f} million allowed"
                )
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):  # convert would clip 16-bit values at 255
                upright = upright.point(lambda value: value / 257).convert("L")
            return upright.convert("RGB")
    except UnidentifiedImageError as error:
        raise ValueError("no image of a known format") from error
    except (OSError, SyntaxError, *_BOMBS) as error:
        raise ValueError(str(error)) from error


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
) -> dict[str, str]:
    """Decodes images into an array, in threads, because Pillow releases the GIL.

    Args:
        pixels: (n, size, size, 3), filled in the order of `names`.
        source: the source of the images.
        names: n names of images.
        input_format: the format of the network's input.

    Returns:
        The names of images that cannot be read, each with the reason.
    """
    with source.reader() as read, ThreadPoolExecutor(os.cpu_count()) as pool:

        def fill(start: int) -> list[str | None]:
            return [fill_one(n) for n in range(start, min(start + _TOGETHER, len(names)))]

        def fill_one(place: int) -> str | None:
            try:
                pixels[place] = decode(read(names[place]), input_format)
            except READ_ERRORS as error:
                return reason(error)
            return None

        reasons = track(
            chain.from_iterable(pool.map(fill, range(0, len(names), _TOGETHER))),
            "reading images",
            total=len(names),
            console=Console(file=sys.stderr),
            transient=True,
            disable=not sys.stderr.isatty(),
        )
        return {name: why for name, why in zip(names, reasons, strict=True) if why}


def check_readable(bad: dict[str, str], total: int, unreadable: Unreadable) -> None:
    """Raises InputError for images that cannot be read, or lists them on standard error.

    Args:
        bad: names of images that cannot be read, each with the reason.
        total: number of all images.
        unreadable: `stop` raises the error, `skip` lists the images.

    Raises:
        InputError: if `bad` is not empty and `unreadable` is `stop`.
    """
    if not bad:
        return
    names = listed([f"{name} ({why})" for name, why in bad.items()])
    report = f"{len(bad)} of {total} images cannot be read: {names}"
    if unreadable == "stop":
        raise InputError(
            f"data.unreadable=stop, and {report}. Mend or delete them, or use "
            "--data.unreadable skip to train without them."
        )
    print(f"data.unreadable=skip: {report}. They are left out.", file=sys.stderr)


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
            "--data.cache_gib that holds them."
        )
    return np.empty((count, size, size, 3), np.uint8)


def _free_memory() -> int | None:
    """Returns the bytes that can be allocated without swapping; None if unknown."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.is_file():
        return None
    lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024
