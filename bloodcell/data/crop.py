"""What of a picture the network is shown: all of it, or the white cell and what lies around it."""

import math
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bloodcell.data.cell import Cell

if TYPE_CHECKING:
    from torch import Tensor

Crop = Literal["none", "cell"]
Pixels = NDArray[np.uint8]

_LARGEST = 2048  # pixels of a longer side; more are reduced before a cell is sought: memory


class InputFormat(NamedTuple):
    """What of a picture the network is shown.

    Attributes:
        size: side of the square in pixels.
        crop: `none` squeezes the whole picture to it; `cell` cuts it out around the white cell.
    """

    size: int
    crop: Crop = "none"


def show(image: Image.Image, input_format: InputFormat | None) -> Pixels:
    """Makes what the network is given.

    Args:
        image: RGB.
        input_format: what of it is shown; None shows all of it, reduced if it is large, to a model
            that finds the cell itself.

    Returns:
        (size, size, 3).
    """
    if input_format is None:
        return np.array(_reduce(image)[0])
    if input_format.crop == "none":
        return np.asarray(
            image.resize((input_format.size, input_format.size), Image.Resampling.BILINEAR)
        )
    import torch  # not before it is needed: exported models do without

    from bloodcell.data.locate import cut, find_cell

    picture, _ = _as_tensor(image)
    with torch.inference_mode():
        square: Pixels = _as_pixels(cut(picture, find_cell(picture), input_format.size))[0]
    return square


def show_cells(image: Image.Image, size: int, field: float = 1.0) -> list[tuple[Cell, Pixels]]:
    """Finds the white cells of a picture, and makes what the network is given of each.

    Args:
        image: RGB.
        size: side of the squares in pixels.
        field: how many times as wide as on the Kaggle set's pictures the field of view is.

    Returns:
        Where each cell lies, in pixels of the picture, and its square (size, size, 3); the clearest
        cell first.

    Raises:
        ValueError: if the picture is too small to show so wide a field.
    """
    import torch

    from bloodcell.data.locate import cut_all, find_cells

    picture, factor = _as_tensor(image, _LARGEST * max(1.0, field))
    with torch.inference_mode():
        cells = find_cells(picture[0], field)
        if not cells:
            return []
        centres = torch.tensor([cell[:2] for cell in cells])
        squares = _as_pixels(cut_all(picture[0], centres, size, field))
    places = [
        cell._replace(x=cell.x * factor, y=cell.y * factor, side=cell.side * factor)
        for cell in cells
    ]
    return list(zip(places, squares, strict=True))


def _reduce(image: Image.Image, most: float = _LARGEST) -> tuple[Image.Image, int]:
    """A picture whose longer side is so long at most, and how many old pixels a new one is wide."""
    factor = max(1, math.ceil(max(image.size) / most))
    return image.reduce(factor), factor


def _as_tensor(image: Image.Image, most: float = _LARGEST) -> "tuple[Tensor, int]":
    """The reduced picture as (1, 3, H, W), and how many of its pixels one of them is wide."""
    import torch

    reduced, factor = _reduce(image, most)
    return torch.from_numpy(np.array(reduced)).permute(2, 0, 1)[None].float(), factor


def _as_pixels(images: "Tensor") -> Pixels:
    pixels: Pixels = images.permute(0, 2, 3, 1).round().byte().contiguous().numpy()
    return pixels
