"""Decodes TIFF and 16-bit PNG files, which Pillow would truncate, darken or reject."""

import io
import logging
import re
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bloodcell.errors import reason

FIRST_PAGE = "only the first page is read"
_DEPTHS = (8, 10, 12, 14, 16)  # bits of a pixel that cameras and programs use
# if the maximum of floats is above 1 and at most this, their white level is unknown
_LEAST_FLOAT = 16
_MOST_BYTES = 16  # of a decoded pixel: 32 bits in four channels
_LARGEST_TABLE = 2**16  # entries of a lookup table; a file may state any white level
_TIFF, _PNG = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), b"\x89PNG\r\n\x1a\n"
_ORIENTATION, _MAX_SAMPLE_VALUE = 274, 281  # tags
_UNSIGNED = 1  # sample format
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _CMYK = 0, 1, 2, 5  # photometric interpretations
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_ADVICE = "save it as RGB with 8 bits in each channel"


class Deep(NamedTuple):
    """The first page of a file.

    Attributes:
        image: the page, 8 bits in each channel; None if Pillow can read it.
        note: how it was changed or which page was read; empty if neither applies.
    """

    image: Image.Image | None
    note: str


def is_tiff(data: bytes) -> bool:
    """Returns whether a file is a TIFF, by its first bytes."""
    return data.startswith(_TIFF)


def is_deep_png(data: bytes) -> bool:
    """Returns whether a file is a PNG with 16 bits in each channel."""
    return data.startswith(_PNG) and data[24:25] == b"\x10"


def read_tiff(data: bytes, most_pixels: int) -> Deep:
    """Reads the first page of a TIFF; three pages of one channel each are red, green and blue.

    Args:
        data: the file's bytes.
        most_pixels: largest number of pixels of an accepted page.

    Raises:
        ValueError: if the page cannot be read, or the range of its values is unknown.
    """
    import tifffile  # imported here because most images do not need it

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # its errors are raised, too
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as tiff:
            return _first_page(tiff, data, most_pixels)
    except ValueError:
        raise
    except Exception as error:  # a damaged file can raise any exception
        raise ValueError(f"a damaged or truncated TIFF ({reason(error)})") from error


def read_deep_png(data: bytes) -> Deep:
    """Reads a PNG with 16 bits in each channel, which Pillow has already read completely.

    Raises:
        ValueError: if it cannot be read.
    """
    return _as_image(_decode_cv2(data, 0), None, _BLACK_IS_ZERO)


def _first_page(tiff: Any, data: bytes, most_pixels: int) -> Deep:
    page = tiff.pages[0]
    pages = [one for one in tiff.pages if not one.is_reduced]  # thumbnails are not pages
    check_size(page.imagewidth, page.imagelength, most_pixels)
    channels = _channels(tiff)
    note = FIRST_PAGE if len(pages) > max(1, len(channels)) else ""
    if not channels and page.bitspersample <= 8 and page.sampleformat == _UNSIGNED:
        return Deep(None, note)
    planes = [_read_page(one, data) for one in channels or [page]]
    pixels = np.concatenate(planes, axis=2)
    image, scaled = _as_image(pixels, _stated_white(tiff), page.photometric)
    assert image
    if _ORIENTATION in page.tags:
        image.getexif()[_ORIENTATION] = int(page.tags[_ORIENTATION].value)
    return Deep(image, "; ".join(one for one in (note, scaled) if one))


def check_size(width: int, height: int, most_pixels: int) -> None:
    """Raises ValueError if an image has more than `most_pixels` pixels."""
    if width * height > most_pixels:
        raise ValueError(
            f"{width:,} x {height:,} pixels, more than the {most_pixels / 1e6:.0f} million allowed"
        )


def _channels(tiff: Any) -> list[Any]:
    """Returns the pages of red, green and blue, if each page has only one channel."""
    series = tiff.series[0]
    place = series.axes.find("C")
    if place < 0 or series.shape[place] != 3 or tiff.pages[0].samplesperpixel != 1:
        return []
    step = int(np.prod(series.shape[place + 1 : -2]))  # all axes but Y and X
    return [series.pages[channel * step].aspage() for channel in range(3)]


