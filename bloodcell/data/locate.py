"""Finds the white cells of a picture and crops them, without a trained model.

The dye of a nucleus absorbs red light and transmits blue light; haemoglobin does the reverse. So a
pixel whose optical density, relative to the clear slide, is higher in red than in blue belongs to a
white cell or a platelet, for any lamp and camera. The peaks of this difference, smoothed over the
size of a nucleus, are the white cells; platelets are too small to form a peak.

All lengths are relative to the picture's longer side, which is the length of about 8 red cells in
the Kaggle set, taken through a 100x lens. `field` is the field of view relative to the Kaggle
set's: 2 means twice as wide. All operations exist in ONNX, so exported models use the same method.
"""

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from bloodcell.data.cell import Cell

SHARE = 0.4  # side of the cropped square, relative to the longer side; fits the largest cells

_SIDE = 160  # pixels of the longer side for the detection of cells
_DARK = 25.0  # 0 to 255; darker pixels are the black border of a rotated or shifted copy
_LEAST_LIGHT = 8.0  # 0 to 255; darker values have no reliable density
_SMOOTHED = 17  # filter width in pixels; two passes are about as wide as a nucleus
_PEAK = 16  # radius in pixels within which a peak is the maximum
_REACH = 28  # radius in pixels of the region that belongs to a peak's cell
_APART = 30  # minimum distance of two cells in pixels; the lobes of a nucleus are closer
_MOST_ENLARGED = 4  # maximum enlargement; smaller pictures show too little detail
# minimum height of a peak, relative to the highest and absolute; in TRAIN, peaks are 0.18 or more
_LEAST_SHARE, _LEAST = 0.4, 0.08
_NOTHING = 1e-3  # above the rounding errors of a uniform picture


def find_cell(images: Tensor) -> Tensor:
    """Finds the white cell of each picture; of several cells, the most prominent one.

    Args:
        images: (B, 3, H, W), 0 to 255, float.

    Returns:
        (B, 2), x and y of the cell's centre in pixels; the picture's centre if nothing is purple.
    """
    height, width = images.shape[2:]
    purple = _find_purple(images, _SIDE)
    smooth = _smooth(purple)
    # column and row of the maximum separately, because ONNX cannot divide by the width
    x, y = smooth.amax(2).argmax(2), smooth.amax(3).argmax(2)  # (B, 1)
    centre = _move_to_middle(purple, torch.cat([x, y], 1).float())
    middle = torch.cat([torch.full_like(x, width), torch.full_like(y, height)], 1) / 2
    found = smooth.amax((2, 3)) > _NOTHING  # (B, 1)
    return torch.where(found, (centre + 0.5) * (torch.sym_max(height, width) / _SIDE), middle)


