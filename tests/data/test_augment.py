import torch
from hypothesis import given
from hypothesis import strategies as st

from bloodcell.data.augment import augment_batch, random_bits

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


@given(st.integers(0, 2**31), st.integers(0, 1000), st.permutations(range(64)))
def test_a_draw_depends_on_seed_epoch_and_row_alone(
    seed: int, epoch: int, order: list[int]
) -> None:
    whole = augment_batch(IMAGES, ROWS, "flips", seed, epoch)
    shuffled = augment_batch(IMAGES[order], ROWS[order], "flips", seed, epoch)
    assert torch.equal(shuffled, whole[order])


def test_another_seed_or_epoch_draws_anew() -> None:
    bits = [random_bits(ROWS, *numbers) for numbers in ((0, 0), (0, 1), (1, 0), (1, 1))]
    assert len({tuple(b.tolist()) for b in bits}) == 4
    # each of the 63 bits is fair, over many rows
    many = random_bits(torch.arange(20_000), 0, 0)
    share = torch.stack([(many >> bit & 1).float().mean() for bit in range(63)])
    assert share.sub(0.5).abs().max() < 0.02
    assert bool((many >= 0).all())
