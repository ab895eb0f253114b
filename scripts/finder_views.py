"""Shows pictures as other laboratories would: other scales, stains, light, lenses and cameras."""

from __future__ import annotations

import io
import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bloodcell.data.finder import RED, SIDE
from bloodcell.data.sampling import sample

Rng = np.random.Generator


class Photo(NamedTuple):
    """A picture (3, H, W) uint8, pixels of a red cell, and centres of its white cells (n, 2)."""

    pixels: Tensor
    red: float
    centres: Tensor


class View(NamedTuple):
    """A square part of a picture, SIDE pixels wide.

    Attributes:
        pixels: (3, SIDE, SIDE), 0 to 255.
        inside: (1, SIDE, SIDE), 1 in the picture, 0 outside.
        red: pixels of a red cell.
        centres: (n, 2), of the white cells.
    """

    pixels: Tensor
    inside: Tensor
    red: float
    centres: Tensor


def view(photo: Photo, rng: Rng) -> View:
    """Shows a random part of a picture, turned and at a random scale."""
    pixels, red, centres = photo
    if rng.random() < 0.5:
        pixels, width = pixels.flip(2), float(pixels.shape[2])
        centres = centres * torch.tensor([-1, 1.0]) + torch.tensor([width, 0.0])
    if rng.random() < 0.5:
        pixels, centres = pixels.transpose(1, 2), centres.flip(1)
    height, width = pixels.shape[1:]
    whole = red * SIDE / max(height, width)  # pixels of a red cell if the picture fills the view
    ways = (whole, whole * 2 ** rng.uniform(-0.7, 1.6), RED * 2 ** rng.uniform(-0.7, 0.7))
    shown = ways[rng.choice(3, p=(0.35, 0.25, 0.4))]
    shown = float(np.clip(shown, 4, 100))
    side = SIDE * red / shown  # pixels of the picture across the view
    centre = [
        length / 2 + rng.uniform(-0.5, 0.5) * abs(length - side) for length in (width, height)
    ]
    if len(centres) and rng.random() < 0.3:  # around a white cell
        centre = (centres[rng.integers(len(centres))] + rng.normal(0, 0.1 * side)).tolist()
    low = [max(0, int(c - side / 2 - red / 4)) for c in centre]
    high = [
        min(n, int(c + side / 2 + red / 4) + 1)
        for c, n in zip(centre, (width, height), strict=True)
    ]
    part = pixels[:, low[1] : high[1], low[0] : high[0]].float()
    at = torch.tensor([[centre[0] - low[0], centre[1] - low[1]]])
    seen, inside = sample(part[None], at, torch.tensor([[side]]), SIDE, SIDE)
    moved = (centres - torch.tensor(centre)) / side * SIDE + SIDE / 2
    return View(seen[0], inside[0], shown, moved)


class _Draws:
    """Random numbers for a batch of `count` pictures."""

    def __init__(self, rng: Rng, count: int) -> None:
        self.rng, self.count = rng, count

    def normal(self, *shape: int, spread: float) -> Tensor:
        return torch.from_numpy(self.rng.normal(0, spread, (self.count, *shape)).astype(np.float32))

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return torch.from_numpy(
            self.rng.uniform(low, high, (self.count, *shape)).astype(np.float32)
        )

    def one_of(self, *values: float) -> Tensor:
        chosen = self.rng.choice(values, (self.count, 1, 1, 1)).astype(np.float32)
        return torch.from_numpy(chosen)


def photograph(images: Tensor, inside: Tensor, rng: Rng) -> Tensor:
    """Changes stain, light, lens and camera of views.

    Args:
        images: (B, 3, SIDE, SIDE), 0 to 255.
        inside: (B, 1, SIDE, SIDE), 1 in the picture, 0 outside.
        rng: source of all random numbers.

    Returns:
        (B, 3, SIDE, SIDE), 0 to 255, 0 outside of the picture.
    """
    draws = _Draws(rng, len(images))
    mean = (images * inside).sum((2, 3), keepdim=True) / inside.sum((2, 3), keepdim=True).clamp(1)
    images = images * inside + mean * (1 - inside)
    density = _restain(-((images + 4) / 259).log(), draws)
    density = _refract(density, draws)
    density = density + _shade(draws) + draws.uniform(-0.3, 0.8, 1, 1, 1)
    images = 259 * (-density - draws.normal(3, 1, 1, spread=0.2)).exp() - 4
    images = _focus(images, draws)
    veil = draws.one_of(0.0, 0.0, 0.15, 0.4) * draws.uniform(0, 1, 1, 1, 1)
    images = images * (1 - veil) + veil * draws.uniform(80, 220, 3, 1, 1)
    images = images * _aperture(draws)
    grain = torch.randn_like(images) * draws.uniform(0, 7, 1, 1, 1)
    images = (images + grain).clamp(0, 255) * inside
    for place in range(len(images)):
        if rng.random() < 0.3:
            images[place] = _as_jpeg(images[place], int(rng.integers(35, 95)))
    return images


