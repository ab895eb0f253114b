from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bloodcell.data.balance import BalancedSampler, photo_shares

PHOTOS = ["a"] * 2 + ["b"] * 6 + ["c"] * 1 + ["d"] * 3 + ["e"] * 5
CLASSES = ["many"] * 12 + ["one"] * 5


def test_photographs_of_a_class_come_equally_often_and_classes_as_the_root() -> None:
    shares = photo_shares(PHOTOS, CLASSES)
    of_photo = {p: sum(float(s) for s, q in zip(shares, PHOTOS, strict=True) if p == q)
                for p in set(PHOTOS)}  # fmt: skip
    # four photographs against one: twice as often together, half as often each
    assert of_photo == {p: pytest.approx(1 / 6) for p in "abcd"} | {"e": pytest.approx(2 / 6)}


@given(st.integers(1, 4), st.integers(0, 2**31), st.integers(0, 50))
def test_devices_share_one_draw_that_seed_and_epoch_decide(
    world: int, seed: int, epoch: int
) -> None:
    dataset: list[int] = list(range(len(PHOTOS)))
    shares = photo_shares(PHOTOS, CLASSES)

    def draw(world: int, rank: int) -> list[int]:
        sampler = BalancedSampler(dataset, world, rank, seed, shares)  # type: ignore[arg-type]
        sampler.set_epoch(epoch)
        return list(sampler)

    each = [draw(world, rank) for rank in range(world)]
    assert len({len(one) for one in each}) == 1
    together = [one for step in zip(*each, strict=True) for one in step]
    assert len(PHOTOS) <= len(together) < len(PHOTOS) + world
    assert each == [draw(world, rank) for rank in range(world)]


def test_what_is_drawn_has_these_shares() -> None:
    shares = photo_shares(PHOTOS, CLASSES)
    sampler = BalancedSampler(list(range(17)), 1, 0, 0, shares)  # type: ignore[arg-type]
    counts: Counter[int] = Counter()
    for epoch in range(2_000):
        sampler.set_epoch(epoch)
        counts.update(sampler)
    found = torch.tensor([counts[n] / counts.total() for n in range(17)])
    torch.testing.assert_close(found.double(), shares, atol=0.008, rtol=0)
