"""Trains the network that finds white cells and measures the scale of pictures.

python scripts/train_finder.py finder.safetensors --kaggle blood-cells.zip --boxes boxes.csv
    --pbc pbc.zip --chula chula.zip [--hold chula] [--steps 3000]

It learns from the original photographs of the Kaggle set (those of TEST are left out) and their
boxes of white cells, from images of PBC, from the boxed photographs of Chula, and from drawn
fields. Each is shown at random scales, in random colours and light. `--hold NAME` leaves a set out,
to measure the finder on a laboratory it has not seen.
"""

import argparse
import csv
import io
import math
import time
import zipfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from bloodcell.data.finder import RED, SIDE, STRIDE, Finder
from bloodcell.data.illumination import find_density
from bloodcell.data.sampling import sample
from bloodcell.datasets.drawn.fields import draw_field

# widths of the fields of view, measured by the sizes of the red cells in each set
FIELDS = {"kaggle": 1.0, "pbc": 0.75, "chula": 2.75}
SHARES = {"kaggle": 0.2, "pbc": 0.25, "chula": 0.3, "drawn": 0.25}
LARGEST = 480  # pixels of the longer side of the pictures in memory
BATCH = 16
UNBOXED = 0.4  # height of the map


class Photo(NamedTuple):
    """A picture (3, H, W) uint8, pixels of a red cell, and centres of its white cells (n, 2)."""

    pixels: Tensor
    red: float
    centres: Tensor


def as_photo(image: Image.Image, field: float, centres: list[tuple[float, float]]) -> Photo:
    longer = max(image.size)
    factor = min(1.0, LARGEST / longer)
    size = (round(image.width * factor), round(image.height * factor))
    pixels = torch.from_numpy(np.array(image.convert("RGB").resize(size, Image.Resampling.BOX)))
    places = torch.tensor(centres).reshape(-1, 2) * factor
    return Photo(pixels.permute(2, 0, 1), factor * longer / field * RED / SIDE, places)


def read_kaggle(archive: Path, boxes: Path) -> list[Photo]:
    from bloodcell.data.source import open_source
    from bloodcell.data.table import build_table

    rows = build_table(open_source(str(archive))).rows
    tested = {int(row.photo) for row in rows if row.official != "train"}
    centres = defaultdict(list)
    with boxes.open(newline="") as file:
        for line in csv.DictReader(file):
            if line["cell"] == "WBC":
                left, top, right, bottom = (
                    int(line[edge]) for edge in ("xmin", "ymin", "xmax", "ymax")
                )
                centres[line["source_image"]].append(((left + right) / 2, (top + bottom) / 2))
    with zipfile.ZipFile(archive) as opened:
        return [
            as_photo(_open(opened, f"dataset-master/dataset-master/JPEGImages/{name}"), 1.0, some)
            for name, some in centres.items()
            if int(name[11:16]) not in tested
        ]


