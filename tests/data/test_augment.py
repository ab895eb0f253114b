import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bloodcell.data.augment import (
    Augment,
    augment_batch,
    random_bits,
    random_uniform,
    seed_device,
)

IMAGES = torch.arange(64 * 3 * 4 * 4, dtype=torch.int32).reshape(64, 3, 4, 4)
ROWS = torch.arange(64) * 7 + 1


def test_none_changes_nothing() -> None:
    assert augment_batch(IMAGES, ROWS, "none", 0, 0) is IMAGES


def test_flips_give_all_four_views() -> None:
    flipped = augment_batch(IMAGES, ROWS, "flips", 0, 0)
    views = [IMAGES, IMAGES.flip(3), IMAGES.flip(2), IMAGES.flip(2, 3)]
    found = [[torch.equal(flipped[i], view[i]) for view in views] for i in range(64)]
    assert all(sum(row) == 1 for row in found)
    assert all(5 < sum(column) < 30 for column in zip(*found, strict=True))


@given(
    st.sampled_from(["flips", "full"]),
    st.integers(0, 2**31),
    st.integers(0, 1000),
    st.permutations(range(64)),
)
def test_a_draw_depends_on_seed_epoch_and_row_alone(
    how: Augment, seed: int, epoch: int, order: list[int]
) -> None:
    images = (IMAGES % 256).to(torch.uint8)
    whole = augment_batch(images, ROWS, how, seed, epoch)
    shuffled = augment_batch(images[order], ROWS[order], how, seed, epoch)
    torch.testing.assert_close(shuffled, whole[order])
    alone = augment_batch(images[5:6], ROWS[5:6], how, seed, epoch)
    torch.testing.assert_close(alone, whole[5:6])


def test_uniform_numbers_are_uniform_and_independent() -> None:
    draws = random_uniform(torch.arange(20_000), 3, 5, count=12).double()
    assert draws.min() >= -1
    assert draws.max() < 1
    assert draws.mean(0).abs().max() < 0.02
    assert (draws.var(0) - 1 / 3).abs().max() < 0.01
    assert (draws.T.corrcoef() - torch.eye(12)).abs().max() < 0.03


def test_full_moves_the_whole_picture_and_blackens_what_lies_outside() -> None:
    white = torch.full((256, 3, 32, 32), 200, dtype=torch.uint8)
    seen = augment_batch(white, torch.arange(256), "full", 0, 0)
    assert seen.shape == white.shape
    assert seen.dtype == torch.float32
    assert seen.is_contiguous(memory_format=torch.channels_last)
    assert 0 <= seen.min() <= seen.max() < 255.01
    assert (seen[:, :, 16, 16] > 120).all(), "the centre is always in the picture"
    corners = torch.stack([seen[:, 0, y, x] for y in (0, -1) for x in (0, -1)])
    share = (corners == 0).float().mean()
    assert 0.3 < share < 0.95
    assert len(set(seen[:, :, 16, 16].flatten().tolist())) > 500, "brightness and colour differ"


@pytest.mark.parametrize("how", ["full", "stain"])
def test_a_margin_shows_surroundings_instead_of_black(how: Augment) -> None:
    """Without the margin the corners of most images are black, with it those of few are."""
    white = torch.full((256, 3, 128, 128), 200, dtype=torch.uint8)
    wide = augment_batch(white, torch.arange(256), how, 0, 0, margin=32)
    alone = augment_batch(white[:, :, 32:-32, 32:-32], torch.arange(256), how, 0, 0)
    assert wide.shape == alone.shape == (256, 3, 64, 64)
    assert wide.is_contiguous(memory_format=torch.channels_last)
    black = [(seen.mean(1) < 40).flatten(1).float().mean(1) for seen in (wide, alone)]
    assert (black[0] <= black[1]).all()
    assert black[0].mean() < 0.03 < 0.12 < black[1].mean()


def test_the_middle_of_a_margin_moves_as_without_one() -> None:
    spot = torch.zeros(64, 3, 96, 96, dtype=torch.uint8)
    spot[:, :, 44:52, 44:52] = 200
    wide = augment_batch(spot, torch.arange(64), "full", 3, 1, margin=16)
    alone = augment_batch(spot[:, :, 16:-16, 16:-16], torch.arange(64), "full", 3, 1)
    assert (wide - alone).abs().max() < 0.1
    for how in ("none", "flips"):
        few = augment_batch(spot[:8], torch.arange(8), how, 3, 1, margin=16)
        assert torch.equal(few, augment_batch(spot[:8, :, 16:-16, 16:-16], ROWS[:8], how, 3, 1))


def test_full_turns_either_way_up() -> None:
    """The bright half of a picture ends up on each side about equally often."""
    half = torch.zeros(400, 3, 32, 32, dtype=torch.uint8)
    half[:, :, :16] = 200
    seen = augment_batch(half, torch.arange(400), "full", 0, 0).mean(1)
    top, left = seen[:, :16].sum((1, 2)), seen[:, :, :16].sum((1, 2))
    for bright in (top > seen.sum((1, 2)) / 2, left > seen.sum((1, 2)) / 2):
        assert 0.4 < bright.float().mean() < 0.6


def test_another_seed_or_epoch_draws_anew() -> None:
    bits = [random_bits(ROWS, *numbers) for numbers in ((0, 0), (0, 1), (1, 0), (1, 1))]
    assert len({tuple(b.tolist()) for b in bits}) == 4
    # each of the 63 bits is fair, over many rows
    many = random_bits(torch.arange(20_000), 0, 0)
    share = torch.stack([(many >> bit & 1).float().mean() for bit in range(63)])
    assert share.sub(0.5).abs().max() < 0.02
    assert bool((many >= 0).all())


def test_full_leaves_black_black() -> None:
    black = torch.zeros(64, 3, 8, 8, dtype=torch.uint8)
    assert augment_batch(black, ROWS, "full", 0, 0).abs().max() == 0


def test_the_cpu_is_seeded_as_by_torch_and_no_unused_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)

    def unused(*_: object) -> None:
        raise AssertionError

    for device in (torch.cuda, torch.xpu, torch.mtia):
        monkeypatch.setattr(device, "manual_seed_all", unused)
    seeded = list[int]()
    monkeypatch.setattr(torch.cuda, "manual_seed", seeded.append)
    seed_device(5, torch.device("cpu"))
    assert torch.equal(torch.rand(3), expected)
    assert not seeded
    seed_device(5, torch.device("cuda"))
    assert seeded == [5]
