"""A photograph with its white cells boxed and named."""

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from bloodcell.data.cell import Cell

# Okabe and Ito's colours; the name in each box repeats the meaning
_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
_UNSURE = "#6e6e6e"
_TEXT, _LINE = 1 / 14, 1 / 96  # share of a box's side
_LEAST_TEXT = 11  # pixels
_LEAST_SIDE = 640  # pixels: a smaller picture is enlarged, so that the names can be read


def draw_cells(
    picture: Image.Image, cells: Sequence[tuple[Cell, str, float]], names: Sequence[str]
) -> bytes:
    """Draws a box around each cell, with its class and the probability of that class.

    Args:
        picture: RGB.
        cells: position, class, and probability of the class, 0 to 1, of each cell.
        names: the classes; each has a colour.

    Returns:
        A PNG.
    """
    factor = max(1, -(-_LEAST_SIDE // max(picture.size)))
    drawn = picture.resize((picture.width * factor, picture.height * factor))
    pen = ImageDraw.Draw(drawn)
    side = factor * max((cell.side for cell, _, _ in cells), default=0.0)  # the same for all boxes
    font = ImageFont.load_default(size=max(_LEAST_TEXT, side * _TEXT))
    for cell, name, probability in cells:
        place = names.index(name) % len(_COLOURS) if name in names else None
        colour = _UNSURE if place is None else _COLOURS[place]
        x, y, half = cell.x * factor, cell.y * factor, side / 2
        box = [max(0.0, x - half), max(0.0, y - half)]
        box += [min(drawn.width - 1.0, x + half), min(drawn.height - 1.0, y + half)]
        pen.rectangle(box, outline=colour, width=max(1, round(side * _LINE)))
        text = f"{name} {probability:.0%}"
        left, top, right, bottom = pen.textbbox((0, 0), text, font)
        wide, high = right - left + 8, bottom - top + 8
        # at the top inside the box, moved to stay inside the picture
        at = (max(0.0, min(box[0], drawn.width - wide)), box[1])
        pen.rectangle([*at, at[0] + wide, at[1] + high], fill=colour)
        pen.text((at[0] + 4 - left, at[1] + 4 - top), text, "white", font)
    with io.BytesIO() as file:
        drawn.save(file, "PNG")
        return file.getvalue()
