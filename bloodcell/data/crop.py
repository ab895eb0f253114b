"""Converts pictures into the network's input: the whole picture, or a square around a cell."""

import math
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bloodcell.data.cell import Cell
from bloodcell.errors import require_number

if TYPE_CHECKING:
    from torch import Tensor

Crop = Literal["none", "cell"]
Field = float | Literal["auto"]
AUTO: Literal["auto"] = "auto"
Pixels = NDArray[np.uint8]

_LARGEST = 2048  # pixels of the longer side; larger pictures are reduced before cells are detected
_LEAST_PIXELS = 40  # of the longer side, for each unit of the field; fewer show too little detail


class InputFormat(NamedTuple):
    """The format of the network's input, a square.

    Attributes:
        size: side of the square in pixels.
        crop: `none` resizes the whole picture to the square; `cell` crops a square around the white
            cell.
        field: field of view relative to the Kaggle set's: 2 means twice as wide. With a number, the
            cell is found by its colour; `auto` measures the field and finds the cell with a
            network, which also works in uneven light.
        margin: pixels around the square, at its scale, that are kept for `augment_batch`.
    """

    size: int
    crop: Crop = "none"
    field: Field = 1.0
    margin: int = 0

    @property
    def decoded(self) -> int:
        """Side of the decoded square, with its margin, in pixels."""
        return self.size + 2 * self.margin


def check_field(name: str, field: Field) -> None:
    """Checks a field of view.

    Raises:
        InputError: if it is neither `auto` nor a number from 0.1 to 50.
    """
    if field != AUTO:
        require_number(name, field, "auto, or a number from 0.1 to 50, e.g. 3", 0.1, 50)


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
        centre: x and y of the cell's centre in pixels of the picture, if it is known; `crop: cell`
            crops the square around it.

    Returns:
        (size, size, 3), with a margin (decoded, decoded, 3), or (H, W, 3) without a format.
    """
    if input_format is None:
        return np.array(_reduce(image)[0])
    if input_format.crop == "none":
        return np.asarray(
            image.resize((input_format.size, input_format.size), Image.Resampling.BILINEAR)
        )
    import torch  # imported here because exported models run without it

    picture, factor = _as_tensor(image)
    given = None if centre is None else torch.tensor([centre]) / factor
    with torch.inference_mode():
        square: Pixels = _as_pixels(crop_cell(picture, input_format, given))[0]
    return square


def crop_cell(
    images: "Tensor", input_format: InputFormat, centres: "Tensor | None" = None
) -> "Tensor":
    """Crops a square around the white cell of each picture.

    Args:
        images: (B, 3, H, W), 0 to 255, float.
        input_format: the format of the input, with `crop: cell`.
        centres: (B, 2), x and y of the cells' centres in pixels; None finds them.

    Returns:
        (B, 3, decoded, decoded), 0 to 255, black outside of the picture.
    """
    size, _, field, margin = input_format
    if field == AUTO:
        from bloodcell.data.finder import load_finder

        return load_finder().cut(images, size, centres, margin)
    from bloodcell.data.locate import cut, find_cell

    places = find_cell(images, field) if centres is None else centres
    return cut(images, places, size, field, margin)


def show_cells(image: Image.Image, size: int, field: Field = 1.0) -> list[tuple[Cell, Pixels]]:
    """Finds the white cells of a picture and crops a square around each.

    Args:
        image: the picture in RGB.
        size: side of the squares in pixels.
        field: field of view relative to the Kaggle set's: 2 means twice as wide; `auto` measures
            it.

    Returns:
        For each cell its position, in pixels of the picture, and its square (size, size, 3); the
        most prominent cell comes first.

    Raises:
        ValueError: if the picture has too few pixels for this field of view.
    """
    import torch

    from bloodcell.data.finder import load_finder
    from bloodcell.data.locate import SHARE
    from bloodcell.data.sampling import sample_near

    finder = load_finder()
    with torch.inference_mode():
        if field == AUTO:
            field = finder.measure_field(_as_tensor(image)[0][0])
        if max(image.size) < _LEAST_PIXELS * field:
            raise ValueError(
                f"{max(image.size)} pixels are too few to show cells in a field of {field:g}"
            )
        picture, factor = _as_tensor(image, _LARGEST * max(1.0, field))
        side = SHARE * max(picture.shape[2:]) / field
        found = []
        for x, y in finder.find(picture[0], field):
            square, _ = sample_near(picture[0], x, y, side, size)
            cell = Cell(x * factor, y * factor, side * factor)
            found.append((cell, _as_pixels(square)[0]))
    return found


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
