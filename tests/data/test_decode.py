import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bloodcell.data import decode as decoding
from bloodcell.data.crop import InputFormat
from bloodcell.data.decode import allocate, check_readable, decode, decode_into, open_rgb
from bloodcell.data.source import open_source
from bloodcell.errors import InputError


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "CMYK", "1"])
def test_any_colour_mode_becomes_rgb(mode: str) -> None:
    image = Image.new("RGB", (50, 40), (255, 255, 255)).convert(mode)
    pixels = decode(encoded(image, "TIFF"), InputFormat(32))
    assert pixels.shape == (32, 32, 3)
    assert pixels.dtype == np.uint8
    assert pixels.min() >= 254


def test_16_bits_are_scaled_not_cut() -> None:
    image = Image.fromarray(np.full((40, 40), 128 * 257, np.uint16))
    assert np.unique(decode(encoded(image), InputFormat(32))).tolist() == [128]


def test_turned_as_the_camera_says() -> None:
    image = Image.new("RGB", (40, 40))
    image.paste((255, 0, 0), (0, 0, 20, 40))  # red on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees
    file = io.BytesIO()
    image.save(file, "JPEG", exif=exif, quality=95)
    pixels = decode(file.getvalue(), InputFormat(40))
    assert pixels[2, :, 0].min() > 200  # red on top
    assert pixels[-2, :, 0].max() < 50


def test_an_image_that_is_cut_off_is_named(smears_copy: Path) -> None:
    bad = sorted(smears_copy.rglob("*.jpeg"))[3]
    bad.write_bytes(bad.read_bytes()[:2000])
    empty = sorted(smears_copy.rglob("*.jpeg"))[5]
    empty.write_bytes(b"")
    source = open_source(str(smears_copy))
    names = list(source.sizes)
    with pytest.raises(InputError) as refused:
        check_readable(
            decode_into(allocate(len(names), 32), source, names, InputFormat(32)),
            len(names),
            "stop",
        )
    message = str(refused.value)
    assert "data.unreadable=stop, and 2 of" in message
    assert f"{bad.relative_to(smears_copy)} (" in message
    assert f"{empty.relative_to(smears_copy)} (empty file)" in message
    assert "--data.unreadable skip" in message


def test_a_log_file_says_that_many_images_are_decoded(
    smears: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = open_source(str(smears))
    names = list(source.sizes)[:4]

    def said() -> str:
        decode_into(allocate(4, 32), source, names, InputFormat(32))
        return capsys.readouterr().err

    assert said() == ""
    monkeypatch.setattr(decoding, "_MANY", 4)
    assert said() == "decoding 4 images, which can take minutes ...\n"
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert "which can take minutes" not in said()


def test_skip_counts_and_lists(smears_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = open_source(str(smears_copy))
    names = list(source.sizes)
    whole = allocate(len(names), 32)
    assert decode_into(whole, source, names, InputFormat(whole.shape[1])) == ({}, {})
    (smears_copy / names[3]).write_bytes(b"no image")
    pixels = allocate(len(names), 32)
    report = decode_into(pixels, source, names, InputFormat(pixels.shape[1]))
    assert report.unreadable == {names[3]: "not an image in a supported format"}
    good = [place for place in range(len(names)) if place != 3]
    np.testing.assert_array_equal(pixels[good], whole[good])
    check_readable(report, len(names), "skip")
    said = capsys.readouterr().err
    assert f"1 of {len(names)} images cannot be read: {names[3]}" in said


def test_too_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_free_memory", lambda: 10_000)
    with pytest.raises(InputError, match=r"image_size=64 needs .* GiB for 4 images.*smaller"):
        allocate(4, 64)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [9_500, 20_000])
def test_a_picture_with_too_many_pixels(side: int) -> None:
    """Below and above the size from which Pillow itself refuses an image."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = b""
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(b""))):
        checked = kind + data
        chunks += struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))
    with pytest.raises(ValueError, match=r"more than the 89"):
        open_rgb(b"\x89PNG\r\n\x1a\n" + chunks)
