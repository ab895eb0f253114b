"""The finder: white cells and the scale of a picture, nothing set by hand."""

import csv
import io
import math
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from bloodcell.data.crop import InputFormat, crop_cell, show, show_cells
from bloodcell.data.finder import LEAST_FIELD, MOST_FIELD, load_finder
from bloodcell.data.illumination import find_density
from bloodcell.data.locate import SHARE
from bloodcell.data.sampling import sample
from bloodcell.data.source import open_source
from bloodcell.data.table import build_table
from bloodcell.datasets.drawn import CLASS_NAMES
from bloodcell.datasets.drawn.fields import Field, draw_field
from bloodcell.datasets.drawn.smears import Photograph, draw_photograph

DRAWN = [draw_photograph(name, (7, seed)) for name in CLASS_NAMES for seed in range(2)]
FIELDS = [draw_field((11, n), field) for n, field in enumerate((0.7, 1.0, 1.5, 2.0, 2.8, 3.5))]
FORMAT = InputFormat(64, "cell", "auto")


def as_tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float()


def lies_in(
    point: tuple[float, float], box: tuple[float, float, float, float], scale: float = 1.0
) -> bool:
    left, top, right, bottom = (scale * edge for edge in box)
    return left <= point[0] <= right and top <= point[1] <= bottom


def count(field: Field) -> tuple[int, int]:
    """How many cells of a drawing are found, and how many are found that are none."""
    cells = [cell for cell, _ in show_cells(Image.fromarray(field.pixels), 32, "auto")]
    found = sum(any(lies_in(cell[:2], box) for cell in cells) for box in field.boxes)
    return found, sum(not any(lies_in(cell[:2], box) for box in field.boxes) for cell in cells)


def test_a_part_is_the_pictures_own_pixels_and_0_outside() -> None:
    picture = torch.randint(1, 256, (1, 3, 30, 40), generator=torch.manual_seed(0)).float()
    part, inside = sample(picture, torch.tensor([[10.0, 15.0]]), torch.tensor([[8.0]]), 8, 8)
    torch.testing.assert_close(part, picture[:, :, 11:19, 6:14])
    assert inside.min() == 1
    part, inside = sample(picture, torch.zeros(1, 2), torch.tensor([[8.0]]), 8, 8)
    assert part[:, :, :4].abs().max() == inside[:, :, :4].max() == 0
    torch.testing.assert_close(part[:, :, 4:, 4:], picture[:, :, :4, :4])


def test_parts_are_reduced_as_pillow_does() -> None:
    pixels = DRAWN[0].pixels
    half = np.asarray(Image.fromarray(pixels).resize((80, 60), Image.Resampling.BILINEAR))
    place, side = torch.tensor([[160.0, 120.0]]), torch.tensor([[320.0]])
    part, _ = sample(as_tensor(pixels)[None], place, side, 60, 80)
    assert (part[0] - as_tensor(half)).abs().max() < 1


def test_half_of_uneven_light_is_taken_out() -> None:
    image = as_tensor(DRAWN[0].pixels)[None, :, :, :240]
    inside = torch.ones_like(image[:, :1])
    line = torch.linspace(-1, 1, 240)
    shade = 0.2 * line[None, :] + 0.15 * line[:, None]  # as density
    lit = image * torch.exp(-shade)
    even, uneven = (find_density(one, inside)[:, :3] for one in (image, lit))
    assert (even - uneven).abs().mean() < 0.6 * shade.abs().mean()


@pytest.mark.parametrize("lamp", [(1.0, 1.0, 1.0), (1.1, 1.0, 0.7), (0.6, 0.8, 0.9)])
def test_the_one_white_cell_is_found_under_any_lamp(lamp: tuple[float, float, float]) -> None:
    for photograph in DRAWN:
        image = (as_tensor(photograph.pixels) * torch.tensor(lamp)[:, None, None]).clamp(0, 255)
        place, field = load_finder().locate(image[None])
        assert lies_in(tuple(place[0].tolist()), photograph.box)
        assert 0.6 < float(field) < 1.5


def test_the_field_follows_the_size_of_the_picture() -> None:
    image = Image.fromarray(FIELDS[2].pixels)
    before = load_finder().measure_field(as_tensor(np.asarray(image)))
    large = image.resize((image.width * 2, image.height * 2))
    assert load_finder().measure_field(as_tensor(np.asarray(large))) == pytest.approx(
        before, rel=0.2
    )
    part = image.crop((80, 60, 400, 300))  # two thirds
    part_field = load_finder().measure_field(as_tensor(np.asarray(part)))
    assert part_field == pytest.approx(before / 1.5, rel=0.3)


