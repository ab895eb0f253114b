"""Images beside the evidence for their predicted classes."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bloodcell.evaluate.figures.style import shorten, size_for, styled

_PAIRS = 2  # per row of the figure
_CLASSES = 4  # listed at an image
_CHARACTERS = 30  # of a file name
_CLASS = 24  # characters of a class that fit above a picture


class Explained(NamedTuple):
    """An image with its heat map and predicted probabilities.

    Attributes:
        name: name of the file.
        pixels: (size, size, 3).
        heat: (size, size), 0 to 1.
        probability: probability of each class.
        unlike: whether the image is unlike all training images; None if the model has no gallery.
    """

    name: str
    pixels: NDArray[np.uint8]
    heat: NDArray[np.float32]
    probability: dict[str, float]
    unlike: bool | None = None


@styled
def draw_explained(title: str, images: Sequence[Explained]) -> Figure:
    """Draws each image, and beside it its heat map with a contour at half of the maximum heat."""
    pairs = min(_PAIRS, len(images))
    rows = -(-len(images) // pairs)
    figure = Figure(figsize=(4.6 * pairs, 3.0 * rows + 0.6), layout="constrained")
    figure.suptitle(
        f"{title}\nIn colour and inside the line: the evidence for the class",
        fontsize=10,
        wrap=True,
    )
    axes = figure.subplots(rows, 2 * pairs, squeeze=False).reshape(-1, 2)
    for pair, image in zip(axes, images, strict=False):
        for ax, picture in zip(
            pair, (image.pixels, overlay(image.pixels, image.heat)), strict=True
        ):
            ax.imshow(picture)
        if image.heat.any():
            pair[1].contour(image.heat, levels=[0.5], colors="black", linewidths=1.2)
        size = size_for(image.probability, _CLASS)
        ranked = sorted(image.probability.items(), key=lambda one: -one[1])[:_CLASSES]
        lines = [f"{name} {p:.2f}" for name, p in ranked]
        pair[0].set_title(shorten(image.name, _CHARACTERS), fontsize=9)
        if image.unlike:
            pair[0].set_xlabel("unlike all\ntraining images", fontsize=8, color="tab:red")
        pair[1].set_title(lines[0], fontsize=size, fontweight="bold")
        pair[1].set_xlabel("\n".join(lines[1:]), fontsize=min(8, size))
    for ax in axes.ravel():
        ax.set(xticks=[], yticks=[])
        ax.grid(visible=False)
    for pair in axes[len(images) :]:
        for ax in pair:
            ax.set_axis_off()
    return figure


def overlay(pixels: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Returns an image (H, W, 3) in grey, with colour where the heat (H, W) is high."""
    grey = pixels.mean(2, keepdims=True).repeat(3, axis=2) * 0.5 + 100
    share = heat[..., None]
    mixed: NDArray[np.uint8] = (grey * (1 - share) + pixels * share).clip(0, 255).astype(np.uint8)
    return mixed
