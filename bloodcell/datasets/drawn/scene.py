"""Draws the scene of a synthetic blood smear: cells and stain, before lamp and lens.

Cells are thin stained layers with an absorbance (optical density), so overlapping cells, pale
centres and stain strength behave as under a microscope. Stain and scale are independent of the
class, so only the white cell shows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bloodcell.datasets.kaggle import CLASS_NAMES

WIDTH, HEIGHT = 320, 240
# pixels of the scene beyond each side of the picture: a turned view has no empty corners
MARGIN = 32
CANVAS = (WIDTH + 2 * MARGIN, HEIGHT + 2 * MARGIN)

Floats = NDArray[np.float32]
_Rng = np.random.Generator
_Span = tuple[float, float]
_Colour = tuple[float, float, float]

_SCENE = 1
HAEMOGLOBIN: _Colour = (0.13, 0.42, 0.46)
AZURE: _Colour = (0.62, 0.80, 0.18)


@dataclass(frozen=True)
class _Anatomy:
    """Shape and stain of a class of white cells; lengths are in cell radii unless in um."""

    diameter_um: _Span
    wobble: float  # of the cell's outline
    lobes: tuple[int, ...]  # numbers to choose from; common numbers are repeated
    lobe: _Span  # radius
    crowding: float  # exponent: the more lobes, the smaller they are
    orbit: _Span  # distance of the lobes from the centre of their arc
    step_rad: _Span  # angle between neighbouring lobes
    strand: float  # half the width of the strand between two lobes
    blend_um: float
    grain_um: float  # size of the clumps of chromatin
    contrast: float
    lacy: float
    nucleus: _Colour  # absorbance of red, green and blue, here and below
    cytoplasm: _Colour
    granule: _Colour
    granule_um: float
    vacuoles: float  # largest share of grid cells with a vacuole, 0 to 1


ATLAS = {
    "EOSINOPHIL": _Anatomy(
        diameter_um=(12, 15.5), wobble=0.03, lobes=(2, 2, 2, 2, 3), lobe=(0.37, 0.45),
        crowding=0.0, orbit=(0.43, 0.53), step_rad=(1.7, 2.3), strand=0.09, blend_um=0.3,
        grain_um=0.9, contrast=0.22, lacy=0.0, nucleus=(0.92, 1.30, 0.30),
        cytoplasm=(0.04, 0.28, 0.26), granule=(0.03, 0.50, 0.68), granule_um=0.9, vacuoles=0.0,
    ),
    "LYMPHOCYTE": _Anatomy(
        diameter_um=(8.8, 11.5), wobble=0.025, lobes=(1, 1, 2), lobe=(0.74, 0.86),
        crowding=0.0, orbit=(0.08, 0.14), step_rad=(2.2, 3.1), strand=0.6, blend_um=0.3,
        grain_um=1.3, contrast=0.16, lacy=0.0, nucleus=(1.10, 1.42, 0.40),
        cytoplasm=(0.42, 0.24, 0.05), granule=(0.0, 0.0, 0.0), granule_um=1.0, vacuoles=0.0,
    ),
    "MONOCYTE": _Anatomy(
        diameter_um=(15.5, 19.5), wobble=0.06, lobes=(4, 5, 5, 6), lobe=(0.36, 0.44),
        crowding=0.0, orbit=(0.42, 0.54), step_rad=(0.42, 0.7), strand=0.32, blend_um=0.5,
        grain_um=0.9, contrast=0.14, lacy=0.32, nucleus=(0.60, 0.95, 0.17),
        cytoplasm=(0.29, 0.27, 0.12), granule=(0.06, 0.09, 0.03), granule_um=0.5, vacuoles=0.1,
    ),
    "NEUTROPHIL": _Anatomy(
        diameter_um=(12, 15), wobble=0.03, lobes=(2, 3, 3, 4, 4, 5), lobe=(0.29, 0.35),
        crowding=0.4, orbit=(0.48, 0.6), step_rad=(1.05, 1.45), strand=0.06, blend_um=0.22,
        grain_um=0.8, contrast=0.28, lacy=0.0, nucleus=(0.95, 1.40, 0.33),
        cytoplasm=(0.04, 0.18, 0.07), granule=(0.09, 0.17, 0.05), granule_um=0.5, vacuoles=0.0,
    ),
}  # fmt: skip


def seeded_rng(seed: int | Sequence[int], *stream: int) -> _Rng:
    """Returns a generator that depends on `seed` and the numbers of `stream` alone."""
    key = [int(part) for part in np.atleast_1d(seed)]
    return np.random.default_rng(np.random.SeedSequence(key, spawn_key=stream))


def noise(rng: _Rng, shape: tuple[int, int], step: float) -> Floats:
    """Returns smooth noise (rows, columns) of unit strength with spots `step` pixels wide."""
    rows, columns = (int(np.ceil(side / step)) + 2 for side in shape)
    grid = Image.fromarray(rng.standard_normal((rows, columns), dtype=np.float32))
    smooth = grid.resize((shape[1], shape[0]), Image.Resampling.BICUBIC)
    return np.asarray(smooth, dtype=np.float32)


def covered(distance: Floats, edge: float) -> Floats:
    """Returns the coverage, 0 (outside) to 1, at signed distances; the edge is `edge` wide."""
    ramp: Floats = np.clip(0.5 - distance / np.float32(edge), 0, 1)
    return ramp * ramp * (3 - 2 * ramp)


def around(
    centre: Floats, reach: float, limits: tuple[int, int] = CANVAS
) -> tuple[tuple[slice, slice], Floats, Floats]:
    """Returns the canvas within `reach` pixels of `centre`, and its offsets x and y from there."""
    low = [max(0, int(c - reach)) for c in centre]
    high = [max(0, min(size, int(c + reach) + 2)) for c, size in zip(centre, limits, strict=True)]
    x, y = (
        np.arange(a, b, dtype=np.float32) - c for a, b, c in zip(low, high, centre, strict=True)
    )
    where = (slice(low[1], high[1]), slice(low[0], high[0]))
    columns, rows = np.meshgrid(x, y)
    return where, columns, rows


def rim_of(rng: _Rng, angle: Floats, wobble: float) -> Floats:
    """Returns the radius of a cell, 1 +- 3.6 `wobble`, in each direction `angle` (radians)."""
    radius = np.ones_like(angle)
    for order in range(2, 8):
        size = 7 * wobble * rng.uniform(-1, 1) / order**2
        radius += size * np.cos(order * angle + rng.uniform(0, 2 * np.pi))
    return radius


def _specks(rng: _Rng, x: Floats, y: Floats, pitch: float, share: float) -> Floats:
    """Returns the height, 0 to 1, of round specks `pitch` wide in a `share` of a grid's cells."""
    column, row = np.floor(x / pitch).astype(int), np.floor(y / pitch).astype(int)
    column0, row0 = column.min() - 1, row.min() - 1
    size = (row.max() - row0 + 2, column.max() - column0 + 2)
    dx, dy = rng.uniform(0.1, 0.9, (2, *size)).astype(np.float32)
    radius = rng.uniform(0.42, 0.68, size) * (rng.random(size) < share)
    height = np.zeros_like(x)
    for j, i in np.ndindex(3, 3):
        r, c = row + j - 1, column + i - 1
        at = (r - row0, c - column0)
        square = (x / pitch - c - dx[at]) ** 2 + (y / pitch - r - dy[at]) ** 2
        height = np.maximum(height, 1 - square / np.maximum(radius[at], 1e-3) ** 2)
    return height.astype(np.float32)


