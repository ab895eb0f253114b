"""Tables of boxes: photographs with several white cells, each with its own class."""

import math
from collections import Counter
from collections.abc import Collection
from typing import NamedTuple

from bloodcell.datasets.chula import COLUMNS
from bloodcell.datasets.photos import plain
from bloodcell.errors import InputError
from bloodcell.spreadsheet import decode_sheet, parse_sheet


class BoxedCell(NamedTuple):
    """A white cell in a photograph.

    Attributes:
        file: name of the photograph's file in the source.
        class_name: class of the cell.
        slide: name of the slide, which no split divides; the photograph if it is unknown.
        centre: x and y of the box's centre in pixels of the photograph.
    """

    file: str
    class_name: str
    slide: str
    centre: tuple[float, float]


def read_boxes(
    data: bytes, label: str, folder: str, names: Collection[str]
) -> dict[str, BoxedCell]:
    """Reads a table of boxes.

    Args:
        data: the table, CSV with the columns file, class, xmin, ymin, xmax, ymax (pixels) and, if
            known, slide.
        label: name of the table in error messages.
        folder: the table's folder in the source, empty or with a slash at its end; files are
            relative to it.
        names: names of all images in the source.

    Returns:
        The cells by their names: FILE#1 is the first cell of a photograph, FILE#2 the second.
        Empty if it is a table with other columns.

    Raises:
        InputError: if a line names no image, or has no class or no valid box.
    """
    sheet = parse_sheet(decode_sheet(data, "replace"), label)
    if not set(COLUMNS) <= set(sheet.columns):
        return {}
    cells: dict[str, BoxedCell] = {}
    count = Counter[str]()
    named = {plain(name): name for name in names}
    for number, values in sheet.lines:
        given = folder + values["file"]
        file = given if given in names else named.get(plain(given))
        if file is None or not values["class"]:
            raise InputError(
                f"{label}, line {number}: file={values['file']!r}, class={values['class']!r}. "
                "It must name an image beside the table, and its class: correct the line."
            )
        left, top, right, bottom = (_number(values[side]) for side in COLUMNS[2:])
        if not (left < right and top < bottom):
            raise InputError(
                f"{label}, line {number}: the box from ({left:g}, {top:g}) to ({right:g}, "
                f"{bottom:g}) is empty. xmin, ymin, xmax and ymax must be numbers of pixels, the "
                "larger ones last: correct the line."
            )
        count[file] += 1
        centre = (left + right) / 2, (top + bottom) / 2
        slide = values.get("slide") or plain(values["file"])
        cells[f"{file}#{count[file]}"] = BoxedCell(file, values["class"], slide, centre)
    return cells


def _number(text: str) -> float:
    """Returns a number; NaN, which fails each comparison, for any other text."""
    try:
        number = float(text)
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan
