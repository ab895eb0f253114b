"""Images as microscopes and their programs write them: more bits, floats, pages, channels."""

import io
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from bloodcell.data.decode import MOST_PIXELS, note_of, open_rgb

DEEP = np.random.default_rng(0).integers(0, 4096, (40, 50, 3)).astype(np.uint16)
SHOWN = np.rint(DEEP * (255 / 4095)).astype(np.uint8)  # of 12 bits
GREY = SHOWN[:, :, [0, 0, 0]]
SCALED, PAGES = "scaled so that 4,095 is white", "only the first page is read"


def tiff(pixels: NDArray[Any], **how: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **how)
    return file.getvalue()


def encoded(image: Image.Image, kind: str, **how: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def opencv(suffix: str, pixels: NDArray[Any], *how: int) -> bytes:
    done, data = cv2.imencode(suffix, pixels[:, :, ::-1], how)
    assert done
    return data.tobytes()


def planes(pixels: NDArray[Any]) -> NDArray[Any]:
    return pixels.transpose(2, 0, 1)


LZW = (cv2.IMWRITE_TIFF_COMPRESSION, cv2.IMWRITE_TIFF_COMPRESSION_LZW)
FLOATS = (DEEP / 4095).astype(np.float32)
SIGNED = DEEP.astype(np.int16)[:, :, 0]


@pytest.mark.parametrize(
    ("data", "shown", "note"),
    [
        (tiff(DEEP, photometric="rgb"), SHOWN, SCALED),
        (tiff(DEEP, photometric="rgb", compression="zlib"), SHOWN, SCALED),
        (tiff(DEEP, photometric="rgb", byteorder=">", bigtiff=True), SHOWN, SCALED),
        (tiff(planes(DEEP), photometric="rgb", planarconfig="separate"), SHOWN, SCALED),
        (opencv(".tif", DEEP, *LZW), SHOWN, SCALED),
        (opencv(".png", DEEP), SHOWN, SCALED),
        (encoded(Image.fromarray(DEEP[:, :, 0]), "PNG"), GREY, SCALED),
        (encoded(Image.fromarray(DEEP[:, :, 0]), "TIFF"), GREY, SCALED),
        (tiff(SIGNED), GREY, SCALED),
        (tiff(DEEP[:, :, 0].astype(np.uint32)), GREY, SCALED),
        (tiff(DEEP[:, :, 0].astype(np.uint32) << 16, extratags=[(281, "I", 1, 4095 << 16, True)]),
         GREY, "scaled so that 268,369,920 is white"),
        (tiff(np.full((2, 2), 2**32 - 1, np.uint32), extratags=[(281, "I", 1, 2**32 - 1, True)]),
         np.full((2, 2, 3), 255), ""),
        (tiff(4095 - DEEP[:, :, 0], photometric="miniswhite"), GREY, SCALED),
        (tiff(255 - SHOWN[:, :, 0], photometric="miniswhite"), GREY, ""),
        (tiff(np.stack([4095 - DEEP[:, :, 0], np.full_like(DEEP[:, :, 0], 4095)], 2),
              photometric="miniswhite", extrasamples=["unassalpha"]), GREY, SCALED),
        (tiff(DEEP // 4, photometric="rgb", extratags=[(281, "H", 3, (1023,) * 3, True)]),
         np.rint(DEEP // 4 * (255 / 1023)).astype(np.uint8), "scaled so that 1,023 is white"),
        (tiff(planes(DEEP // 4), ome=True, metadata={"axes": "CYX", "SignificantBits": 12}),
         np.rint(DEEP // 4 * (255 / 4095)).astype(np.uint8), SCALED),
        (tiff(SHOWN.astype(np.uint16), photometric="rgb"), SHOWN, "scaled so that 255 is white"),
        (tiff(SHOWN * np.uint16(257), photometric="rgb"), SHOWN, ""),
        (opencv(".png", SHOWN * np.uint16(257)), SHOWN, ""),
        (tiff(FLOATS[:, :, 0]), GREY, "scaled so that 1 is white"),
        (tiff(FLOATS, photometric="rgb"), SHOWN, "scaled so that 1 is white"),
        (opencv(".tif", FLOATS, *LZW), SHOWN, "scaled so that 1 is white"),
        (tiff(SHOWN.astype(np.float32), photometric="rgb"), SHOWN, "scaled so that 255 is white"),
        (tiff(planes(DEEP), imagej=True, metadata={"axes": "CYX"}), SHOWN, SCALED),
        (tiff(planes(SHOWN), ome=True, metadata={"axes": "CYX"}), SHOWN, ""),
        (tiff(np.stack([planes(DEEP)] * 2), ome=True, metadata={"axes": "ZCYX"}), SHOWN,
         f"{PAGES}; {SCALED}"),
        (tiff(planes(SHOWN), photometric="minisblack"), GREY, PAGES),
        (tiff(np.stack([SHOWN, 255 - SHOWN]), photometric="rgb"), SHOWN, PAGES),
    ],
)  # fmt: skip
def test_values_and_pages_of_microscopes(data: bytes, shown: NDArray[Any], note: str) -> None:
    image = open_rgb(data)
    np.testing.assert_array_equal(np.asarray(image), shown)
    assert note_of(image) == note


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "WEBP", "PNG"])
def test_further_pages_are_said(kind: str) -> None:
    first = Image.new("RGB", (40, 30), "red")
    more = {"save_all": True, "append_images": [Image.new("RGB", (40, 30), "blue")]}
    how = {"compression": "tiff_lzw"} if kind == "TIFF" else {}
    several = open_rgb(encoded(first, kind, **more, **how))
    assert note_of(several) == PAGES
    assert np.asarray(several)[:, :, 0].min() > 200
    assert note_of(open_rgb(encoded(first, kind, **how))) == ""


def test_a_thumbnail_is_no_page() -> None:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(SHOWN, photometric="rgb")
        writer.write(SHOWN[::4, ::4], photometric="rgb", subfiletype=1)
    assert note_of(open_rgb(file.getvalue())) == ""


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (tiff(SIGNED - 2000), r"range from -\d+ to 2\d+, so the white level .* is unknown: s"),
        (tiff(FLOATS[:, :, 0] * 1.2), r"range from \S+ to 1\.19\d+, so the white level"),
        (tiff(FLOATS[:, :, 0] - 0.1), r"range from -0\.0\d+ to 0\.\d+, so the white level"),
        (tiff(FLOATS[:, :, 0] * np.nan), "range from nan to nan"),
        (tiff(DEEP[:, :, 0].astype(np.uint32) * 100), "so the white level .* is unknown"),
        (tiff(np.zeros((20, 20, 6), np.uint16), photometric="minisblack", planarconfig="contig"),
         "6 channels of an unsupported"),
        (tiff(np.zeros((20, 20, 5), np.uint16), photometric="separated", planarconfig="contig"),
         "5 channels of an unsupported"),
        (tiff(DEEP, photometric="rgb")[:-500], "the file is truncated"),
        (opencv(".tif", DEEP, *LZW)[:-500], "a damaged or truncated TIFF"),
        (opencv(".png", DEEP)[:-500], "truncated"),
        (tiff(np.zeros((4, 16, 16), np.uint16), photometric="minisblack", volumetric=True,
              tile=(4, 16, 16)), "axes ZYX"),
    ],
)  # fmt: skip
def test_what_cannot_be_shown_rightly_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        open_rgb(data)


@pytest.mark.parametrize("make", [lambda deep: tiff(deep, photometric="rgb"),
                                  lambda deep: opencv(".png", deep)])  # fmt: skip
def test_a_large_deep_image_is_refused(make: Callable[[NDArray[Any]], bytes]) -> None:
    assert open_rgb(make(DEEP), MOST_PIXELS)
    with pytest.raises(ValueError, match=r"50 x 40 pixels, more than the 0 million"):
        open_rgb(make(DEEP), 1999)


def test_turned_as_the_file_says() -> None:
    turned = tiff(DEEP, photometric="rgb", extratags=[(274, "H", 1, 6, True)])
    np.testing.assert_array_equal(np.asarray(open_rgb(turned)), np.rot90(SHOWN, -1))
    exif = Image.Exif()
    exif[274] = 6
    plain = encoded(Image.fromarray(SHOWN), "PNG", exif=exif)
    np.testing.assert_array_equal(np.asarray(open_rgb(plain)), np.rot90(SHOWN, -1))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_are_white(mode: str) -> None:
    """What lies below them was never meant to be seen: it is often black."""
    image = Image.new("RGBA", (40, 30), (0, 0, 0, 0))
    image.paste((90, 90, 90, 255), (0, 0, 20, 30))
    shown = open_rgb(encoded(image.convert(mode), "PNG"))
    assert np.unique(np.asarray(shown)[:, :20]).tolist() == [90]
    assert np.unique(np.asarray(shown)[:, 20:]).tolist() == [255]
    assert note_of(shown) == "transparent parts are shown white"


def test_what_a_file_says_itself_is_no_note() -> None:
    from PIL.PngImagePlugin import PngInfo

    said = PngInfo()
    said.add_text("bloodcell", "malignant")
    assert note_of(open_rgb(encoded(Image.new("RGB", (9, 9)), "PNG", pnginfo=said))) == ""