def _nucleus(rng: _Rng, cell: _Anatomy, radius: float, x: Floats, y: Floats) -> Floats:
    """Returns the signed distance (um) at x, y (um) to a chain of lobes joined by strands."""
    count = int(rng.choice(cell.lobes))
    turns = rng.uniform(*cell.step_rad) * (np.arange(count) + rng.uniform(-0.2, 0.2, count))
    orbit = radius * rng.uniform(*cell.orbit) * rng.uniform(0.75, 1.2, count)
    nodes = orbit * np.exp(1j * (turns + rng.uniform(0, 2 * np.pi)))
    nodes -= nodes.mean() * rng.uniform(0.5, 0.9)
    sizes = radius * rng.uniform(*cell.lobe) * rng.uniform(0.85, 1.15, count)
    sizes *= (3 / count) ** cell.crowding
    here = x + 1j * y
    total = np.zeros_like(x)
    for node, size in zip(nodes, sizes, strict=True):
        turned = (here - node) * complex(np.exp(1j * rng.uniform(0, np.pi)))
        stretch = rng.uniform(1.0, 1.2)
        far = np.hypot(turned.real / stretch, turned.imag * stretch) - size
        total += np.exp(-np.maximum(far, -9) / cell.blend_um)
    for start, end in pairwise(nodes):
        along = np.clip(((here - start) / (end - start)).real, 0, 1)
        far = np.abs(here - start - along * (end - start)) - cell.strand * radius
        total += np.exp(-np.maximum(far, -9) / cell.blend_um)
    return np.asarray(-cell.blend_um * np.log(total + 1e-30), dtype=np.float32)