def _read_page(page: Any, data: bytes) -> NDArray[Any]:
    """Returns a page as (H, W, channels)."""
    if page.axes not in ("YX", "YXS", "SYX") or page.nbytes > _MOST_BYTES * page.imagewidth * (
        page.imagelength
    ):
        raise ValueError(f"axes {page.axes} of type {page.dtype} are not supported: {_ADVICE}")
    if max(map(sum, zip(page.dataoffsets, page.databytecounts, strict=True))) > len(data):
        raise ValueError("the file is truncated")
    try:
        pixels: NDArray[Any] = page.asarray()
    except ValueError as error:  # a compression for which tifffile needs another package
        if page.axes == "SYX" or "imagecodecs" not in str(error):
            raise ValueError(f"{error}: {_ADVICE}, without compression") from error
        return _decode_cv2(data, page.index)
    if page.axes == "SYX":
        return pixels.transpose(1, 2, 0)
    return pixels.reshape(*pixels.shape[:2], -1)


def _decode_cv2(data: bytes, number: int) -> NDArray[Any]:
    """Returns page `number` of a file as (H, W, channels) at its full depth."""
    import cv2

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # the raised error suffices
    file = np.frombuffer(data, np.uint8)
    read, pages = cv2.imdecodemulti(file, cv2.IMREAD_UNCHANGED, range=(number, number + 1))
    if not read or not pages:
        raise ValueError(f"damaged, or compressed by an unsupported method: {_ADVICE}")
    pixels = pages[0].reshape(*pages[0].shape[:2], -1)
    if pixels.shape[2] >= 3:  # OpenCV gives blue, green, red
        pixels = pixels[:, :, [2, 1, 0, *range(3, pixels.shape[2])]]
    return pixels


def _stated_white(tiff: Any) -> float | None:
    """Returns the maximum possible pixel value in a file's metadata; None if they lack it."""
    if stated := re.search(r'SignificantBits="(\d{1,2})"', tiff.ome_metadata or ""):
        return float(2 ** int(stated[1]) - 1)
    tag = tiff.pages[0].tags.get(_MAX_SAMPLE_VALUE)
    return float(np.max(tag.value)) if tag else None


def _as_image(pixels: NDArray[Any], stated: float | None, photometric: int) -> Deep:
    """Scales pixels (H, W, channels) of any type to 8 bits."""
    known = (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _CMYK)
    channels = pixels.shape[2]
    modes = {4: "CMYK"} if photometric == _CMYK else _MODES
    mode = modes.get(channels)
    if photometric not in known or mode is None:
        raise ValueError(f"{channels} channels of an unsupported kind: {_ADVICE}")
    white = _white(pixels, stated)
    if pixels.dtype.kind == "f" or pixels.max() >= _LARGEST_TABLE:
        scaled = np.rint(np.clip(pixels, 0, white) * (255 / white)).astype(np.uint8)
    else:  # a lookup table is small and exact
        values = np.arange(int(pixels.max()) + 1)
        scaled = np.rint(values.clip(max=white) * (255 / white)).astype(np.uint8)[pixels]
    if photometric == _WHITE_IS_ZERO:
        scaled[..., 0] = 255 - scaled[..., 0]  # the second channel is opacity
    image = Image.frombytes(mode, scaled.shape[1::-1], scaled.tobytes())
    usual = pixels.dtype.kind == "u" and white == np.iinfo(pixels.dtype).max
    return Deep(image, "" if usual else f"scaled so that {white:,.15g} is white")


def _white(pixels: NDArray[Any], stated: float | None) -> float:
    """Returns the white level, i.e. the value that becomes 255."""
    low, high = float(pixels.min()), float(pixels.max())
    ranges = [float(2**bits - 1) for bits in _DEPTHS]
    if pixels.dtype.kind == "f":
        ranges, stated = ([1.0] if high <= 1 else ranges if high > _LEAST_FLOAT else []), None
    if stated and stated >= high:
        ranges = [stated]
    # not `low < 0`, because low may be NaN
    fitting = [white for white in ranges if white >= high] if low >= 0 else []
    if not fitting:
        raise ValueError(
            f"its values range from {low:g} to {high:g}, so the white level (the value to show as "
            f"white) is unknown: {_ADVICE}, or as floats from 0 to 1"
        )
    return fitting[0]
