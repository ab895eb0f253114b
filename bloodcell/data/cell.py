"""Where a white cell lies in a picture."""

from typing import NamedTuple


class Cell(NamedTuple):
    """A white cell.

    Attributes:
        x: of its centre, pixels from the left.
        y: likewise, from the top.
        side: of the square that is cut out around it, in pixels.
    """

    x: float
    y: float
    side: float
