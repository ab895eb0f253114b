import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from bloodcell.data.locate import SHARE, cut, find_cell
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
        x, y = find_cell(image[None])[0].tolist()
        assert lies_in((x, y), photograph)


def test_turned_copies_with_black_corners_and_half_the_pixels() -> None:
    for seed, photograph in enumerate(DRAWN):
        copy = draw_copy(photograph, (8, seed))
        assert lies_in(tuple(find_cell(as_tensor(copy.pixels)[None])[0].tolist()), copy)
        small = as_tensor(np.asarray(Image.fromarray(copy.pixels).reduce(2)))
        assert lies_in(tuple(find_cell(small[None])[0].tolist()), copy, 0.5)


def test_a_known_field_changes_the_scale() -> None:
    photograph = DRAWN[0]
    left, top, right, bottom = photograph.box
    wide = np.full((480, 640, 3), photograph.pixels[0, 0])
    wide[:240, :320] = photograph.pixels
    centre = find_cell(as_tensor(wide)[None], 2.0)
    assert lies_in(tuple(centre[0].tolist()), photograph)
    near = cut(as_tensor(photograph.pixels)[None], centre, 64)
    far = cut(as_tensor(wide)[None], centre, 64, 2.0)
    side = 0.4 * 320
    inside = side / 2 < min(left, top) and right < 320 - side / 2 and bottom < 240 - side / 2
    assert (near - far).abs().mean() < (2 if inside else 40)


def test_where_nothing_is_purple_there_is_no_cell() -> None:
    for colour in ((230, 230, 230), (220, 150, 150), (0, 0, 0)):
        plain = np.full((60, 100, 3), colour, np.uint8)
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


def test_a_wide_field_does_not_enlarge_the_whole_picture() -> None:
    """Enlarged by the field, it would have 10^11 pixels."""
    picture = torch.full((1, 3, 40, 60), 100.0)
    picture[:, :, :, 30:] = 200
    square = cut(picture, torch.tensor([[30.0, 20.0]]), 64, 1e4)
    torch.testing.assert_close(square, torch.full_like(square, 150), rtol=0, atol=1)


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