def find_cells(image: Tensor, field: float = 1.0) -> list[Cell]:
    """Finds all white cells of a picture; the most prominent one comes first.

    Args:
        image: (3, H, W), 0 to 255, float.
        field: field of view relative to the Kaggle set's: 2 means twice as wide.

    Raises:
        ValueError: if the picture has too few pixels for this field of view.
    """
    longer = max(image.shape[1:])
    side = max(1, round(_SIDE * field))
    if side > _MOST_ENLARGED * max(longer, _SIDE):
        raise ValueError(f"{longer} pixels are too few to show cells in a field of {field:g}")
    purple = _find_purple(image[None], side)
    smooth = _smooth(purple)
    highest = _over_squares(F.max_pool2d, smooth, 2 * _PEAK + 1)
    least = (_LEAST_SHARE * smooth.amax()).clamp(min=_LEAST)
    places = ((smooth == highest) & (smooth >= least))[0, 0].nonzero()  # (n, 2), rows and columns
    strengths = smooth[0, 0][places[:, 0], places[:, 1]]
    kept: list[Cell] = []
    tiles: set[tuple[int, int]] = set()
    for place in strengths.argsort(descending=True, stable=True).tolist():
        row, column = places[place].tolist()
        if (tile := (row // _PEAK, column // _PEAK)) in tiles:  # another pixel of a flat peak
            continue
        tiles.add(tile)
        x, y = ((_middle_near(purple, column, row) + 0.5) * (longer / side)).tolist()
        if all(math.dist((x, y), cell[:2]) >= _APART * longer / side for cell in kept):
            kept.append(Cell(x, y, SHARE * longer / field))
    return kept


def cut(images: Tensor, centres: Tensor, size: int) -> Tensor:
    """Crops a square from each picture, whose side is `SHARE` times the longer side.

    Args:
        images: (B, 3, H, W), 0 to 255, float.
        centres: (B, 2), x and y of the squares' centres in pixels.
        size: side of the returned squares in pixels.

    Returns:
        (B, 3, size, size), 0 to 255, black outside of the picture.
    """
    # the whole picture is resized first, with antialiasing
    scaled = _resize(images, max(1, round(size / SHARE)))
    return _sample(scaled, images.shape[2], images.shape[3], centres, size, SHARE)


def cut_all(image: Tensor, centres: Tensor, size: int, field: float) -> Tensor:
    """Crops several squares from one picture.

    Args:
        image: (3, H, W), 0 to 255, float.
        centres: (n, 2), x and y of the squares' centres in pixels.
        size: side of the returned squares in pixels.
        field: field of view relative to the Kaggle set's: 2 means twice as wide.

    Returns:
        (n, 3, size, size), 0 to 255, black outside of the picture.
    """
    scaled = _resize(image[None], max(1, round(size * field / SHARE)))
    each = scaled.expand(len(centres), -1, -1, -1)
    return _sample(each, image.shape[1], image.shape[2], centres, size, SHARE / field)


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


def _resize(images: Tensor, side: int) -> Tensor:
    """Resizes pictures to a longer side of `side` pixels."""
    height, width = images.shape[2:]
    longer = torch.sym_max(height, width)
    sizes = [torch.sym_max(length * side // longer, 1) for length in (height, width)]
    # during export, the sizes are SymInt, which the signature lacks
    return F.interpolate(images, cast(list[int], sizes), mode="bilinear", antialias=True)


def _find_purple(images: Tensor, side: int) -> Tensor:
    """Returns how purple each pixel of the reduced pictures is, (B, 1, h, w), 0 to 1."""
    small = _resize(images, side)
    slide = (small.amax(1, keepdim=True) > _DARK).float()
    brightness = small.mean(1, keepdim=True)
    bright = slide
    for _ in range(2):  # after two rounds, pixels above the mean brightness contain no cells
        bright = bright * (brightness >= _mean(brightness, bright)).float()
    light = _mean(small, bright).clamp(min=_LEAST_LIGHT)  # (B, 3, 1, 1)
    density = -(small.clamp(min=_LEAST_LIGHT) / light).log()
    return (density[:, :1] - density[:, 2:]).clamp(0, 1) * slide


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """Returns the mean of each picture where `where` is 1."""
    return (values * where).sum((2, 3), keepdim=True) / where.sum((2, 3), keepdim=True).clamp(min=1)


def _smooth(purple: Tensor) -> Tensor:
    for _ in range(2):
        purple = _over_squares(F.avg_pool2d, purple, _SMOOTHED)
    return purple


def _over_squares(pool: Callable[..., Tensor], values: Tensor, side: int) -> Tensor:
    """Pools over the square around each pixel: first columns, then rows, which is faster."""
    columns = pool(values, (side, 1), 1, (side // 2, 0))
    return pool(columns, (1, side), 1, (0, side // 2))


def _middle_near(purple: Tensor, column: int, row: int) -> Tensor:
    """Applies `_move_to_middle` to one point, using only its surroundings; returns (2,)."""
    left, top = max(0, column - _REACH), max(0, row - _REACH)
    around = purple[:, :, top : row + _REACH + 1, left : column + _REACH + 1]
    corner = torch.tensor([left, top])
    return _move_to_middle(around, torch.tensor([[column, row]]) - corner.float())[0] + corner


def _move_to_middle(purple: Tensor, centres: Tensor) -> Tensor:
    """Moves each centre, (B, 2), to the centre of mass of the purple around it."""
    height, width = purple.shape[2:]
    dx = (torch.arange(width, device=purple.device) - centres[:, :1])[:, None, :]
    dy = (torch.arange(height, device=purple.device) - centres[:, 1:])[:, :, None]
    weight = purple[:, 0] * (dx**2 + dy**2 <= _REACH**2).float()  # (B, h, w)
    steps = torch.stack([(weight * dx).sum((1, 2)), (weight * dy).sum((1, 2))], 1)
    return centres + steps / weight.sum((1, 2)).clamp(min=1e-6)[:, None]