def white_cell(
    rng: _Rng, cell: _Anatomy, radius: float, x: Floats, y: Floats
) -> tuple[Floats, Floats, Floats]:
    """Returns coverage, absorbance (rows, columns, 3) at x, y (um), and the outline (n, 2)."""
    ring = np.linspace(0, 2 * np.pi, 181, dtype=np.float32)
    rim = radius * rim_of(rng, ring, cell.wobble)
    edge = np.interp(np.arctan2(y, x) % (2 * np.pi), ring, rim)
    wall: Floats = np.hypot(x, y) - edge.astype(np.float32)
    grain = cell.grain_um / float(x[0, 1] - x[0, 0])
    coarse, middle, fine, fold = (noise(rng, x.shape, grain * k) for k in (2.5, 1, 0.5, 4))
    cover = covered(wall, 0.45)
    bent = (x + 0.16 * coarse, y + 0.16 * fold)
    deep = np.maximum(_nucleus(rng, cell, radius, *bent), wall + 0.3)
    core = covered(deep, 0.4)[..., None]
    lace = np.abs(middle + 0.5 * fine) - 0.7
    chromatin = 1 + cell.contrast * np.tanh(1.6 * middle + 0.8 * fine) - cell.lacy * lace
    chromatin += 0.08 * fold + 0.12 * covered(deep + 0.4, 0.8) - 0.1
    plasma = 1 + 0.16 * coarse + 0.12 * fine + 0.25 * np.exp(-((wall + 0.5) ** 2))
    full = 1 - covered(0.35 - _specks(rng, x, y, 1.7, cell.vacuoles * rng.random()), 0.5)
    specks = np.clip(1.7 * _specks(rng, x, y, cell.granule_um, 0.96), 0, 1)
    specks = specks * covered(wall + 0.25, 0.5) * (0.9 + 0.1 * fine)
    body = (plasma * (0.25 + 0.75 * full))[..., None] * np.array(cell.cytoplasm)
    grains = specks[..., None] * np.array(cell.granule)
    heart = np.maximum(chromatin, 0.3)[..., None] * np.array(cell.nucleus)
    absorbance = (body + grains) * (1 - 0.85 * core) + heart * core * (0.7 + 0.3 * full[..., None])
    outline = np.stack([rim * np.cos(ring), rim * np.sin(ring)], axis=1)
    return cover, (absorbance * cover[..., None]).astype(np.float32), outline


def _place(rng: _Rng, white: Floats, reach: float, red: float) -> list[Floats]:
    """Returns centres (pixels) of clumped red cells of radius `red`, clear of the white cell."""
    size = np.array([WIDTH + 2 * MARGIN, HEIGHT + 2 * MARGIN])
    clumping, count = rng.uniform(0.1, 0.75), int(rng.integers(34, 76))
    centres: list[Floats] = []
    for _ in range(6 * count):
        spot = rng.uniform(-0.5 * red, size + 0.5 * red)
        if centres and rng.random() < clumping:
            turn, far = rng.uniform(0, 2 * np.pi), red * rng.uniform(1.2, 2.1)
            step = far * np.array([np.cos(turn), np.sin(turn)])
            spot = centres[rng.integers(len(centres))] + step
        on_canvas = (spot > -0.5 * red).all() and (spot < size + 0.5 * red).all()
        apart = np.hypot(*(np.array(centres).reshape(-1, 2) - spot).T) > 1.15 * red
        if on_canvas and apart.all() and np.hypot(*(spot - white)) > reach + 0.8 * red:
            centres.append(spot.astype(np.float32))
        if len(centres) == count:
            break
    return centres


