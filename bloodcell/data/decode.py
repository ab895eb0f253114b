"""Decodes image files into arrays of pixels, once, before any training."""

import io
import os
import sys
import zipfile
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from rich.console import Console
from rich.progress import track

from bloodcell.data.source import Source
from bloodcell.errors import InputError, listed, reason

Pixels = NDArray[np.uint8]
Unreadable = Literal["stop", "skip"]
_BYTES_FREE_NEEDED = 1.1  # of the array's size: decoding needs a little room besides


def decode(data: bytes, size: int) -> Pixels:
    """Decodes one image file and squeezes it to a square, as the published experiments do.

    Args:
        data: the file's bytes, in any format and colour mode Pillow reads.
        size: side of the square in pixels.

    Returns:
        (size, size, 3) RGB.

    Raises:
        ValueError: if it is no image or is cut off.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):  # 16 bits a pixel, which convert would cut to 255
                upright = upright.point(lambda value: value / 257).convert("L")
            rgb = upright.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    except UnidentifiedImageError as error:
        raise ValueError("no image of a known format") from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(str(error)) from error
    return np.asarray(rgb)


def decode_all(
    source: Source, names: Sequence[str], size: int, unreadable: Unreadable
) -> tuple[Pixels, list[int]]:
    """Decodes images into one array, on all cores.

    Args:
        source: where the images lie.
        names: which ones, in the order wanted.
        size: side of the square in pixels.
        unreadable: `stop` at images that cannot be read, or `skip` and list them.

    Returns:
        Pixels (n, size, size, 3), and the places in `names` of the n that could be read.

    Raises:
        InputError: if an image cannot be read and `unreadable` is `stop`, or memory is short.
    """
    pixels = _allocate(len(names), size)
    with source.reader() as read, ThreadPoolExecutor(os.cpu_count()) as pool:

        def fill(place: int) -> str | None:
            try:
                pixels[place] = decode(read(names[place]), size)
            except (
                ValueError,
                OSError,
                EOFError,
                RuntimeError,
                zlib.error,
                zipfile.BadZipFile,
            ) as error:
                return f"{names[place]} ({reason(error)})"
            return None

        reasons = list(
            track(
                pool.map(fill, range(len(names))),
                "reading images",
                total=len(names),
                console=Console(file=sys.stderr),
                transient=True,
                disable=not sys.stderr.isatty(),
            )
        )
    bad = [reason for reason in reasons if reason]
    if not bad:
        return pixels, list(range(len(names)))
    report = f"{len(bad)} of {len(names)} images cannot be read: {listed(bad)}"
    if unreadable == "stop":
        raise InputError(
            f"data.unreadable=stop, and {report}. Mend or delete them, or use "
            "--data.unreadable skip to train without them."
        )
    print(f"data.unreadable=skip: {report}. They are left out.", file=sys.stderr)
    good = [place for place, reason in enumerate(reasons) if reason is None]
    return pixels[good], good


def _allocate(count: int, size: int) -> Pixels:
    needed = count * size * size * 3
    free = _free_memory()
    if free is not None and needed * _BYTES_FREE_NEEDED > free:
        raise InputError(
            f"data.image_size={size} needs {needed / 2**30:.1f} GiB for {count:,} images; "
            f"{free / 2**30:.1f} GiB of memory are free. Use a smaller --data.image_size."
        )
    return np.empty((count, size, size, 3), np.uint8)


def _free_memory() -> int | None:
    """Bytes that can be had without swapping, where the system tells."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.is_file():
        return None
    lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024
