"""A sheet of the photographs whose labels are doubted most."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from PIL import Image

from bloodcell.evaluate.doubts import Doubt
from bloodcell.evaluate.figures.style import RED, draw_grid, shorten, size_for, styled

MOST = 24  # photographs
_SIDE = 480  # pixels of a picture's longer side; the sheet shows no more
_NAME = 34  # characters of a photograph's name
_CLASS = 24  # characters of a class that fit above a picture


@styled
def draw_doubts(
    title: str, doubts: Sequence[Doubt], pictures: Sequence[Image.Image | None]
) -> Figure:
    """Draws photographs with their labels and the classes that models suggest.

    Args:
        title: what was examined.
        doubts: the photographs, the most doubted first.
        pictures: an RGB image of each; None if it cannot be read.
    """
    heading = f"{title}: the most doubted labels\norange: likely wrong"
    figure, axes = draw_grid(heading, len(doubts), (3.3, 3.5), 0.7)
    size = size_for([name for one in doubts for name in (one.label, one.suggested)], _CLASS)
    for place, (ax, one, picture) in enumerate(zip(axes, doubts, pictures, strict=False), 1):
        if picture:
            picture.thumbnail((_SIDE, _SIDE))
            ax.imshow(picture)
        else:
            ax.text(0.5, 0.5, "cannot be read", ha="center")
        ax.set_title(
            f"\n{place}. labelled {one.label} ({one.p_label:.2f})\n"
            f"models say {one.suggested} ({one.p_suggested:.2f})\n"
            f"{one.against} of {one.models} models against the label\n{shorten(one.photo, _NAME)}",
            fontsize=size,
            color=RED if one.likely else "black",
            weight="bold" if one.likely else "normal",
        )
    return figure
