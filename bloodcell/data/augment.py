"""Augments whole batches on their device.

Every random number of `augment_batch` depends only on (seed, epoch, row), so resumed and
uninterrupted runs see the same pixels, on any number of devices, and a batch can be reproduced for
inspection. `transform_batch` draws once for each batch, from (seed, epoch, step).
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bloodcell.data.stain import GRAIN, N_DRAWS, restain

Augment = Literal["none", "flips", "full", "stain"]

# greater than every row number and than the offset of dropout in task.py, so that the random
# numbers are independent
_TRANSFORMS = 2**41
_GOLDEN = -0x61C8864680B583EB  # 2^64 over the golden ratio, as int64
# ranges of `full`; shift, shear and black fill are as in the augmented copies of the Kaggle set
_SHIFT, _SHEAR, _SCALE = 0.1, 0.2, 0.15  # share of the side; tangent; relative change
_BRIGHTNESS, _CONTRAST, _COLOUR = 0.25, 0.3, 0.1  # relative; log of gamma; relative
_WIDE_SCALE = 4 / 3  # of `stain`: largest and, inverted, smallest scale


def augment_batch(
    images: Tensor, rows: Tensor, how: Augment, seed: int, epoch: int, margin: int = 0
) -> Tensor:
    """Augments a batch.

    Args:
        images: (B, 3, H + 2 margin, W + 2 margin), 0 to 255, any type.
        rows: (B,) int64, the row of each image in the table.
        how: `none`; `flips`: horizontal and vertical flips, each with probability 0.5; `full`:
            also random rotation, shift, scale, shear, brightness, contrast and colour, with black
            outside of the image; or `stain`: the same with a wider range of scales, and with
            differences between laboratories instead of brightness, contrast and colour (`restain`).
        seed: the run's seed.
        epoch: number of the epoch, from 0.
        margin: pixels on all sides that only `full` and `stain` look into, instead of showing
            black.

    Returns:
        (B, 3, H, W), 0 to 255; float32 in channels-last memory for `full` and `stain`, else the
        input's type.
    """
    if how == "full":
        draws = random_uniform(rows, seed, epoch, count=12)
        scale = 1 + _SCALE * draws[:, 2]
        return _warp(_recolour(images.float(), draws[:, 7:]), draws[:, :7], scale, margin)
    if how == "stain":
        draws = random_uniform(rows, seed, epoch, count=7 + N_DRAWS + GRAIN**2)
        place, look, grain = torch.split(draws, [7, N_DRAWS, GRAIN**2], 1)
        warped = _warp(images.float(), place, _WIDE_SCALE ** place[:, 2], margin)
        return restain(warped, look, grain).contiguous(memory_format=torch.channels_last)
    images = cut_margin(images, margin)
    if how == "none":
        return images
    bits = random_bits(rows, seed, epoch)
    for axis, bit in ((3, 1), (2, 2)):
        turned = (bits & bit).bool()[:, None, None, None]
        images = torch.where(turned, images.flip(axis), images)
    return images


def cut_margin(images: Tensor, margin: int) -> Tensor:
    """Returns images (B, 3, H, W) without the pixels of a margin, in channels-last memory."""
    if not margin:
        return images
    middle = images[:, :, margin:-margin, margin:-margin]
    return middle.contiguous(memory_format=torch.channels_last)


def transform_batch(
    images: Tensor, transforms: nn.Module, seed: int, epoch: int, step: int
) -> Tensor:
    """Applies torchvision transforms to a batch without changing the global random state.

    Args:
        images: (B, 3, H, W) uint8.
        transforms: the transforms, which use torch's random generators.
        seed: the run's seed.
        epoch: number of the epoch, from 0.
        step: number of the batch within the epoch, over all devices, from 0.

    Returns:
        The transformed batch in channels-last memory.
    """
    drawn = int(random_bits(torch.tensor([_TRANSFORMS + step]), seed, epoch))
    devices = [images.device] if images.is_cuda else []
    with torch.random.fork_rng(devices):
        seed_device(drawn, images.device)
        changed: Tensor = transforms(images)
    return changed.contiguous(memory_format=torch.channels_last)


def seed_device(seed: int, device: torch.device) -> None:
    """Seeds torch's random generators of the CPU and of a device.

    `torch.manual_seed` also seeds kinds of devices that are not in use, and writes down the call
    stack for each of them. In a training step on a CPU this took 1.4 ms.

    Args:
        seed: the seed.
        device: the device; of several GPUs, the current one is seeded.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type != "cpu":
        torch.manual_seed(seed)


