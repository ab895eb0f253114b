"""Finds the white cell of a picture of known scale by its colour, and crops it.

The dye of a nucleus absorbs red light and transmits blue light; haemoglobin does the reverse. So a
pixel whose optical density, relative to the clear slide, is higher in red than in blue belongs to a
white cell or a platelet, for any lamp and camera. The peaks of this difference, smoothed over the
size of a nucleus, are the white cells; platelets are too small to form a peak. `finder` does the
same with a small network, in uneven light and at any scale.

Lengths in pixels apply to pictures of the Kaggle set, taken through a 100x lens and reduced to a
longer side of 160 pixels. `field` is the field of view relative to the Kaggle set's: 2 means twice
as wide. All operations exist in ONNX, so exported models use the same method.
"""

from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from bloodcell.data.illumination import LEAST_LIGHT, find_slide, find_slide_colour, smooth

SHARE = 0.4  # side of the cropped square relative to the longer side; the largest cells fit into it

_SIDE = 160  # pixels of the longer side of a field of 1 for the detection of cells
_SMOOTHED = 17  # filter width in pixels; two passes are about as wide as a nucleus
_REACH = 28  # radius in pixels of the region that belongs to a peak's cell
_NOTHING = 1e-3  # above the rounding errors of a uniform picture


def find_cell(images: Tensor, field: float = 1.0) -> Tensor:
    """Finds the white cell of each picture; of several cells, the most prominent one.

    Args:
        images: (B, 3, H, W), 0 to 255, float.
        field: field of view relative to the Kaggle set's: 2 means twice as wide.

    Returns:
        (B, 2), x and y of the cell's centre in pixels; the picture's centre if nothing is purple.
    """
    height, width = images.shape[2:]
    side = max(1, round(_SIDE * field))
    purple = _find_purple(images, side)
    smoothed = smooth(purple, _SMOOTHED)
    # column and row of the maximum separately, because ONNX cannot divide by the width
    x, y = smoothed.amax(2).argmax(2), smoothed.amax(3).argmax(2)  # (B, 1)
    centre = _move_to_middle(purple, torch.cat([x, y], 1).float())
    middle = torch.cat([torch.full_like(x, width), torch.full_like(y, height)], 1) / 2
    found = smoothed.amax((2, 3)) > _NOTHING  # (B, 1)
    return torch.where(found, (centre + 0.5) * (torch.sym_max(height, width) / side), middle)


def cut(images: Tensor, centres: Tensor, size: int, field: float = 1.0, margin: int = 0) -> Tensor:
    """Crops a square from each picture, whose side is `SHARE` times the longer side / `field`.

    Args:
        images: (B, 3, H, W), 0 to 255, float.
        centres: (B, 2), x and y of the squares' centres in pixels.
        size: side of the returned squares in pixels.
        field: field of view relative to the Kaggle set's: 2 means twice as wide.
        margin: pixels of the same scale that are added on all sides of the squares.

    Returns:
        (B, 3, size + 2 margin, size + 2 margin), 0 to 255, black outside of the picture.
    """
    height, width = images.shape[2:]
    longer = torch.sym_max(height, width)
    # the whole picture is reduced first, with antialiasing; enlarging it could fill the memory
    scaled = _resize(images, torch.sym_min(max(1, round(size * field / SHARE)), longer))
    side = size + 2 * margin
    return _sample(scaled, height, width, centres, side, SHARE / field * (side / size))


def _sample(
    scaled: Tensor, height: int, width: int, centres: Tensor, size: int, share: float
) -> Tensor:
    """Samples squares from resized pictures whose original size was height x width."""
    side = share * torch.sym_max(height, width)
    offset = (torch.arange(size, device=scaled.device) + 0.5) / size - 0.5  # of the square's side
    xs = (centres[:, :1] + side * offset) * (2 / width) - 1  # (B, size), -1 to 1 on the picture
    ys = (centres[:, 1:] + side * offset) * (2 / height) - 1
    grid = torch.stack(
        [xs[:, None, :].expand(-1, size, -1), ys[:, :, None].expand(-1, -1, size)], 3
    )
    return F.grid_sample(scaled, grid, padding_mode="zeros", align_corners=False)


def _resize(images: Tensor, side: int | torch.SymInt) -> Tensor:
    """Resizes pictures to a longer side of `side` pixels."""
    height, width = images.shape[2:]
    longer = torch.sym_max(height, width)
    sizes = [torch.sym_max(length * side // longer, 1) for length in (height, width)]
    # during export, the sizes are SymInt, which the signature lacks
    return F.interpolate(images, cast(list[int], sizes), mode="bilinear", antialias=True)


def _find_purple(images: Tensor, side: int) -> Tensor:
    """Returns how purple each pixel of the reduced pictures is, (B, 1, h, w), 0 to 1."""
    small = _resize(images, side)
    slide = find_slide(small)
    light = find_slide_colour(small, slide)  # (B, 3, 1, 1)
    density = -(small.clamp(min=LEAST_LIGHT) / light).log()
    return (density[:, :1] - density[:, 2:]).clamp(0, 1) * slide


def _move_to_middle(purple: Tensor, centres: Tensor) -> Tensor:
    """Moves each centre, (B, 2), to the centre of mass of the purple around it."""
    height, width = purple.shape[2:]
    dx = (torch.arange(width, device=purple.device) - centres[:, :1])[:, None, :]
    dy = (torch.arange(height, device=purple.device) - centres[:, 1:])[:, :, None]
    weight = purple[:, 0] * (dx**2 + dy**2 <= _REACH**2).float()  # (B, h, w)
    steps = torch.stack([(weight * dx).sum((1, 2)), (weight * dy).sum((1, 2))], 1)
    return centres + steps / weight.sum((1, 2)).clamp(min=1e-6)[:, None]