def _restain(density: Tensor, draws: _Draws) -> Tensor:
    """Mixes the densities of the colours, as another dye or camera does; some are grey."""
    mixed = torch.eye(3) * draws.normal(3, 1, spread=0.2).exp() + draws.normal(3, 3, spread=0.1)
    grey = draws.uniform(0, 1, 1, 1) < 0.06
    mixed = torch.where(grey, torch.full((3, 3), 1 / 3), mixed)
    mixed = mixed * draws.uniform(-1.0, 0.5, 1, 1).exp()
    return (mixed @ density.flatten(2)).view_as(density)


def _refract(density: Tensor, draws: _Draws) -> Tensor:
    """Adds bright and dark rims, in other colours for a lens with colour errors.

    Cells are lenses: out of focus they brighten or darken their centres and rims. The thickness
    of the cells is not known, so the density stands for it, limited so that nuclei count like
    red cells.
    """
    thick = (4 * density.mean(1, keepdim=True)).tanh() / 4
    blurred = [thick, *(_blur(thick, sigma) for sigma in (0.8, 1.5, 3.0, 5.0))]
    bands = torch.cat([a - b for a, b in pairwise(blurred)], 1)
    common, own = draws.normal(1, 4, spread=1), draws.normal(3, 4, spread=0.6)
    weights = (common + own) * draws.one_of(0.0, 0.5, 1.5, 4.0)[..., 0]
    rims = (weights @ bands.flatten(2)).view_as(density)
    moved = density + rims.clamp(-0.5, 0.7)
    return _shift_colours(moved, draws)


def _shift_colours(density: Tensor, draws: _Draws) -> Tensor:
    """Shows red and blue at other magnifications and places, as a lens with colour errors."""
    size = SIDE * (1 + draws.one_of(0.0, 0.0, 1.0)[..., 0, 0] * draws.normal(1, spread=0.012))
    shift = draws.one_of(0.0, 0.0, 1.0)[..., 0, 0] * draws.normal(2, spread=0.4)
    red, _ = sample(density[:, :1], SIDE / 2 + shift, size, SIDE, SIDE)
    blue, _ = sample(density[:, 2:], SIDE / 2 - shift, 2 * SIDE - size, SIDE, SIDE)
    return torch.cat([red, density[:, 1:2], blue], 1)


def _shade(draws: _Draws) -> Tensor:
    """Returns the density (B, 3, SIDE, SIDE) of uneven, coloured light."""
    coarse = draws.normal(1, 3, 3, spread=0.7) + draws.normal(3, 3, 3, spread=0.4)
    line = torch.linspace(0, 1, SIDE)
    smooth = torch.stack([(1 - line) ** 2, 2 * line * (1 - line), line**2], 1)
    return (smooth @ coarse @ smooth.T) * draws.one_of(0.02, 0.1, 0.25, 0.5)


def _focus(images: Tensor, draws: _Draws) -> Tensor:
    """Blurs or sharpens."""
    near, far = _blur(images, 0.8), _blur(images, 1.6)
    blur = draws.uniform(-0.8, 2, 1, 1, 1)
    first, second = blur.clamp(max=1), (blur - 1).clamp(0, 1)
    return images + first * (near - images) + second * (far - near)


def _blur(images: Tensor, sigma: float) -> Tensor:
    """Blurs with a Gaussian, as products of matrices, which is faster than a convolution."""
    line = torch.arange(SIDE)
    weights = (-0.5 * ((line[:, None] - line) / sigma) ** 2).exp()
    weights = torch.where(weights > 1e-4, weights, 0)  # without numbers that are slow
    weights = weights / weights.sum(1, keepdim=True)
    return weights @ images @ weights.T


def _aperture(draws: _Draws) -> Tensor:
    """Returns the light (B, 1, SIDE, SIDE), 0 to 1, of a round aperture or past a black edge."""
    line = torch.linspace(-1, 1, SIDE)
    x, y = line[None, None, None, :], line[None, None, :, None]
    middle_x, middle_y = torch.split(draws.normal(2, 1, 1, spread=0.3), 1, 1)
    far = ((x - middle_x) ** 2 + (y - middle_y) ** 2).sqrt()
    turn = draws.uniform(0, 2 * math.pi, 1, 1, 1)
    beside = x * turn.cos() + y * turn.sin()
    kind = draws.uniform(0, 1, 1, 1, 1)
    reach, edge = draws.uniform(0.7, 1.2, 1, 1, 1), draws.uniform(0.01, 0.2, 1, 1, 1)
    far = torch.where(kind < 0.1, far, torch.where(kind < 0.2, beside, torch.zeros_like(far)))
    dark = draws.uniform(0, 0.15, 1, 1, 1)
    return dark + (1 - dark) * ((reach + edge - far) / edge).clamp(0, 1)


def _as_jpeg(image: Tensor, quality: int) -> Tensor:
    file = io.BytesIO()
    Image.fromarray(image.byte().permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).float()
