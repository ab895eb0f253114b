"""Draws pictures that show no blood cells: shapes, text, patterns, heaps of objects, tissue.

`fit` teaches each model to distinguish them from its training images. Half of the pictures have the
colours of stained cells, so that colours alone are not enough.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from scipy import ndimage

Picture = NDArray[np.uint8]
Plane = NDArray[np.float64]

_STAINED = ((235, 225, 230), (225, 170, 180), (200, 130, 190), (130, 80, 160), (80, 40, 130))
_LARGE, _WIDE = 256, 8.0  # side of a large picture, and width of a wide filter, in pixels
_WORDS = ("blood", "cells", "report", "sample", "total", "12.4", "g/dl", "range", "page", "table")
# absorption of red, green and blue light by haematoxylin and eosin (Ruifrok and Johnston, 2001)
_HAEMATOXYLIN, _EOSIN = np.array([0.65, 0.70, 0.29]), np.array([0.07, 0.99, 0.11])


class _Pen(NamedTuple):
    """Random numbers, colours and the size of a picture.

    Attributes:
        rng: source of all random numbers.
        size: side of the picture in pixels.
        stained: whether the colours are those of stained cells.
    """

    rng: Generator
    size: int
    stained: bool

    def colour(self) -> tuple[int, ...]:
        if not self.stained:
            return tuple(self.rng.integers(0, 256, 3).tolist())
        base = np.array(_STAINED[self.rng.integers(len(_STAINED))])
        return tuple(np.clip(base + self.rng.normal(0, 12, 3), 0, 255).astype(int).tolist())

    def canvas(self) -> tuple[Image.Image, ImageDraw.ImageDraw]:
        """Returns a picture with a plain ground, often pale as a slide or a page."""
        pale = tuple(self.rng.integers(215, 256, 3).tolist())
        ground = pale if self.rng.random() < 0.6 else self.colour()
        image = Image.new("RGB", (self.size, self.size), ground)
        return image, ImageDraw.Draw(image)

    def smooth(self, width: float) -> Plane:
        """Returns smooth noise (size, size) with mean 0 and standard deviation 1."""
        # wide filters are slow in large pictures, whose noise is therefore drawn small and enlarged
        factor = min(1.0, _WIDE / max(width, 1e-9)) if self.size > _LARGE else 1.0
        side = round(self.size * factor)
        noise = self.rng.normal(0, 1, (side, side))
        found: Plane = ndimage.gaussian_filter(noise, width * factor, mode="wrap")
        if side < self.size:
            small, whole = Image.fromarray(found.astype(np.float32)), (self.size, self.size)
            found = np.array(small.resize(whole, Image.Resampling.BICUBIC), float)
        found /= max(found.std(), 1e-9)
        return found

    def mix(self, share: Plane) -> Picture:
        """Mixes two colours by a share (size, size), 0 to 1."""
        first, second = (np.array(self.colour(), float) for _ in range(2))
        mixed: Picture = (first + (second - first) * share.clip(0, 1)[..., None]).astype(np.uint8)
        return mixed

    def shape(self, draw: ImageDraw.ImageDraw, radius: float, fill: tuple[int, ...]) -> None:
        """Draws an ellipse, a rectangle or a polygon at a random place."""
        x, y = self.rng.uniform(0, self.size, 2)
        wide, high = radius * self.rng.uniform(0.6, 1.4, 2)
        box = (x - wide, y - high, x + wide, y + high)
        kind = self.rng.integers(3)
        if kind == 0:
            draw.ellipse(box, fill=fill)
        elif kind == 1:
            draw.rectangle(box, fill=fill)
        else:
            corners = np.array([x, y]) + self.rng.normal(0, radius, (self.rng.integers(3, 8), 2))
            draw.polygon([tuple(corner) for corner in corners.tolist()], fill=fill)


def _shapes(pen: _Pen) -> Picture:
    """Draws a few plain shapes and lines."""
    image, draw = pen.canvas()
    for _ in range(pen.rng.integers(1, 8)):
        pen.shape(draw, pen.size * pen.rng.uniform(0.06, 0.4), pen.colour())
    for _ in range(pen.rng.integers(0, 4)):
        ends = pen.rng.uniform(0, pen.size, 4).tolist()
        draw.line(ends, fill=pen.colour(), width=int(pen.rng.integers(1, 1 + pen.size // 12)))
    return np.asarray(image)


def _page(pen: _Pen) -> Picture:
    """Draws lines of text, boxes and bars, as in a document, a chart or a screenshot."""
    image, draw = pen.canvas()
    for _ in range(pen.rng.integers(0, 6)):
        x, y, wide, high = pen.size * pen.rng.uniform(0, 0.9, 4)
        draw.rectangle((x, y, x + wide, y + high * 0.4), fill=pen.colour(), outline=pen.colour())
    high = pen.size * pen.rng.uniform(0.05, 0.4)
    font, ink = ImageFont.load_default(high), (0, 0, 0) if pen.rng.random() < 0.5 else pen.colour()
    for y in np.arange(-high / 2, pen.size, high * pen.rng.uniform(1.1, 3)).tolist():
        line = " ".join(pen.rng.choice(_WORDS, 8))
        draw.text((-high * pen.rng.uniform(0, 2), y), line, fill=ink, font=font)
    return np.asarray(image)


def _gradient(pen: _Pen) -> Picture:
    """Draws one colour, or a change from one to another."""
    y, x = np.mgrid[: pen.size, : pen.size] / pen.size
    angle, (left, top) = pen.rng.uniform(0, 2 * np.pi), pen.rng.uniform(0, 1, 2)
    straight = 0.5 + np.cos(angle) * (x - 0.5) + np.sin(angle) * (y - 0.5)
    share = straight if pen.rng.random() < 0.5 else np.hypot(x - left, y - top)
    return pen.mix(share * pen.rng.choice([0, 1]) if pen.rng.random() < 0.5 else share)


def _stripes(pen: _Pen) -> Picture:
    """Draws waves, stripes or a grid."""
    y, x = np.mgrid[: pen.size, : pen.size] / pen.size
    angle, waves = pen.rng.uniform(0, np.pi), 2 * np.pi * pen.rng.uniform(2, 25)
    share = np.sin(waves * (np.cos(angle) * x + np.sin(angle) * y))
    if pen.rng.random() < 0.5:
        share = share * np.sin(waves * (np.cos(angle) * y - np.sin(angle) * x))
    share = np.sign(share) if pen.rng.random() < 0.5 else share
    return pen.mix((share + 1) / 2)


def _noise(pen: _Pen) -> Picture:
    """Draws coloured noise, from grain to clouds."""
    width = pen.rng.choice([0.0, 0.7, 2.0, 5.0, 12.0])
    if pen.rng.random() < 0.5:  # of two colours
        return pen.mix(0.5 + pen.rng.uniform(0.1, 0.4) * pen.smooth(width))
    planes = np.stack([pen.smooth(width) for _ in range(3)], 2)
    noisy = np.array(pen.colour()) + pen.rng.uniform(15, 80) * planes
    return noisy.clip(0, 255).astype(np.uint8)


def _heap(pen: _Pen) -> Picture:
    """Draws many textured shapes that hide each other, large ones first.

    Such pictures have the statistics of photographs (Lee, Mumford and Huang, "Occlusion models for
    natural images", IJCV 2001).
    """
    image, draw = pen.canvas()
    radii = np.sort(pen.size * 0.02 / pen.rng.uniform(0.03, 1, pen.rng.integers(40, 200)))[::-1]
    for radius in radii.tolist():
        pen.shape(draw, radius, pen.colour())
    image = image.filter(ImageFilter.GaussianBlur(pen.rng.uniform(0, 0.012) * pen.size))
    shade = 1 + 0.25 * pen.smooth(pen.size / 6) + pen.rng.uniform(0, 0.15) * pen.smooth(1)
    lit = np.asarray(image, float) * shade[..., None].clip(0.2)
    if pen.rng.random() < 0.3:  # a grey photograph
        lit = np.repeat(lit.mean(2, keepdims=True), 3, 2)
    found: Picture = lit.clip(0, 255).astype(np.uint8)
    return found


def _tissue(pen: _Pen) -> Picture:
    """Draws a section of tissue: crowded nuclei in a textured ground, with gaps."""
    radius = pen.size * pen.rng.uniform(0.01, 0.09)
    nuclei = Image.new("F", (pen.size, pen.size), 0)
    draw = ImageDraw.Draw(nuclei)
    crowd = pen.rng.uniform(0.1, 0.6) * pen.size**2 / (np.pi * radius**2)
    for _ in range(int(crowd) + 1):
        x, y = pen.rng.uniform(0, pen.size, 2)
        wide, high = radius * pen.rng.uniform(0.5, 1.5, 2)
        box = (x - wide, y - high, x + wide, y + high)
        draw.ellipse(box, fill=float(pen.rng.uniform(0.3, 1.2)))
    blue = ndimage.gaussian_filter(np.asarray(nuclei, float), pen.rng.uniform(0.5, 1.5))
    blue = blue * (1 + 0.3 * pen.smooth(1.2)).clip(0.2) + 0.05
    ground = 0.4 + pen.rng.uniform(0.05, 0.3) * pen.smooth(pen.size * pen.rng.uniform(0.01, 0.08))
    pink = ground.clip(0, 2) * (1 - 0.4 * (blue > 0.3))
    tissue = pen.smooth(pen.size * pen.rng.uniform(0.04, 0.2)) < pen.rng.uniform(0.5, 3)
    stains = [stain + pen.rng.normal(0, 0.08, 3) for stain in (_HAEMATOXYLIN, _EOSIN)]
    density = (blue * tissue)[..., None] * stains[0] + (pink * tissue)[..., None] * stains[1]
    light = pen.rng.uniform(220, 250)
    found: Picture = (light * np.exp(-density.clip(0, 4))).astype(np.uint8)
    return found


KINDS: tuple[Callable[[_Pen], Picture], ...] = (
    *(_shapes, _page, _gradient, _stripes),
    *(_noise, _heap, _heap, _tissue, _tissue),  # the hardest ones twice
)


def draw_stranger(number: int, size: int) -> Picture:
    """Draws a picture without blood cells.

    Args:
        number: the same number gives the same picture; numbers go through `KINDS` in turn.
        size: side of the picture in pixels.

    Returns:
        (size, size, 3).
    """
    rng = np.random.default_rng([number, size])
    pen = _Pen(rng, size, stained=bool(rng.random() < 0.5))
    return KINDS[number % len(KINDS)](pen)
