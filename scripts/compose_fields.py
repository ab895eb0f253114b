"""Composes fields of view of any width from cells that are cut out of other pictures.

Each cell is cut out as a layer of optical density, which is 0 around it. Layers are turned, resized
and added as the densities of real cells add. So every field has known white cells and a known
scale: single cells and clumps of real red cells, platelets alone and in heaps, deposits of stain,
and white cells that touch. Light, lens and camera are added where the fields are shown.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

Floats = NDArray[np.float32]
Colour = NDArray[np.floating[Any]]  # (3,), factors of the densities
Rng = np.random.Generator

SIDE = 320  # longer side of a composed field in pixels
LEAST_ACROSS, MOST_ACROSS = 3.0, 30.0  # red cells along it
_LEAST_RED = 36.0  # pixels; sprites are stored with red cells at most this wide
_THRESHOLD = 0.07  # mean density of a pixel of a cell; pale centres are filled
_NUCLEUS = 0.45  # density of red light, which red cells do not reach
_TOUCHING = 0.35  # share of white cells beside another one
_CLEAR = 235  # value of the clear slide


class Sprite(NamedTuple):
    """A cell or clump of cells.

    Attributes:
        density: (h, w, 3), 0 around the cell.
        red: width of a red cell in pixels.
    """

    density: Floats
    red: float


Sprites = dict[str, list[Sprite]]  # "white", "red" and "platelet"


def cut_out(
    pixels: NDArray[np.uint8], red: float, centres: list[tuple[float, float]]
) -> Iterable[tuple[str, Sprite]]:
    """Yields the kinds and sprites of all cells that lie in a picture as a whole.

    Args:
        pixels: (h, w, 3).
        red: width of a red cell in pixels.
        centres: x and y of the white cells.
    """
    density = _density(pixels)
    mask = ndimage.binary_fill_holes(ndimage.gaussian_filter(density.mean(2), 1) > _THRESHOLD)
    mask = ndimage.binary_opening(mask, iterations=2)
    labels, count = ndimage.label(mask)
    for x, y in centres:
        if white := _cut_white(density, labels, (x, y), red):
            yield "white", white
    whites = {labels[int(y), int(x)] for x, y in centres}
    cell = math.pi / 4 * red**2
    for label, where in enumerate(ndimage.find_objects(labels, count), 1):
        own = labels[where] == label
        area = own.sum() / cell
        purple = (own & (density[where][..., 0] > _NUCLEUS)).sum() / cell
        if label in whites or _is_cut(where, mask.shape):
            continue
        if purple < 0.02 and 0.4 < area < 8:
            yield "red", _sprite(density[where], own, red)
        elif purple > 0.3 * area and 0.02 < area < 0.6:
            yield "platelet", _sprite(density[where], own, red)


def _is_cut(where: tuple[slice, slice], shape: tuple[int, ...]) -> bool:
    edges = zip(where, shape, strict=True)
    return any(span.start <= 1 or span.stop >= length - 1 for span, length in edges)


def _density(pixels: NDArray[np.uint8]) -> Floats:
    """Returns the density (h, w, 3) relative to the mean of the brightest part."""
    values = pixels.astype(np.float32) + 1
    brightness = values.mean(2)
    bright = brightness >= np.quantile(brightness, 0.5)
    for _ in range(2):
        bright &= brightness >= brightness[bright].mean()
    return np.asarray(-np.log(values / values[bright].mean(0)), np.float32)


def _sprite(density: Floats, mask: NDArray[np.bool_], red: float) -> Sprite:
    """Returns a layer with soft edges, reduced to red cells of at most `_LEAST_RED` pixels."""
    soft = ndimage.gaussian_filter(np.pad(mask, 3).astype(np.float32), 1)
    layer = np.pad(density, ((3, 3), (3, 3), (0, 0))) * np.clip(2 * soft, 0, 1)[..., None]
    factor = min(1.0, _LEAST_RED / red)
    return Sprite(_resize(layer, factor).astype(np.float16), red * factor)


def _cut_white(
    density: Floats, labels: NDArray[np.int32], centre: tuple[float, float], red: float
) -> Sprite | None:
    """Returns a white cell without what touches it farther away, or None if it is cut off."""
    column, row = (int(c) for c in centre)
    whole = labels == labels[row, column]
    y, x = np.mgrid[: whole.shape[0], : whole.shape[1]]
    far = np.hypot(y - row, x - column)
    nucleus = whole & (density[..., 0] > _NUCLEUS) & (far < 1.3 * red)
    reach = min(1.4 * red, max(0.6 * red, float(far[nucleus].max(initial=0)) + 0.15 * red))
    side = int(reach) + 2
    near = (slice(row - side, row + side), slice(column - side, column + side))
    if nucleus.sum() < 0.1 * red**2 or not labels[row, column] or _is_cut(near, whole.shape):
        return None
    return _sprite(density[near], (whole & (far < reach))[near], red)


def _resize(layer: Floats, factor: float) -> Floats:
    size = tuple(max(1, round(n * factor)) for n in layer.shape[1::-1])
    planes = [
        Image.fromarray(np.asarray(layer[..., k], np.float32)).resize(
            (size[0], size[1]), Image.Resampling.BILINEAR
        )
        for k in range(3)
    ]
    return np.stack([np.asarray(plane) for plane in planes], 2)


class Composed(NamedTuple):
    """A field of view: pixels (h, w, 3), width of a red cell in pixels, centres (n, 2)."""

    pixels: NDArray[np.uint8]
    red: float
    centres: list[tuple[float, float]]


class _Canvas:
    """Adds layers of density to a field."""

    def __init__(self, rng: Rng, across: float) -> None:
        self.rng = rng
        self.shape = SIDE * 3 // 4, SIDE
        self.red = SIDE / across
        self.density = np.zeros((*self.shape, 3), np.float32)

    def spot(self) -> Floats:
        """Returns a random place, x and y."""
        return self.rng.uniform([0, 0], self.shape[::-1]).astype(np.float32)

    def add(self, sprite: Sprite, at: Floats, size: float, colour: Colour, over: float) -> None:
        """Adds a sprite in a random position.

        Args:
            sprite: the layer.
            at: x and y of its middle.
            size: relative to the true size.
            colour: (3,), factors of the densities.
            over: how much of what lies under it is hidden, 0 to 1.
        """
        layer = np.rot90(sprite.density, int(self.rng.integers(4)))
        if self.rng.random() < 0.5:
            layer = layer[::-1]
        layer = _resize(layer, self.red / sprite.red * size) * colour.astype(np.float32)
        top, left = (round(c - n / 2) for c, n in zip(at[::-1], layer.shape, strict=False))
        rows, columns = (
            slice(min(n, max(0, a)), max(0, min(n, a + m)))
            for a, n, m in zip((top, left), self.shape, layer.shape, strict=False)
        )
        under = self.density[rows, columns]
        if under.size:
            y, x = rows.start - top, columns.start - left
            part = layer[y : y + under.shape[0], x : x + under.shape[1]]
            hidden = over * np.clip(part.mean(2) / 0.1, 0, 1)
            self.density[rows, columns] = under * (1 - hidden[..., None]) + part


def compose(rng: Rng, sprites: Sprites) -> Composed:
    """Composes a field of a random width from sprites of one laboratory."""
    canvas = _Canvas(rng, LEAST_ACROSS * (MOST_ACROSS / LEAST_ACROSS) ** rng.random())
    area = canvas.shape[0] * canvas.shape[1] / (math.pi / 4 * canvas.red**2)  # in red cells
    eosin, azure = (rng.uniform(*s) * rng.normal(1, 0.12, 3) for s in ((0.4, 1.4), (0.55, 1.15)))
    _add_reds(canvas, sprites["red"], int(area * rng.choice([0.1, 0.3, 0.6, 1.0, 1.8])), eosin)
    if rng.random() < 0.6:
        _add_platelets(canvas, sprites, int(rng.poisson(area * rng.uniform(0, 0.1))), azure)
    for _ in range(int(rng.poisson(2)) if rng.random() < 0.35 else 0):
        _add_deposit(canvas)
    centres = _add_whites(canvas, sprites["white"], area, azure)
    plasma = rng.uniform(0, 0.1, 3) * (1 + 0.4 * _noise(rng, canvas.shape, 30)[..., None])
    light = np.exp(-canvas.density - plasma)
    pixels = np.clip(_CLEAR * light, 0, 255).astype(np.uint8)
    return Composed(pixels, canvas.red, centres)


def _add_reds(canvas: _Canvas, sprites: list[Sprite], count: int, colour: Colour) -> None:
    """Adds red cells; many lie beside others, in heaps or in rows."""
    rng = canvas.rng
    clumping, near, over = rng.uniform(0, 0.9), rng.uniform(0.35, 1.0), rng.uniform(0, 1)
    size, varied = rng.uniform(0.95, 1.05), rng.uniform(0.02, 0.12)
    kept = [sprites[n] for n in rng.integers(len(sprites), size=60)]
    places = [canvas.spot()]
    turn = rng.uniform(0, 2 * math.pi)
    for _ in range(count):
        at = canvas.spot()
        if rng.random() < clumping:
            turn += rng.normal(0, 0.5)  # rows of cells bend slowly
            far = canvas.red * rng.uniform(near, 1.1)
            beside = places[-1] if rng.random() < 0.7 else places[rng.integers(len(places))]
            at = (beside + far * np.array([math.cos(turn), math.sin(turn)])).astype(np.float32)
        elif rng.random() < 0.7:  # apart from the others, if that is possible at once
            others = np.hypot(*(np.array(places) - at).T)
            if (others < 0.9 * canvas.red).any():
                continue
        places.append(at)
        one = kept[rng.integers(len(kept))]
        canvas.add(one, at, size * rng.normal(1, varied), colour * rng.normal(1, 0.08), over)


def _add_platelets(canvas: _Canvas, sprites: Sprites, count: int, colour: Colour) -> None:
    """Adds platelets, many of them in heaps, which may be as large as white cells."""
    rng, at = canvas.rng, canvas.spot()
    heaps, small = rng.choice([0.0, 0.4, 0.9]), rng.uniform(0.5, 1.0)
    for _ in range(count):
        step = rng.normal(0, 0.3 * canvas.red, 2).astype(np.float32)
        at = at + step if rng.random() < heaps else canvas.spot()
        one = sprites["platelet"][rng.integers(len(sprites["platelet"]))]
        canvas.add(one, at, small * rng.uniform(0.7, 1.2), colour * rng.uniform(0.6, 1.1), 0.3)


def _add_deposit(canvas: _Canvas) -> None:
    """Adds a deposit of stain or dirt: grains, a smudge or a fibre."""
    rng = canvas.rng
    side = int(canvas.red * rng.uniform(0.2, 2.5)) + 4
    line = np.linspace(-1, 1, side)
    far = np.hypot(line, line[:, None] * rng.choice([1.0, 1.0, 4.0]))
    shape = np.clip(1 - far, 0, 1) + rng.uniform(0.1, 0.6) * _noise(rng, (side, side), 3)
    grains = np.clip((shape - rng.uniform(0.2, 0.8)) * rng.uniform(1, 8), 0, 1)
    grains = ndimage.gaussian_filter(grains * np.clip(3 * (1 - far), 0, 1), 0.6)
    hues = ((1.0, 1.2, 0.5), (1.0, 1.0, 1.0), (0.4, 0.7, 1.0), (0.5, 0.4, 0.1))
    colour = np.array(hues[rng.integers(len(hues))]) * rng.uniform(0.2, 1.6)
    layer = Sprite(np.asarray(grains[..., None] * colour, np.float32), canvas.red)
    canvas.add(layer, canvas.spot(), 1.0, np.ones(3, np.float32), 0.0)


def _add_whites(
    canvas: _Canvas, sprites: list[Sprite], area: float, colour: Colour
) -> list[tuple[float, float]]:
    """Adds white cells, some of which touch, and returns their centres."""
    rng = canvas.rng
    size = rng.uniform(0.85, 1.15)
    placed: list[tuple[Floats, float]] = []
    for _ in range(int(rng.poisson(min(5.0, area * rng.choice([0.005, 0.02, 0.06]) + 0.4)))):
        one = sprites[rng.integers(len(sprites))]
        radius = 0.5 * min(one.density.shape[:2]) / one.red * canvas.red * size
        at = canvas.spot()
        if placed and rng.random() < _TOUCHING:
            turn, far = rng.uniform(0, 2 * math.pi), (placed[-1][1] + radius) * 0.92
            step = far * np.array([math.cos(turn), math.sin(turn)])
            at = (placed[-1][0] + step).astype(np.float32)
        if all(np.hypot(*(at - other)) > 0.85 * (radius + its) for other, its in placed):
            placed.append((at, radius))
            canvas.add(one, at, size, colour * rng.normal(1, 0.06), rng.uniform(0.6, 0.95))
    return [(float(x), float(y)) for (x, y), _ in placed]


def _noise(rng: Rng, shape: tuple[int, int], step: int) -> Floats:
    """Returns smooth noise with a standard deviation of about 1."""
    size = [n // step + 2 for n in shape]
    coarse = Image.fromarray(rng.standard_normal(size, dtype=np.float32))
    return np.asarray(coarse.resize(shape[::-1], Image.Resampling.BICUBIC), np.float32)


def collect(
    pictures: Iterable[tuple[NDArray[np.uint8], float, list[tuple[float, float]]]],
) -> Sprites:
    """Returns the sprites of pictures, each with its red cells' width and white cells' centres."""
    sprites: Sprites = defaultdict(list)
    for pixels, red, centres in pictures:
        for kind, sprite in cut_out(pixels, red, centres):
            sprites[kind].append(sprite)
    return dict(sprites)