def red_layer(
    rng: _Rng, centres: list[Floats], red: float, limits: tuple[int, int] = CANVAS
) -> Floats:
    """Returns the thickness, about 0 to 1.5, of biconcave red cells over the whole canvas."""
    layer = np.zeros(limits[::-1], dtype=np.float32)
    dimple, edge = rng.uniform(0.2, 0.8), rng.uniform(0.09, 0.18)
    for centre in centres:
        where, x, y = around(centre, 1.75 * red, limits)
        turn, squeeze = rng.uniform(0, 2 * np.pi), (1 + min(0.4, abs(rng.normal(0, 0.16)))) ** 0.5
        size = red * float(np.clip(rng.normal(1, 0.09), 0.78, 1.2))
        sine, cosine = float(np.sin(turn)) / size, float(np.cos(turn)) / size
        x, y = (cosine * x - sine * y) * squeeze, (sine * x + cosine * y) / squeeze
        far = np.hypot(x, y) / rim_of(rng, np.arctan2(y, x), 0.035)
        middle = np.hypot(x - rng.normal(0, 0.1), y - rng.normal(0, 0.1)) / rng.uniform(0.36, 0.6)
        pale = min(max(0.0, rng.normal(dimple, 0.22)), 0.85) * np.exp(-(middle**4))
        brim = 0.14 * np.exp(-(((far - 0.9) / 0.08) ** 2))
        halo = 0.07 * np.exp(-(((far - 1.1) / 0.06) ** 2))
        disc = covered(far - 1, edge) * (0.86 - pale + brim) * rng.uniform(0.85, 1.12) - halo
        under = layer[where]
        layer[where] = np.maximum(under, disc) + 0.25 * np.minimum(under, disc)
    return layer


def _platelet_layer(rng: _Rng, scale: float) -> Floats:
    """Returns the density, 0 to about 1, of platelets over the canvas; `scale` is pixels per um."""
    layer = np.zeros((HEIGHT + 2 * MARGIN, WIDTH + 2 * MARGIN), dtype=np.float32)
    for _ in range(rng.integers(3, 13)):
        centre = rng.uniform(0, [WIDTH + 2 * MARGIN, HEIGHT + 2 * MARGIN]).astype(np.float32)
        size = scale * rng.uniform(0.7, 1.5)
        where, x, y = around(centre, 2 * size)
        far = (np.hypot(x, y) / size / rim_of(rng, np.arctan2(y, x), 0.1)).astype(np.float32)
        grain = 0.7 + 0.22 * noise(rng, x.shape, 0.5 * scale)
        layer[where] = np.maximum(layer[where], covered(far - 0.85, 0.7) * grain)
    return layer


def draw_scene(class_name: str, seed: int | Sequence[int]) -> tuple[Floats, Floats]:
    """Returns the light (0 to 1, with margin) through a smear, and the white cell's outline."""
    rng = seeded_rng(seed, CLASS_NAMES.index(class_name), _SCENE)
    cell, scale = ATLAS[class_name], rng.uniform(5.3, 6.5)
    radius = rng.uniform(*cell.diameter_um) / 2
    reach = (1 + 3.6 * cell.wobble) * radius * scale
    low = np.array([MARGIN + reach + 8, MARGIN + reach + 8])
    white = rng.uniform(low, np.array([WIDTH, HEIGHT]) + 2 * MARGIN - low).astype(np.float32)
    red = red_layer(rng, _place(rng, white, radius * scale, 3.75 * scale), 3.75 * scale)
    specks = _platelet_layer(rng, scale)
    where, x, y = around(white, reach + 6)
    cover, body, outline = white_cell(rng, cell, radius, x / scale, y / scale)
    for layer in (red, specks):
        layer[where] *= 1 - 0.94 * cover
    eosin, azure = rng.uniform(0.75, 1.2), rng.uniform(0.8, 1.15)
    tint = rng.normal(1, 0.07, (2, 3))
    absorbance = red[..., None] * (eosin * tint[0] * HAEMOGLOBIN).astype(np.float32)
    absorbance += specks[..., None] * (azure * tint[1] * AZURE).astype(np.float32)
    absorbance[where] += body * (azure * tint[1]).astype(np.float32)
    absorbance += 0.012 * noise(rng, (red.shape[0], red.shape[1]), 14)[..., None]
    return np.exp(-absorbance), white + np.float32(scale) * outline
