"""One style for all figures.

Series differ in marker, line or shade as well as in colour (Okabe and Ito, "Color universal
design", 2008), for black-and-white print and colour-blind readers.
"""

import io
import math
import textwrap
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bloodcell.files import write_whole_bytes

P = ParamSpec("P")
BLUE, RED, GREY = "#0072B2", "#D55E00", "#6e6e6e"
_PER_INCH, _LINE = 12, 0.2  # characters of a heading in an inch, and inches for each line
_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "savefig.dpi": 120,
    "text.parse_math": False,  # names of classes and files are not formulas
}


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Makes a function draw in this style."""

    @wraps(draw)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return wrapped


def draw_grid(
    title: str, n: int, cell: tuple[float, float], head: float, columns: int = 4
) -> tuple[Figure, list[Axes]]:
    """Makes a figure with places for at least `n` pictures, without ticks and frames.

    Args:
        title: title of the figure.
        n: number of pictures.
        cell: width and height of each in inches.
        head: height of the title in inches, without the lines into which it is broken.
        columns: largest number of columns.
    """
    columns = min(columns, n)
    rows = math.ceil(n / columns)
    width = cell[0] * columns
    given = title.splitlines()
    heading = [line for one in given for line in textwrap.wrap(one, round(_PER_INCH * width))]
    height = cell[1] * rows + head + _LINE * (len(heading) - len(given))
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle("\n".join(heading))
    axes: list[Axes] = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for ax in axes:
        ax.axis("off")
    return figure, axes


def shorten(name: str, most: int) -> str:
    """Returns the end of a name, at most `most` characters with the dots for what is left out."""
    return name if len(name) <= most else f"...{name[3 - most :]}"


def size_for(names: Iterable[str], most: int) -> float:
    """Returns the font size at which the longest name fits; cut names could be equal.

    Args:
        names: the names.
        most: how many characters fit at the usual size, 9 points.
    """
    return 9 * min(1.0, most / max(map(len, names), default=1))


def render(figure: Figure) -> bytes:
    """Returns a figure as PNG."""
    with mpl.rc_context(_STYLE), io.BytesIO() as file:
        figure.savefig(file, format="png")
        return file.getvalue()


def save(figure: Figure, path: Path) -> None:
    """Writes a figure as PNG, whole or not at all."""
    write_whole_bytes(path, render(figure))
