"""Like cells are not taken for copies, overlapping pictures not for one, each join is rated."""

import os
import zipfile
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from bloodcell.audit.agreement import agreement
from bloodcell.audit.copies import find_copies
from bloodcell.audit.features import ImageFeatures, compute_features
from bloodcell.audit.findings import sure_word
from bloodcell.audit.likeness import Likeness, compare_structure

Pixels = NDArray[np.uint8]


def draw_field(seed: int, side: int = 400, around: int = 60) -> Pixels:
    """Draws red cells on a plain ground."""
    draw = np.random.default_rng(seed)
    image = np.full((side, side, 3), (250, 225, 200), np.uint8)
    for _ in range(around):
        place = draw.integers(0, side, 2).tolist()
        axes = draw.integers(12, 20, 2).tolist()
        cv2.ellipse(image, place, axes, int(draw.integers(180)), 0, 360, (215, 170, 165), -1)
        cv2.circle(image, place, int(draw.integers(3, 7)), (240, 205, 190), -1)
    return image


def draw_cell(image: Pixels, centre: tuple[int, int], seed: int) -> Pixels:
    """Draws a round cell with a round nucleus and granules of its own."""
    draw = np.random.default_rng(seed)
    image = image.copy()
    cv2.circle(image, centre, 40, (190, 170, 215), -1)
    cv2.circle(image, centre, 30, (85, 50, 140), -1)
    for _ in range(60):
        place = (np.array(centre) + draw.normal(0, 12, 2)).astype(int).tolist()
        cv2.circle(image, place, 2, draw.integers(60, 140, 3).tolist(), -1)
    return np.asarray(cv2.GaussianBlur(image, (0, 0), 1), np.uint8)


def picture(seed: int) -> Pixels:
    return draw_cell(draw_field(seed), (200, 200), seed)[100:300, 100:300]


def planted(pixels: Pixels, draw: np.random.Generator) -> Pixels:
    """Returns a copy: mirrored, turned, sheared, scaled, shifted, brightened, JPEG artefacts."""
    height, width = pixels.shape[:2]
    pixels = np.ascontiguousarray(pixels[:, :: draw.choice([-1, 1])])
    angle, scale = draw.uniform(-180, 180), draw.uniform(0.8, 1.25)
    affine = cv2.getRotationMatrix2D((width / 2, height / 2), angle, scale)
    shear = draw.uniform(-0.2, 0.2)
    affine = affine @ np.array([[1, shear, -shear * height / 2], [0, 1, 0], [0, 0, 1]])
    affine[:, 2] += draw.uniform(-0.1, 0.1, 2) * (width, height)
    copy = cv2.warpAffine(pixels, affine, (width, height)) * draw.uniform(0.6, 1.2)
    _, data = cv2.imencode(".jpg", copy.clip(0, 255), [cv2.IMWRITE_JPEG_QUALITY, 80])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def compare(one: ImageFeatures, other: ImageFeatures) -> Likeness:
    return compare_structure(one, other, np.eye(2, 3))


def test_like_cells_are_not_copies() -> None:
    """The same cell, with other red cells around it."""
    pictures = [draw_cell(draw_field(seed), (200, 200), 0)[100:300, 100:300] for seed in range(6)]
    features = [compute_features(pixels) for pixels in pictures]
    agree = [pair for pair in combinations(features, 2) if agreement(*pair)]
    assert len(agree) > 10, "by the features of the cell"
    found = find_copies(features)
    assert found.field.tolist() == found.photo.tolist() == [*range(6)]
    assert found.field_likeness.tolist() == [1] * 6


def test_outlines_do_not_count() -> None:
    """They agree however they are turned; granules do not."""
    plain = np.full((200, 200, 3), (250, 225, 200), np.uint8)
    one, again, other = (compute_features(draw_cell(plain, (100, 100), seed)) for seed in (1, 1, 2))
    assert compare(one, again).value > 0.99
    assert compare(one, other).value < 0.2


@pytest.mark.parametrize("seed", range(8))
def test_planted_copies_are_found(seed: int) -> None:
    pixels = picture(seed)
    copy = planted(pixels, np.random.default_rng(seed))
    found = find_copies([compute_features(image) for image in (pixels, picture(99), copy)])
    assert found.photo.tolist() == [0, 1, 0]
    assert sure_word(found.photo_likeness[0]) == "sure"
    assert found.photo_likeness[1] == 1, "nothing was joined"


def test_only_equal_pixels_are_equal() -> None:
    one = compute_features(picture(0))
    brighter = compute_features((picture(0) * 0.99).astype(np.uint8))
    assert sure_word(find_copies([one, one]).photo_likeness[0]) == "equal"
    assert sure_word(find_copies([one, brighter]).photo_likeness[0]) == "sure"
    assert sure_word(0.5) == "likely"


def test_pictures_of_one_field_are_not_copies() -> None:
    """Each is centred on a cell of its own and shows more of its side."""
    field = draw_cell(draw_cell(draw_field(3), (180, 180), 1), (240, 220), 2)
    one, other = field[80:280, 80:280], field[120:320, 140:340]
    found = find_copies([compute_features(pixels) for pixels in (one, other)])
    assert found.photo.tolist() == found.scene.tolist() == [0, 1]
    assert found.field.tolist() == [0, 0]
    assert sure_word(found.field_likeness[0]) == "sure"


def read_pictures(variable: str, every: int) -> dict[str, Pixels]:
    if variable not in os.environ:
        pytest.skip(f"needs {variable}, the path of the zip")
    with zipfile.ZipFile(Path(os.environ[variable])) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        return {
            name: np.asarray(Image.open(archive.open(name)).convert("RGB"))
            for name in names[::every]
        }


@pytest.mark.parametrize(
    ("variable", "every"), [("BLOODCELL_REAL_PBC", 40), ("BLOODCELL_REAL_CHULA", 6)]
)
def test_real_copies(variable: str, every: int) -> None:
    """Planted copies are found among pictures of like cells, and nothing else."""
    pictures = read_pictures(variable, every)
    draw = np.random.default_rng(0)
    copies = [planted(pixels, draw) for pixels in list(pictures.values())[::2]]
    found = find_copies([compute_features(pixels) for pixels in (*pictures.values(), *copies)])
    originals, planted_in = np.split(found.photo, [len(pictures)])
    right = planted_in == originals[::2]
    assert right.sum() >= 0.98 * len(copies)
    assert not np.isin(planted_in[~right], originals).any(), "none is joined to another picture"
    for group in set(originals.tolist()):
        names = [name for name, own in zip(pictures, originals, strict=True) if own == group]
        # some fields of a slide of Chula were photographed several times
        slides = {name.rpartition("_")[0] if "chula" in name else name for name in names}
        assert len(slides) == 1, names


def test_a_real_label_is_not_accused() -> None:
    """A neutrophil and an erythroblast that touch; each is in the middle of one picture."""
    variable = "BLOODCELL_REAL_PBC"
    if variable not in os.environ:
        pytest.skip(f"needs {variable}, the path of the zip")
    with zipfile.ZipFile(Path(os.environ[variable])) as archive:
        pictures = [
            np.asarray(Image.open(archive.open(f"pbc/{name}.jpg")).convert("RGB"))
            for name in ("neutrophil/BNE_175205", "erythroblast/ERB_573640")
        ]
    found = find_copies([compute_features(pixels) for pixels in pictures])
    assert found.photo.tolist() == found.scene.tolist() == [0, 1]
    assert found.field.tolist() == [0, 0], "they overlap"
