"""Draws whole fields of a smear: any number of white cells, any width, stain and light.

The network that finds cells and measures scale is trained and tested on them. Unlike the demo data
set, they show white cells that touch, heaps of platelets, deposits of stain, and strong or coloured
vignettes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from bloodcell.datasets.drawn.scene import (
    ATLAS,
    AZURE,
    HAEMOGLOBIN,
    Floats,
    around,
    covered,
    noise,
    red_layer,
    rim_of,
    seeded_rng,
    white_cell,
)
from bloodcell.datasets.drawn.smears import Box
from bloodcell.datasets.kaggle import CLASS_NAMES

RED_UM = 7.5  # diameter of a red cell
ACROSS = 6.4  # red cells along the longer side of a picture of field 1
_FIELD = 4
_TOUCHING = 0.35  # share of white cells with a neighbour that they touch
_Rng = np.random.Generator


@dataclass(frozen=True)
class Field:
    """One picture of a smear with any number of white cells.

    Attributes:
        pixels: RGB picture, uint8, shape (height, width, 3).
        class_names: class of each white cell.
        boxes: each white cell as (xmin, ymin, xmax, ymax) in pixels.
        field: field of view relative to the Kaggle set's: 2 is twice as wide.
    """

    pixels: NDArray[np.uint8]
    class_names: list[str]
    boxes: list[Box]
    field: float


def draw_field(
    seed: int | Sequence[int], field: float, width: int = 480, height: int = 360
) -> Field:
    """Draws a field.

    Args:
        seed: non-negative integer or integers; the same seed gives the same pixels.
        field: field of view relative to the Kaggle set's: 2 is twice as wide.
        width: width of the picture in pixels.
        height: height of the picture in pixels.
    """
    rng = seeded_rng(seed, _FIELD)
    size, scale = (width, height), max(width, height) / (ACROSS * RED_UM * field)
    whites = _place_whites(rng, size, scale, field)
    absorbance = _draw_background(rng, size, scale, [(spot, far) for _, spot, far in whites])
    azure = rng.uniform(0.6, 1.25)
    boxes = []
    for name, spot, radius in whites:
        where, x, y = around(spot, 1.25 * radius * scale + 4, size)
        cover, body, outline = white_cell(rng, ATLAS[name], radius, x / scale, y / scale)
        absorbance[where] *= 1 - 0.94 * cover[..., None]
        absorbance[where] += azure * body
        low, high = (spot + scale * edge(outline, axis=0) for edge in (np.min, np.max))
        x0, y0 = (max(0.0, float(value)) for value in low)
        boxes.append((x0, y0, min(width, float(high[0])), min(height, float(high[1]))))
    pixels = _photograph(rng, np.exp(-_stain(rng, absorbance)))
    return Field(pixels, [name for name, *_ in whites], boxes, field)


def _place_whites(
    rng: _Rng, size: tuple[int, int], scale: float, field: float
) -> list[tuple[str, Floats, float]]:
    """Returns class, centre (pixels) and radius (um) of white cells; some touch."""
    placed: list[tuple[str, Floats, float]] = []
    count = int(rng.poisson(1.2 * max(field, 0.6) ** 1.3))
    for _ in range(count):
        name = str(rng.choice(CLASS_NAMES))
        radius = float(rng.uniform(*ATLAS[name].diameter_um)) / 2
        spot = rng.uniform([0, 0], size).astype(np.float32)
        if placed and rng.random() < _TOUCHING:
            _, other, its = placed[-1]
            turn, far = rng.uniform(0, 2 * np.pi), (its + radius) * scale * rng.uniform(0.95, 1.05)
            spot = (other + far * np.array([np.cos(turn), np.sin(turn)])).astype(np.float32)
        far = 0.3 * radius * scale
        inside = (spot > far).all() and (spot < np.array(size) - far).all()
        apart = all(
            np.hypot(*(spot - other)) > 0.94 * (its + radius) * scale for _, other, its in placed
        )
        if inside and apart:
            placed.append((name, spot, radius))
    return placed


def _draw_background(
    rng: _Rng, size: tuple[int, int], scale: float, whites: list[tuple[Floats, float]]
) -> Floats:
    """Returns the absorbance (height, width, 3) of red cells, platelets and deposits of stain."""
    red = RED_UM / 2 * scale
    area = size[0] * size[1] / (np.pi * red**2)
    apart, clumping = rng.choice([0.5, 1.15, 1.8]), rng.uniform(0.1, 0.9)
    centres: list[Floats] = []
    for _ in range(int(area * rng.uniform(0.15, 1.3))):
        spot = rng.uniform(-red, np.array(size) + red).astype(np.float32)
        if centres and rng.random() < clumping:
            turn, far = rng.uniform(0, 2 * np.pi), red * rng.uniform(apart, 2.1)
            near = centres[rng.integers(len(centres))]
            spot = (near + far * np.array([np.cos(turn), np.sin(turn)])).astype(np.float32)
        others = np.hypot(*(np.array(centres).reshape(-1, 2) - spot).T)
        white = all(np.hypot(*(spot - at)) > far * scale + 0.8 * red for at, far in whites)
        if (others > apart * red).all() and white:
            centres.append(spot)
    layer = red_layer(rng, centres, red, size)
    eosin = rng.uniform(0.4, 1.2)
    absorbance = layer[..., None] * (eosin * np.array(HAEMOGLOBIN, np.float32))
    for colour, count, span in (
        (AZURE, rng.poisson(area * rng.uniform(0, 0.12)), (0.5, 1.6)),  # platelets
        ((1.0, 1.2, 0.6), rng.poisson(0.03 * area * (rng.random() < 0.4)), (0.2, 1.2)),  # stain
    ):
        specks = _draw_specks(rng, size, scale, int(count), span)
        absorbance += specks[..., None] * (rng.uniform(0.7, 1.15) * np.array(colour, np.float32))
    return np.asarray(absorbance, np.float32)


def _draw_specks(
    rng: _Rng, size: tuple[int, int], scale: float, count: int, span: tuple[float, float]
) -> Floats:
    """Returns the density, 0 to about 1, of small bodies; some lie in heaps."""
    layer = np.zeros(size[::-1], np.float32)
    spot = rng.uniform([0, 0], size)
    heaps = rng.uniform(0, 0.6)
    for _ in range(count):
        step = rng.normal(0, 2.2 * scale, 2)
        spot = spot + step if rng.random() < heaps else rng.uniform([0, 0], size)
        radius = max(0.7, scale * rng.uniform(*span))
        where, x, y = around(spot.astype(np.float32), 2 * radius, size)
        if not x.size:
            continue
        far = np.hypot(x, y) / radius / rim_of(rng, np.arctan2(y, x), 0.1)
        grain = 0.7 + 0.22 * noise(rng, x.shape, max(1.0, 0.5 * scale))
        body = covered((far - 0.85).astype(np.float32), 0.7) * grain
        layer[where] = np.maximum(layer[where], body)
    return layer


def _stain(rng: _Rng, absorbance: Floats) -> Floats:
    """Changes the hue of all stains together: another mixture, batch or camera."""
    mixed = np.eye(3) * rng.uniform(0.7, 1.3, 3) + rng.uniform(0, 0.25, (3, 3))
    plasma = 0.05 * rng.random(3) * (1 + 0.3 * noise(rng, absorbance.shape[:2], 40)[..., None])
    return np.asarray(absorbance @ mixed.T / mixed.sum(1) * rng.uniform(0.6, 1.3) + plasma)


def _photograph(rng: _Rng, light: Floats) -> NDArray[np.uint8]:
    """Photographs the light through a smear: lamp, vignette in colour, focus and noise."""
    height, width = light.shape[:2]
    picture = Image.fromarray(np.clip(light * 225, 0, 255).astype(np.uint8))
    picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 1.4)))
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    strength = rng.choice([0.05, 0.3, 0.7])
    slope, bowl = rng.uniform(-strength, strength, (2, 3)), rng.uniform(0, strength, 3)
    far = (x - rng.uniform(-0.4, 0.4)) ** 2 + (y - rng.uniform(-0.4, 0.4)) ** 2
    slopes = slope[0] * x[..., None] + slope[1] * y[..., None]
    lamp = np.exp(-0.5 * slopes - bowl * far[..., None])
    colour = rng.uniform(170, 250) * np.array([1, rng.uniform(0.75, 1.0), rng.uniform(0.7, 1.0)])
    grain = rng.standard_normal(light.shape, dtype=np.float32) * rng.uniform(0.5, 5)
    pixels = np.asarray(picture) / np.float32(225) * lamp / lamp.mean() * colour + grain
    return np.asarray(np.clip(pixels, 0, 255), np.uint8)
