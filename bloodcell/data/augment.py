"""Augmentation of whole batches, where the batch lies.

Every draw is a function of (seed, epoch, row) alone. So a resumed run sees what an uninterrupted
one does, any number of devices sees the same pixels, and a batch can be rebuilt to look at it.
"""

from typing import Literal

import torch
from torch import Tensor

Augment = Literal["none", "flips"]


def augment_batch(images: Tensor, rows: Tensor, how: Augment, seed: int, epoch: int) -> Tensor:
    """Augments a batch.

    Args:
        images: (B, C, H, W), any type.
        rows: (B,) int64, the row of each image in the table.
        how: `none`, or `flips`: left-right and top-bottom, each with probability one half.
        seed: the run's seed.
        epoch: from 0.

    Returns:
        (B, C, H, W) of the same type.
    """
    if how == "none":
        return images
    bits = random_bits(rows, seed, epoch)
    for axis, bit in ((3, 1), (2, 2)):
        turned = (bits & bit).bool()[:, None, None, None]
        images = torch.where(turned, images.flip(axis), images)
    return images


def random_bits(rows: Tensor, seed: int, epoch: int) -> Tensor:
    """Draws 63 random bits a row, as a hash of (seed, epoch, row).

    The mixing function is the finalizer of SplitMix64 (Steele, Lea and Flood, "Fast splittable
    pseudorandom number generators", OOPSLA 2014), applied once for each of the three numbers.

    Args:
        rows: (B,) int64.
        seed: the run's seed.
        epoch: from 0.

    Returns:
        (B,) int64, not negative.
    """
    state = torch.zeros_like(rows)
    for number in (seed, epoch, rows):
        state = _mix(state + number + -0x61C8864680B583EB)
    return state & 0x7FFFFFFFFFFFFFFF


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * -0x40A7B892E31B1A47
    x = (x ^ _shift(x, 27)) * -0x6B2FB644ECCEEE15
    return x ^ _shift(x, 31)


def _shift(x: Tensor, by: int) -> Tensor:
    """Shifts right and fills with zeros; torch's own shift repeats the sign."""
    return (x >> by) & ((1 << (64 - by)) - 1)
