"""Converts pictures into the network's input: the whole picture, or a square around a cell."""

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

_LARGEST = 2048  # pixels of the longer side; larger pictures are reduced before cells are detected


class InputFormat(NamedTuple):
    """The format of the network's input, a square.

    Attributes:
        size: side of the square in pixels.
        crop: `none` resizes the whole picture to the square; `cell` crops a square around the white
            cell.
    """

    size: int
    crop: Crop = "none"


def show(
    image: Image.Image,
    input_format: InputFormat | None,
    centre: tuple[float, float] | None = None,
) -> Pixels:
    """Converts a picture into the network's input.

    Args:
        image: the picture in RGB.
        input_format: the format of the input. None keeps the whole picture, reduced if it is
            large, for an exported model that locates the cell itself.
        centre: x and y of the cell that `cell` crops, in pixels of the picture; None finds it.

    Returns:
        (size, size, 3), or (H, W, 3) without a format.
    """
    if input_format is None:
        return np.array(_reduce(image)[0])
    if input_format.crop == "none":
        return np.asarray(
            image.resize((input_format.size, input_format.size), Image.Resampling.BILINEAR)
        )
    import torch  # imported here because exported models run without it

    from bloodcell.data.locate import cut, find_cell

    picture, factor = _as_tensor(image)
    with torch.inference_mode():
        place = find_cell(picture) if centre is None else torch.tensor([centre]) / factor
        square: Pixels = _as_pixels(cut(picture, place, input_format.size))[0]
    return square


def show_cells(image: Image.Image, size: int, field: float = 1.0) -> list[tuple[Cell, Pixels]]:
    """Finds the white cells of a picture and crops a square around each.

    Args:
        image: the picture in RGB.
        size: side of the squares in pixels.
        field: field of view relative to the Kaggle set's: 2 means twice as wide.

    Returns:
        For each cell its position, in pixels of the picture, and its square (size, size, 3); the
        most prominent cell comes first.

    Raises:
        ValueError: if the picture has too few pixels for this field of view.
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
    """Reduces a picture to a longer side of at most `most` pixels, and returns the factor."""
    factor = max(1, math.ceil(max(image.size) / most))
    return image.reduce(factor), factor


def _as_tensor(image: Image.Image, most: float = _LARGEST) -> "tuple[Tensor, int]":
    """Returns the reduced picture as (1, 3, H, W), 0 to 255, and the factor of the reduction."""
    import torch

    reduced, factor = _reduce(image, most)
    return torch.from_numpy(np.array(reduced)).permute(2, 0, 1)[None].float(), factor


def _as_pixels(images: "Tensor") -> Pixels:
    pixels: Pixels = images.permute(0, 2, 3, 1).round().byte().contiguous().numpy()
    return pixels