def test_drawn_fields_of_any_width() -> None:
    found, false = np.sum([count(field) for field in FIELDS], axis=0)
    assert found >= 0.8 * sum(len(field.boxes) for field in FIELDS)
    assert false <= 2
    for field in FIELDS:
        measured = load_finder().measure_field(as_tensor(field.pixels))
        if field.boxes:  # the one without shows two halves of red cells, which have no scale
            assert abs(math.log2(measured / field.field)) < 0.5


def test_a_given_centre_and_a_crop_of_constant_size() -> None:
    field = FIELDS[2]
    image = Image.fromarray(field.pixels)
    left, top, right, bottom = field.boxes[0]
    square = show(image, FORMAT, ((left + right) / 2, (top + bottom) / 2))
    doubled = image.resize((image.width * 2, image.height * 2))
    again = show(doubled, FORMAT, (left + right, top + bottom))
    assert square.shape == (64, 64, 3)
    assert np.abs(square.astype(int) - again).mean() < 12


def test_pictures_of_a_batch_are_independent() -> None:
    images = torch.stack([as_tensor(photograph.pixels) for photograph in DRAWN[:3]])
    together = crop_cell(images, FORMAT)
    for image, square in zip(images, together, strict=True):
        assert (crop_cell(image[None], FORMAT)[0] - square).abs().max() <= 1


@pytest.mark.parametrize("colour", [(230, 230, 230), (220, 150, 150), (0, 0, 0)])
def test_where_there_is_no_cell(colour: tuple[int, int, int]) -> None:
    plain = Image.new("RGB", (100, 60), colour)
    assert show_cells(plain, 32, 1.0) == []
    place, _ = load_finder().locate(as_tensor(np.asarray(plain))[None])
    assert place.tolist() == [[50, 30]]


def test_a_picture_too_small_for_its_field() -> None:
    with pytest.raises(ValueError, match="100 pixels are too few to show cells in a field of 5"):
        show_cells(Image.new("RGB", (100, 60)), 32, 5.0)


@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 2**31))
@settings(max_examples=10, deadline=None)
def test_any_picture_has_a_centre_and_a_field(height: int, width: int, seed: int) -> None:
    images = torch.randint(0, 256, (2, 3, height, width), generator=torch.manual_seed(seed))
    place, field = load_finder().locate(images.float())
    assert torch.isfinite(place).all()
    assert ((field >= LEAST_FIELD) & (field <= MOST_FIELD)).all()
    square = crop_cell(images.float(), FORMAT)
    assert square.shape == (2, 3, 64, 64)
    assert square.min() >= 0
    assert square.max() <= 255


def test_a_large_picture_is_reduced_and_its_places_are_not() -> None:
    photograph: Photograph = DRAWN[0]
    image = Image.fromarray(photograph.pixels)
    factor = 2100 // image.width + 1
    large = image.resize((image.width * factor, image.height * factor))
    ((cell, square),) = show_cells(large, 48, 1.0)
    assert lies_in((cell.x, cell.y), photograph.box, factor)
    assert cell.side == pytest.approx(SHARE * large.width, rel=0.01)
    alone = show(image, InputFormat(48, "cell"), (cell.x / factor, cell.y / factor)).astype(int)
    assert np.abs(square - alone).mean() < 5


@pytest.mark.real
def test_white_cells_of_the_original_photographs(real_zip: Path) -> None:
    """Those of TEST, on which nothing was trained; every fourth, with nothing set by hand."""
    annotated = real_zip.with_name("boxes.csv")
    if not annotated.is_file():
        pytest.skip("needs boxes.csv, the BCCD annotations, beside the archive")
    rows = build_table(open_source(str(real_zip))).rows
    tested = {int(row.photo) for row in rows if row.official == "test"}
    boxes: dict[str, list[tuple[float, float, float, float]]] = {}
    with annotated.open(newline="") as file:
        for line in csv.DictReader(file):
            if line["cell"] == "WBC" and int(line["source_image"][11:16]) in tested:
                left, top, right, bottom = (
                    float(line[edge]) for edge in ("xmin", "ymin", "xmax", "ymax")
                )
                boxes.setdefault(line["source_image"], []).append((left, top, right, bottom))
    assert len(boxes) == 71
    missed = false = 0
    with zipfile.ZipFile(real_zip) as archive:
        for name, around in list(boxes.items())[::4]:
            data = archive.read(f"dataset-master/dataset-master/JPEGImages/{name}")
            cells = show_cells(Image.open(io.BytesIO(data)).convert("RGB"), 32, "auto")
            missed += sum(not any(lies_in(c[:2], box) for c, _ in cells) for box in around)
            false += sum(not any(lies_in(c[:2], box) for box in around) for c, _ in cells)
    assert missed == 0
    assert false <= 1
