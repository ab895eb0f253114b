import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bloodcell.data.augment import augment_batch, random_uniform
from bloodcell.data.stain import GRAIN, N_DRAWS, restain


def cells(n: int, side: int = 32) -> Tensor:
    """Purple discs on a pale slide: (n, 3, side, side), 0 to 255."""
    place = torch.linspace(-1, 1, side)
    disc = (place[:, None] ** 2 + place**2 < 0.3).float()
    slide, cell = torch.tensor([220.0, 210, 200]), torch.tensor([110.0, 60, 150])
    one = slide[:, None, None] * (1 - disc) + cell[:, None, None] * disc
    return one.expand(n, -1, -1, -1).contiguous()


def drawn(n: int, **fixed: float) -> tuple[Tensor, Tensor]:
    """No change at all but for the given columns, by number: `c3=1`."""
    draws = torch.zeros(n, N_DRAWS)
    for column, value in fixed.items():
        draws[:, int(column[1:])] = value
    return draws, torch.zeros(n, GRAIN**2)


@pytest.mark.parametrize("side", [32, 100, 128])
def test_draws_of_zero_change_nothing(side: int) -> None:
    images = cells(2, side)
    torch.testing.assert_close(restain(images, *drawn(2)), images, atol=0.01, rtol=0)


@given(st.integers(0, 2**31), st.integers(32, 50), st.integers(32, 50))
@settings(max_examples=20, deadline=None)
def test_any_draw_gives_pixels_of_any_size(seed: int, height: int, width: int) -> None:
    images = torch.rand(4, 3, height, width) * 255
    draws = random_uniform(torch.arange(4), seed, 0, N_DRAWS + GRAIN**2)
    seen = restain(images, *torch.split(draws, [N_DRAWS, GRAIN**2], 1))
    assert seen.shape == images.shape
    assert 0 <= seen.min() <= seen.max() <= 255


def test_more_dye_darkens_the_cell_more_than_the_slide() -> None:
    images = cells(1)
    change = (images - restain(images, *drawn(1, c0=1)))[0].mean(0)
    assert change[16, 16] > 1.5 * change[0, 0] > 0


def test_light_changes_every_density_alike() -> None:
    images = cells(1)
    ratio = (restain(images, *drawn(1, c12=1)) + 1) / (images + 1)
    torch.testing.assert_close(ratio, torch.full_like(ratio, float(ratio.mean())))


def test_the_highest_saturation_draws_are_grey() -> None:
    channels = restain(cells(1), *drawn(1, c19=0.99))[0]
    torch.testing.assert_close(channels[0], channels[1], atol=0.01, rtol=0)
    torch.testing.assert_close(channels[0], channels[2], atol=0.01, rtol=0)


def test_uneven_light_has_a_brighter_side() -> None:
    images = torch.full((1, 3, 32, 32), 150.0)
    seen = restain(images, *drawn(1, c17=1))[0, 0]
    assert (seen[:, :-1] > seen[:, 1:]).all()
    torch.testing.assert_close(seen.mean(), torch.tensor(150.0), atol=2, rtol=0)


def test_blur_lowers_contrast_and_sharpening_raises_it() -> None:
    def contrast(images: Tensor) -> float:
        return float((images[:, :, :, 1:] - images[:, :, :, :-1]).abs().amax())

    images = cells(1, 64)
    blurred, sharp = (restain(images, *drawn(1, c20=blur)) for blur in (1.0, -1.0))
    assert contrast(blurred) < contrast(images) < contrast(sharp)


def test_compression_keeps_the_mean_of_each_block_and_loses_detail() -> None:
    images = torch.rand(1, 3, 32, 32) * 100 + 80
    seen = restain(images, *drawn(1, c22=1))
    assert 3 < (seen - images).abs().mean() < 40
    blocks, before = (torch.nn.functional.avg_pool2d(each, 8) for each in (seen, images))
    assert (blocks - before).abs().max() < 5


def test_a_batch_repeats_and_does_not_depend_on_its_other_images() -> None:
    images = cells(8).to(torch.uint8)
    rows = torch.arange(8) * 5
    whole = augment_batch(images, rows, "stain", 3, 1)
    assert torch.equal(whole, augment_batch(images, rows, "stain", 3, 1))
    assert not torch.equal(whole, augment_batch(images, rows, "stain", 3, 2))
    torch.testing.assert_close(augment_batch(images[4:5], rows[4:5], "stain", 3, 1), whole[4:5])
    assert len({tuple(image.flatten().tolist()) for image in whole}) == 8
    assert whole.dtype == torch.float32
    assert whole.is_contiguous(memory_format=torch.channels_last)


def test_scale_goes_from_three_quarters_to_four_thirds() -> None:
    """The bright square of each image, whatever its angle, has an area within these scales."""
    images = torch.zeros(200, 3, 96, 96)
    images[:, :, 38:58, 38:58] = 255
    seen = augment_batch(images, torch.arange(200), "stain", 0, 0).mean(1)
    area = (seen > seen.amax((1, 2), keepdim=True) / 2).sum((1, 2)).float()
    side = area.sqrt() / 20
    assert 0.70 < side.min() < 0.82
    assert 1.22 < side.max() < 1.42