def read_pbc(archive: Path, each: int) -> list[Photo]:
    with zipfile.ZipFile(archive) as opened:
        names = defaultdict(list)
        for name in sorted(opened.namelist()):
            if name.endswith(".jpg"):
                names[name.split("/")[-2]].append(name)
        photos = []
        for kind, some in names.items():
            for name in some[:: len(some) // each][:each]:
                image = _open(opened, name)
                middle = [] if kind == "platelet" else [(image.width / 2, image.height / 2)]
                photos.append(as_photo(image, FIELDS["pbc"], middle))
        return photos


def read_chula(archive: Path) -> list[Photo]:
    with zipfile.ZipFile(archive) as opened:
        centres = defaultdict(list)
        for line in csv.DictReader(io.TextIOWrapper(opened.open("chula/boxes.csv"))):
            left, top, right, bottom = (
                float(line[edge]) for edge in ("xmin", "ymin", "xmax", "ymax")
            )
            centres[line["file"]].append(((left + right) / 2, (top + bottom) / 2))
        return [
            as_photo(_open(opened, f"chula/{name}"), FIELDS["chula"], some)
            for name, some in centres.items()
        ]


def draw(count: int) -> list[Photo]:
    photos = []
    for number in range(count):
        field = 0.4 * 12 ** ((number * 0.618) % 1)  # evenly spread logarithms, 0.4 to 4.8
        drawn = draw_field((99, number), field)
        middles = [((x0 + x1) / 2, (y0 + y1) / 2) for x0, y0, x1, y1 in drawn.boxes]
        photos.append(as_photo(Image.fromarray(drawn.pixels), field, middles))
    return photos


def _open(archive: zipfile.ZipFile, name: str) -> Image.Image:
    return Image.open(io.BytesIO(archive.read(name))).convert("RGB")


def view(photo: Photo, rng: np.random.Generator) -> tuple[Tensor, Tensor, float, Tensor]:
    """A random view: pixels and coverage (C, SIDE, SIDE), pixels of a red cell, centres."""
    pixels, red, centres = photo
    if rng.random() < 0.25:  # mirrored copies beside the picture make a wider field
        pixels, centres = _mirror(pixels, centres)
    if rng.random() < 0.5:
        pixels, centres = (
            pixels.flip(2),
            centres * torch.tensor([-1, 1.0]) + torch.tensor([pixels.shape[2], 0.0]),
        )
    if rng.random() < 0.5:
        pixels, centres = pixels.transpose(1, 2), centres.flip(1)
    height, width = pixels.shape[1:]
    longer = max(height, width)
    whole = red * SIDE / longer  # pixels of a red cell if the picture fills the view
    ways = (whole, whole * 2 ** rng.uniform(-1, 0), whole * 2 ** rng.uniform(0, 1.6))
    shown = ways[rng.integers(3)] if rng.random() < 0.7 else RED * 2 ** rng.uniform(-0.6, 0.6)
    shown = float(np.clip(shown, 3, 100))
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
    return seen[0], inside[0], shown, moved


def _mirror(pixels: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    height, width = pixels.shape[1:]
    wide = torch.cat([pixels, pixels.flip(2)], 2)
    sides = torch.tensor([2.0 * width, 2.0 * height])
    places = torch.cat([centres, centres * torch.tensor([-1, 1.0]) + sides * torch.tensor([1, 0])])
    tall = torch.cat([wide, wide.flip(1)], 1)
    return tall, torch.cat(
        [places, places * torch.tensor([1, -1.0]) + sides * torch.tensor([0, 1])]
    )


def recolour(images: Tensor, inside: Tensor, rng: np.random.Generator) -> Tensor:
    """Changes stain, light, focus and noise of views (B, 3, H, W)."""
    count = len(images)

    def draws(*shape: int, spread: float) -> Tensor:
        return torch.from_numpy(rng.normal(0, spread, (count, *shape)).astype(np.float32))

    density = -((images + 4) / 259).log()
    mixed = torch.eye(3) * draws(3, 1, spread=0.2).exp() + draws(3, 3, spread=0.1)
    grey = torch.from_numpy(rng.random((count, 1, 1)) < 0.06)
    mixed = torch.where(grey, torch.full((3, 3), 1 / 3), mixed)
    density = (mixed @ density.flatten(2)).view_as(density)
    density = density * draws(1, 1, 1, spread=0.3).exp()
    line = torch.linspace(-1, 1, images.shape[3])
    x, y = line[None, :].expand(SIDE, -1), line[:, None].expand(-1, SIDE)
    shapes = torch.stack([x, y, x * y, x**2, y**2]).flatten(1)
    strength = torch.from_numpy(rng.choice([0.02, 0.15, 0.35], (count, 1, 1)).astype(np.float32))
    shade = (draws(1, 5, spread=1) + 0.5 * draws(3, 5, spread=1)) * strength @ shapes
    density = density + shade.view_as(density) + draws(3, 1, 1, spread=0.15)
    images = 259 * (-density).exp() - 4
    for place in range(count):
        sigma = rng.uniform(-0.5, 1.6)
        if sigma > 0.2:
            taps = torch.exp(-0.5 * (torch.arange(-4, 5) / sigma) ** 2)
            taps = (taps / taps.sum())[None, None]
            one = F.pad(images[place][:, None], (4, 4, 4, 4), mode="replicate")
            one = F.conv2d(F.conv2d(one, taps[..., None, :]), taps[..., None])
            images[place] = one[:, 0]
    noise = torch.randn_like(images) * torch.from_numpy(
        rng.uniform(0, 8, (count, 1, 1, 1)).astype(np.float32)
    )
    images = (images + noise).clamp(0, 255) * inside
    for place in range(count):
        if rng.random() < 0.3:
            images[place] = _as_jpeg(images[place], int(rng.integers(35, 95)))
        if rng.random() < 0.1:  # a black corner, as of a rotated copy
            turn, far = rng.uniform(0, 2 * math.pi), rng.uniform(0.7, 1.2)
            images[place] *= (x * math.cos(turn) + y * math.sin(turn) < far).float()
    return images


def _as_jpeg(image: Tensor, quality: int) -> Tensor:
    file = io.BytesIO()
    Image.fromarray(image.byte().permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).float()


def target_of(centres: Tensor, red: float) -> Tensor:
    """The map of centres (1, h, w): a Gaussian with the height 1 for each white cell."""
    size = SIDE // STRIDE
    line = (torch.arange(size) + 0.5) * STRIDE
    spread = max(0.28 * red, 0.6 * STRIDE)
    heat = torch.zeros(size, size)
    for x, y in centres.tolist():
        square = (line[None, :] - x) ** 2 + (line[:, None] - y) ** 2
        heat = torch.maximum(heat, torch.exp(-square / (2 * spread**2)))
    return heat[None]


def loss_of(
    finder: Finder, density: Tensor, target: Tensor, scale: Tensor, certain: Tensor
) -> tuple[Tensor, ...]:
    seen = finder(density)
    heat = seen.heat.clamp(1e-5, 1 - 1e-5)
    # binary cross-entropy with soft targets, weighted by the error as in focal losses
    error = (heat - target).abs() ** 2 * (1 + 2 * target)
    # Chula's boxes leave out some white cells: what looks like one there counts neither way
    likely = (heat.detach() > UNBOXED) & (target < 0.05) & ~certain[:, None, None, None]
    error = error * (~likely).float()
    cross = -(target * heat.log() + (1 - target) * (1 - heat).log())
    mass = target.sum((1, 2, 3)).clamp(min=4)
    found = ((error * cross).sum((1, 2, 3)) / mass).mean()
    slide = F.avg_pool2d(density[:, 3], STRIDE)
    around = F.smooth_l1_loss(
        seen.scales, scale[:, None, None].expand_as(slide), reduction="none", beta=0.1
    )
    sized = F.smooth_l1_loss(seen.scale, scale, beta=0.1)
    return found, sized, (around * slide).sum() / slide.sum()


def train(sets: dict[str, list[Photo]], steps: int, seed: int, rate: float, out: Path) -> None:
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    finder = Finder().train()
    optimizer = torch.optim.AdamW(finder.parameters(), rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.1)
    names = list(sets)
    shares = np.array([SHARES[name] for name in names])
    ema: Any = get_ema_multi_avg_fn  # untyped
    averaged: Any = AveragedModel(finder, multi_avg_fn=ema(0.99), use_buffers=True)
    start, sums = time.perf_counter(), np.zeros(3)
    for step in range(1, steps + 1):
        chosen = rng.choice(len(names), BATCH, p=shares / shares.sum())
        photos = [sets[names[n]][rng.integers(len(sets[names[n]]))] for n in chosen]
        views = [view(photo, rng) for photo in photos]
        inside = torch.stack([one[1] for one in views])
        images = recolour(torch.stack([one[0] for one in views]), inside, rng)
        target = torch.stack([target_of(one[3], one[2]) for one in views])
        scale = torch.tensor([math.log2(one[2] / RED) for one in views])
        certain = torch.tensor([names[n] != "chula" for n in chosen])
        losses = loss_of(finder, find_density(images, inside), target, scale, certain)
        optimizer.zero_grad()
        loss: Any = losses[0] + losses[1] + 0.5 * losses[2]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(finder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        averaged.update_parameters(finder)
        sums += [one.item() for one in losses]
        if step % 100 == 0:
            gone = time.perf_counter() - start
            heat, sized, around = sums / 100
            scales = f"{sized:.3f} ({around:.3f})"
            print(f"{step} heat {heat:.3f} scale {scales} {gone:.0f} s", flush=True)
            write(averaged.module, out)
            sums[:] = 0


def write(finder: Finder, out: Path) -> None:
    state = {
        key: value.half() if value.is_floating_point() else value
        for key, value in finder.state_dict().items()
    }
    save_file(state, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    for name in ("kaggle", "boxes", "pbc", "chula"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--hold", default="")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=4e-3)
    given = parser.parse_args()
    sets: dict[str, Callable[[], list[Photo]]] = {
        "kaggle": lambda: read_kaggle(given.kaggle, given.boxes),
        "pbc": lambda: read_pbc(given.pbc, each=60),
        "chula": lambda: read_chula(given.chula),
        "drawn": lambda: draw(300),
    }
    photos = {name: read() for name, read in sets.items() if name != given.hold}
    print({name: len(some) for name, some in photos.items()}, flush=True)
    train(photos, given.steps, given.seed, given.rate, given.out)
    print(f"{given.out}: {given.out.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
