"""The position of a white cell in a picture, and the file of the network that finds it."""

from pathlib import Path
from typing import NamedTuple

WEIGHTS = Path(__file__).parent.parent / "bundled" / "finder.safetensors"


class Cell(NamedTuple):
    """A white cell.

    Attributes:
        x: distance of its centre from the left edge, in pixels.
        y: distance of its centre from the upper edge, in pixels.
        side: side of the square that is cropped around it, in pixels.
    """

    x: float
    y: float
    side: float
