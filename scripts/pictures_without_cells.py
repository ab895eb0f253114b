"""Makes pictures that show no cell, of kinds that `fit` does not draw, and counts the unlike ones.

python scripts/pictures_without_cells.py pictures
bloodcell predict pictures --out pictures.csv
python scripts/pictures_without_cells.py --count pictures.csv

The photographs are parts of those that come with scikit-learn and matplotlib, the icons those of
matplotlib's windows.
"""

import io
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import matplotlib as mpl
import numpy as np
from arguments import existing, make_parser, read_rows
from matplotlib.figure import Figure
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage
from sklearn.datasets import load_sample_images

SIDE = 256  # pixels
EACH = 60  # pictures of a kind
_ICONS = ("home", "back", "forward", "move", "zoom_to_rect", "filesave", "help", "subplots")
_FORMULAS = (
    r"$\int_0^1 x^2 dx$",
    r"$e^{i\pi}=-1$",
    r"$\sum_n n^{-2}$",
    r"$\sqrt{a+b}$",
    r"$\nabla u$",
)


def _colour(rng: Generator) -> tuple[int, ...]:
    return tuple(rng.integers(0, 256, 3).tolist())


def _mixed(rng: Generator, share: NDArray[np.float64]) -> Image.Image:
    """Mixes two colours by a share (SIDE, SIDE), 0 to 1."""
    first, second = np.array(_colour(rng), float), np.array(_colour(rng), float)
    mixed = first + (second - first) * share.clip(0, 1)[..., None]
    return Image.fromarray(mixed.astype(np.uint8))