def random_bits(rows: Tensor, seed: int, epoch: int) -> Tensor:
    """Returns 63 random bits for each row, as a hash of (seed, epoch, row).

    The mixing function is the finalizer of SplitMix64 (Steele, Lea and Flood, "Fast splittable
    pseudorandom number generators", OOPSLA 2014), applied once for each of the three numbers.

    Args:
        rows: (B,) int64.
        seed: the run's seed.
        epoch: number of the epoch, from 0.

    Returns:
        (B,) int64, not negative.
    """
    state = torch.zeros_like(rows)
    for number in (seed, epoch, rows):
        state = _mix(state + number + _GOLDEN)
    return state & 0x7FFFFFFFFFFFFFFF


def random_uniform(rows: Tensor, seed: int, epoch: int, count: int) -> Tensor:
    """Returns uniform random numbers from -1 to 1, from a SplitMix64 stream for each row.

    Args:
        rows: (B,) int64.
        seed: the run's seed.
        epoch: number of the epoch, from 0.
        count: number of random numbers for each row.

    Returns:
        (B, count) float32.
    """
    steps = torch.arange(1, count + 1, device=rows.device) * _GOLDEN
    bits = _mix(random_bits(rows, seed, epoch)[:, None] + steps)
    return _shift(bits, 40).float() / 2**23 - 1  # 24 bits, which float32 represents exactly


def _recolour(images: Tensor, draws: Tensor) -> Tensor:
    """Changes contrast, brightness and colour; black stays black. `draws` is (B, 5)."""
    contrast, brightness, colour = draws[:, :1], draws[:, 1:2], draws[:, 2:]
    gain = 255 * (1 + _BRIGHTNESS * brightness) * (1 + _COLOUR * colour)  # (B, 3)
    curve = (images / 255) ** (_CONTRAST * contrast).exp()[:, :, None, None]
    return (curve * gain[:, :, None, None]).clamp(0, 255)


def _warp(images: Tensor, draws: Tensor, scale: Tensor, margin: int) -> Tensor:
    """Rotates, shears, scales, flips and shifts each image about its centre.

    Args:
        images: (B, 3, H + 2 margin, W + 2 margin), 0 to 255.
        draws: (B, 7), uniform from -1 to 1.
        scale: (B,); above 1 shows more of the image.
        margin: pixels on all sides that are shown only where the warp looks beyond the image.

    Returns:
        (B, 3, H, W) in channels-last memory, black outside of image and margin.
    """
    angle = math.pi * draws[:, 0]
    cos, sin = angle.cos(), angle.sin()
    shear = _SHEAR * draws[:, 1]
    flip_x, flip_y = (torch.where(draws[:, k] < 0, -scale, scale) for k in (3, 4))
    # rotation @ [[1, shear], [0, 1]] @ diag(flips) maps output pixels to input pixels
    x_row = torch.stack([cos * flip_x, (cos * shear - sin) * flip_y], 1)
    y_row = torch.stack([sin * flip_x, (sin * shear + cos) * flip_y], 1)
    linear = torch.stack([x_row, y_row], 1)
    shift = 2 * _SHIFT * draws[:, 5:7, None]  # the side has length 2 in affine_grid's coordinates
    batch, channels, *wide = images.shape
    sides = [side - 2 * margin for side in wide]
    x_row, y_row = torch.cat([linear, shift], 2).unbind(1)
    matrix = torch.stack([x_row * (sides[1] / wide[1]), y_row * (sides[0] / wide[0])], 1)
    grid = F.affine_grid(matrix, [batch, channels, *sides], align_corners=False)
    warped = F.grid_sample(images, grid, padding_mode="zeros", align_corners=False)
    return warped.contiguous(memory_format=torch.channels_last)  # grid_sample's output is not


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * -0x40A7B892E31B1A47
    x = (x ^ _shift(x, 27)) * -0x6B2FB644ECCEEE15
    return x ^ _shift(x, 31)


def _shift(x: Tensor, by: int) -> Tensor:
    """Shifts right and fills with zeros; torch's shift operator copies the sign bit."""
    return (x >> by) & ((1 << (64 - by)) - 1)
