"""The pictures that the finder is trained on: composed fields, seen through random lenses."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
from compose_fields import SIDE, Sprites, collect, compose
from finder_views import Photo, photograph, view

RED = 40


@pytest.fixture(scope="module")
def sprites() -> Sprites:
    """Cells cut out of a drawing of two red cells, a platelet and a white cell in the middle."""
    image = Image.new("RGB", (200, 200), (245, 235, 225))
    draw = ImageDraw.Draw(image)
    for x, y in ((40, 40), (40, 150)):
        draw.ellipse((x - 20, y - 20, x + 20, y + 20), fill=(215, 180, 175))
    draw.ellipse((153, 33, 167, 47), fill=(110, 60, 150))
    draw.ellipse((70, 70, 130, 130), fill=(200, 180, 215))
    draw.ellipse((80, 80, 118, 118), fill=(80, 30, 120))
    draw.ellipse((180, 90, 220, 130), fill=(215, 180, 175))  # cut off by the edge
    return collect([(np.array(image), RED, [(100.0, 100.0)])])


def test_whole_cells_are_cut_out_by_kind(sprites: Sprites) -> None:
    assert {kind: len(some) for kind, some in sprites.items()} == {
        "white": 1,
        "red": 2,
        "platelet": 1,
    }
    for some in sprites.values():
        for density, red in some:
            assert density[[0, -1]].max() == density[:, [0, -1]].max() == 0
            assert red <= RED


def test_a_composed_field_has_its_white_cells_and_its_scale(sprites: Sprites) -> None:
    fields = [compose(np.random.default_rng(seed), sprites) for seed in range(6)]
    again = compose(np.random.default_rng(0), sprites)
    np.testing.assert_array_equal(fields[0].pixels, again.pixels)
    assert sum(len(field.centres) for field in fields) >= 4
    for field in fields:
        assert field.pixels.shape == (SIDE * 3 // 4, SIDE, 3)
        assert 3 <= SIDE / field.red <= 30
        for x, y in field.centres:  # the nucleus takes up red light
            near = field.pixels[max(0, int(y) - 2) : int(y) + 3, max(0, int(x) - 2) : int(x) + 3]
            assert near[..., 0].min() < 170


def test_a_view_moves_its_centres_with_its_pixels() -> None:
    pixels = torch.full((3, 120, 160), 230, dtype=torch.uint8)
    pixels[:, 38:43, 98:103] = 0
    photo = Photo(pixels, 20.0, torch.tensor([[100.5, 40.5]]))
    rng = np.random.default_rng(0)
    for _ in range(20):
        seen = view(photo, rng)
        (x, y), side = seen.centres[0].tolist(), seen.pixels.shape[2]
        if 0 <= x < side and 0 <= y < side:
            assert seen.pixels[0, int(y), int(x)] < 150
        assert 4 <= seen.red <= 100


def test_photographs_are_pictures_and_black_outside() -> None:
    images = torch.rand(6, 3, 160, 160, generator=torch.manual_seed(0)) * 255
    inside = torch.ones(6, 1, 160, 160)
    inside[:, :, :30] = 0
    seen = [photograph(images, inside, np.random.default_rng(1)) for _ in range(2)]
    for one in seen:
        assert one.shape == images.shape
        assert one.min() >= 0
        assert one.max() <= 255
        assert one[:, :, :20].mean() < 1
    assert (seen[0] - images).abs().mean() > 5