def _radius(rng: Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns distance and angle of each pixel from a random point near the middle."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE - rng.uniform(0.3, 0.7, (2, 1, 1))
    return np.hypot(x, y), np.arctan2(y, x)


def discs(rng: Generator) -> Image.Image:
    """Draws purple discs on a pale ground."""
    image = Image.new("RGB", (SIDE, SIDE), tuple(rng.integers(220, 256, 3).tolist()))
    for _ in range(rng.integers(1, 6)):
        x, y, r = *rng.uniform(0, SIDE, 2), rng.uniform(0.05, 0.35) * SIDE
        purple = (
            int(rng.integers(80, 180)),
            int(rng.integers(20, 120)),
            int(rng.integers(110, 210)),
        )
        ImageDraw.Draw(image).ellipse((x - r, y - r, x + r, y + r), fill=purple)
    return image


def fractals(rng: Generator) -> Image.Image:
    """Draws a part of a Julia set."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE * rng.uniform(0.5, 3) - 1
    z, c = x + 1j * y, rng.choice([-0.8 + 0.156j, 0.285 + 0.01j, -0.4 + 0.6j, -0.7 - 0.3j])
    steps = np.zeros((SIDE, SIDE))
    for _ in range(40):
        inside = np.abs(z) < 2
        z = np.where(inside, z * z + c, z)
        steps += inside
    return _mixed(rng, steps / 40)


def _drawn(figure: Figure) -> Image.Image:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return Image.open(file).convert("RGB").resize((SIDE, SIDE))


def charts(rng: Generator) -> Image.Image:
    """Draws lines, bars, points or a pie."""
    figure = Figure(figsize=(3, 3))
    axes, kind = figure.subplots(), rng.integers(4)
    if kind == 0:
        axes.plot(rng.normal(0, 1, (30, int(rng.integers(1, 5)))).cumsum(0))
    elif kind == 1:
        axes.bar(range(6), rng.uniform(0, 1, 6), color=rng.uniform(0, 1, 3))
    elif kind == 2:
        x, y = rng.normal(0, 1, (2, 40))
        axes.scatter(x, y, s=rng.uniform(5, 200, 40), color=rng.uniform(0, 1, 3))
    else:
        axes.pie(rng.uniform(0.1, 1, int(rng.integers(2, 7))))
    return _drawn(figure)


def formulas(rng: Generator) -> Image.Image:
    """Draws a formula."""
    figure = Figure(figsize=(2, 2), facecolor=str(rng.uniform(0.7, 1)))
    figure.text(0.05, rng.uniform(0.2, 0.7), rng.choice(_FORMULAS), size=rng.uniform(15, 40))
    return _drawn(figure)


def maps(rng: Generator) -> Image.Image:
    """Draws the contours of a smooth surface."""
    figure = Figure(figsize=(3, 3))
    axes = figure.add_axes((0, 0, 1, 1))
    names = ["terrain", "viridis", "Greys", "Purples", "RdPu"]
    surface = ndimage.gaussian_filter(rng.normal(0, 1, (60, 60)), rng.uniform(3, 8), mode="wrap")
    axes.contourf(surface, cmap=str(rng.choice(names)), levels=int(rng.integers(4, 12)))
    return _drawn(figure)


@cache
def _photographs() -> list[Image.Image]:
    hopper = Path(mpl.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    found = [Image.fromarray(one) for one in load_sample_images().images]
    return [*found, Image.open(hopper).convert("RGB")]


def photographs(rng: Generator) -> Image.Image:
    """Returns a part of a photograph of a temple, a flower or a woman."""
    image = _photographs()[rng.integers(len(_photographs()))]
    side = int(rng.uniform(0.3, 1) * min(image.size))
    x, y = (int(rng.integers(0, length - side + 1)) for length in image.size)
    return image.crop((x, y, x + side, y + side)).resize((SIDE, SIDE))


def icons(rng: Generator) -> Image.Image:
    """Returns an icon on a plain ground."""
    file = Path(mpl.get_data_path()) / "images" / f"{rng.choice(_ICONS)}_large.png"
    icon = Image.open(file).convert("RGBA").resize((SIDE, SIDE)).rotate(rng.uniform(-20, 20))
    ground = Image.new("RGBA", (SIDE, SIDE), (*_colour(rng), 255))
    return Image.alpha_composite(ground, icon).convert("RGB")


def blocks(rng: Generator) -> Image.Image:
    """Draws a grid of squares in two colours, like a matrix code."""
    n = int(rng.integers(6, 40))
    grid = rng.integers(0, 2, (n, n)).astype(np.uint8) * 255
    return _mixed(rng, np.asarray(Image.fromarray(grid).resize((SIDE, SIDE), 0)) / 255)


def rings(rng: Generator) -> Image.Image:
    """Draws rings or a spiral."""
    radius, angle = _radius(rng)
    phase = radius * rng.uniform(10, 80) + angle * rng.integers(0, 5)
    return _mixed(rng, 0.5 + 0.5 * np.sin(phase) * rng.uniform(0.5, 3))


def wood(rng: Generator) -> Image.Image:
    """Draws grain that runs in one direction."""
    noise = ndimage.gaussian_filter(rng.normal(0, 1, (SIDE, SIDE)), (rng.uniform(1, 4), 40))
    return _mixed(rng, 0.5 + noise / noise.std() / 4)


def balls(rng: Generator) -> Image.Image:
    """Draws shaded balls on a plain ground."""
    image = np.tile(np.array(_colour(rng), float), (SIDE, SIDE, 1))
    for _ in range(rng.integers(1, 5)):
        radius, angle = _radius(rng)
        size = rng.uniform(0.08, 0.3)
        light = (1 - radius / size * np.cos(angle - rng.uniform(-3, 3))).clip(0.2, 1.8)
        shaded = (np.array(_colour(rng), float) * light[..., None]).clip(0, 255)
        image = np.where((radius < size)[..., None], shaded, image)
    return Image.fromarray(image.astype(np.uint8))


def skies(rng: Generator) -> Image.Image:
    """Draws stars on a dark ground."""
    stars = np.where(rng.random((SIDE, SIDE)) > rng.uniform(0.99, 0.999), 255.0, 0)
    bright = ndimage.gaussian_filter(stars, rng.uniform(0.6, 2)) * 8
    ground = rng.uniform(0, 40, 3)
    return Image.fromarray((ground + bright[..., None]).clip(0, 255).astype(np.uint8))


KINDS: tuple[Callable[[Generator], Image.Image], ...] = (
    *(discs, fractals, charts, formulas, maps, photographs),
    *(icons, blocks, rings, wood, balls, skies),
)


def write(folder: Path) -> None:
    for number, kind in enumerate(KINDS):
        place = folder / kind.__name__
        place.mkdir(parents=True, exist_ok=True)
        for one in range(EACH):
            kind(np.random.default_rng([number, one])).save(place / f"{one:02}.png")
    print(f"{folder}: {EACH} pictures of each of {len(KINDS)} kinds")


def count(table: Path) -> None:
    rows = read_rows(table, "file", "unlike")
    lines = [(Path(row["file"]).parent.name, row["unlike"]) for row in rows]
    of, found = Counter(kind for kind, _ in lines), Counter(k for k, far in lines if far == "True")
    for kind in sorted(of):
        print(f"{kind:12} {found[kind] / of[kind]:.2f} of {of[kind]}")
    print(f"{'all':12} {found.total() / of.total():.3f} of {of.total()} are called unlike")


if __name__ == "__main__":
    parser = make_parser(__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("folder", nargs="?", type=Path, help="folder for the pictures")
    what.add_argument("--count", type=existing, help="table of predict")
    given = parser.parse_args()
    write(given.folder) if given.folder else count(given.count)
