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

from bloodcell.data.crop import InputFormat, show, show_cells
from bloodcell.data.locate import SHARE, cut, find_cell, find_cells
from bloodcell.data.source import open_source
from bloodcell.data.table import build_table
from bloodcell.datasets.drawn import CLASS_NAMES
from bloodcell.datasets.drawn.smears import Photograph, draw_copy, draw_photograph

DRAWN = [draw_photograph(name, (7, seed)) for name in CLASS_NAMES for seed in range(2)]


def as_tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float()


def lies_in(point: tuple[float, float], photograph: Photograph, scale: float = 1.0) -> bool:
    left, top, right, bottom = (scale * edge for edge in photograph.box)
    return left <= point[0] <= right and top <= point[1] <= bottom


@pytest.mark.parametrize("lamp", [(1.0, 1.0, 1.0), (1.1, 1.0, 0.7), (0.6, 0.8, 0.9)])
def test_the_one_white_cell_is_found_under_any_lamp(lamp: tuple[float, float, float]) -> None:
    for photograph in DRAWN:
        image = (as_tensor(photograph.pixels) * torch.tensor(lamp)[:, None, None]).clamp(0, 255)
        cells = find_cells(image)
        assert len(cells) == 1
        assert lies_in(cells[0][:2], photograph)
        one = find_cell(image[None])[0].tolist()
        assert math.dist(one, cells[0][:2]) < 1e-2


def test_turned_copies_with_black_corners_and_half_the_pixels() -> None:
    for seed, photograph in enumerate(DRAWN):
        copy = draw_copy(photograph, (8, seed))
        assert lies_in(tuple(find_cell(as_tensor(copy.pixels)[None])[0].tolist()), copy)
        small = as_tensor(np.asarray(Image.fromarray(copy.pixels).reduce(2)))
        assert lies_in(tuple(find_cell(small[None])[0].tolist()), copy, 0.5)


def test_a_wide_picture_shows_several_cells() -> None:
    some = DRAWN[::3]
    wide = np.concatenate([photograph.pixels for photograph in some], axis=1)
    each = some[0].pixels.shape[1]
    cells = sorted(find_cells(as_tensor(wide), field=len(some)))
    assert len(cells) == len(some)
    for place, (cell, photograph) in enumerate(zip(cells, some, strict=True)):
        assert lies_in((cell.x - place * each, cell.y), photograph)
        assert cell.side == pytest.approx(SHARE * each)


def test_where_nothing_is_purple_there_is_no_cell() -> None:
    for colour in ((230, 230, 230), (220, 150, 150), (0, 0, 0)):
        plain = np.full((60, 100, 3), colour, np.uint8)
        assert find_cells(as_tensor(plain)) == []
        assert find_cell(as_tensor(plain)[None])[0].tolist() == [50, 30]


def test_a_square_is_the_pictures_own_pixels_and_black_outside() -> None:
    picture = torch.randint(1, 256, (1, 3, 300, 400), generator=torch.manual_seed(0)).float()
    side = round(SHARE * 400)
    centre = torch.tensor([[200.0, 150.0]])
    left, top = 200 - side // 2, 150 - side // 2
    inside = picture[:, :, top : top + side, left : left + side]
    torch.testing.assert_close(cut(picture, centre, side), inside, rtol=0, atol=0.05)
    corner = cut(picture, torch.zeros(1, 2), side)
    half = side // 2
    assert max(corner[:, :, :half].max(), corner[:, :, :, :half].max()) < 0.01
    torch.testing.assert_close(
        corner[:, :, half:, half:], picture[:, :, :half, :half], rtol=0, atol=0.05
    )


@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 2**31))
@settings(max_examples=15, deadline=None)
def test_any_picture_has_a_centre_inside(height: int, width: int, seed: int) -> None:
    images = torch.randint(0, 256, (2, 3, height, width), generator=torch.manual_seed(seed))
    centre = find_cell(images.float())
    assert ((centre >= 0) & (centre <= torch.tensor([width, height]))).all()
    square = cut(images.float(), centre, 32)
    assert square.shape == (2, 3, 32, 32)
    assert square.min() >= 0
    assert square.max() <= 255.01


def test_a_large_picture_is_reduced_and_its_places_are_not() -> None:
    photograph = DRAWN[0]
    image = Image.fromarray(photograph.pixels)
    factor = 2100 // image.width + 1
    large = image.resize((image.width * factor, image.height * factor))
    ((cell, square),) = show_cells(large, 48)
    assert lies_in((cell.x, cell.y), photograph, factor)
    assert cell.side == pytest.approx(SHARE * large.width, rel=0.01)
    alone = show(image, InputFormat(48, "cell")).astype(int)
    assert np.abs(square - alone).mean() < 3


@pytest.mark.real
def test_white_cells_of_the_original_photographs(real_zip: Path) -> None:
    """Those of TEST, on which nothing was fitted."""
    annotated = real_zip.with_name("boxes.csv")
    if not annotated.is_file():
        pytest.skip("needs boxes.csv, the BCCD annotations, beside the archive")
    rows = build_table(open_source(str(real_zip))).rows
    tested = {int(row.photo) for row in rows if row.official == "test"}
    boxes: dict[str, list[list[int]]] = {}
    with annotated.open(newline="") as file:
        for line in csv.DictReader(file):
            if line["cell"] == "WBC" and int(line["source_image"][11:16]) in tested:
                edges = [int(line[edge]) for edge in ("xmin", "ymin", "xmax", "ymax")]
                boxes.setdefault(line["source_image"], []).append(edges)
    assert len(boxes) == 71
    missed = false = 0
    with zipfile.ZipFile(real_zip) as archive:
        for name, around in boxes.items():
            data = archive.read(f"dataset-master/dataset-master/JPEGImages/{name}")
            cells = find_cells(as_tensor(np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))))
            hit = [
                any(left <= c.x <= right and top <= c.y <= bottom for c in cells)
                for left, top, right, bottom in around
            ]
            missed += len(hit) - sum(hit)
            false += len(cells) - sum(hit)
    assert missed == 0
    assert false <= 2
