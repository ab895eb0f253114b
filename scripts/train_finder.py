"""Trains the network that finds white cells and measures the scale of pictures.

python scripts/train_finder.py finder.safetensors --kaggle blood-cells.zip --boxes boxes.csv
    --pbc pbc.zip --chula chula.zip [--hold chula] [--steps 4000] [--prepared FILE]

It learns from the original photographs of the Kaggle set (those of TEST are left out) and their
boxes of white cells, from images of PBC, from the boxed photographs of Chula, from fields composed
of cells of PBC and of the Kaggle set, and from drawn fields. Each is shown at random scales, in
random stain and light, through random lenses. `--hold NAME` leaves a laboratory out, to measure
the finder on pictures it has not seen. `--start` goes on from a trained network. `--prepared`
keeps the decoded and composed pictures in a file for the next training.
"""

import argparse
import csv
import io
import math
import time
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from compose_fields import collect, compose
from finder_views import Photo, View, photograph, view
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from bloodcell.data.finder import RED, SIDE, STRIDE, Finder, Seen
from bloodcell.data.illumination import find_density
from bloodcell.datasets.drawn.fields import draw_field

# widths of the fields of view, measured by the sizes of the red cells in each set
FIELDS = {"kaggle": 1.0, "pbc": 0.75, "chula": 2.75}
SHARES = {
    "kaggle": 0.15,
    "pbc": 0.15,
    "chula": 0.25,
    "drawn": 0.15,
    "composed of pbc": 0.2,
    "composed of kaggle": 0.1,
}
COMPOSED = {"pbc": 240, "kaggle": 160}  # fields; with the platelets of PBC
LARGEST = 480  # pixels of the longer side of the pictures in memory
BATCH = 24
UNBOXED = 0.4  # height of the map


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


def compose_all(sets: dict[str, list[Photo]]) -> dict[str, list[Photo]]:
    """Composes fields of the cells of each laboratory whose cells can be cut out."""
    sprites = {
        name: collect(
            (
                one.pixels.permute(1, 2, 0).numpy(),
                one.red,
                [(x, y) for x, y in one.centres.tolist()],
            )
            for one in sets[name]
        )
        for name in COMPOSED
    }
    composed = {}
    for name, count in COMPOSED.items():
        cells = {**sprites[name], "platelet": sprites["pbc"]["platelet"]}
        fields = [compose(np.random.default_rng((n, len(name))), cells) for n in range(count)]
        composed[f"composed of {name}"] = [
            Photo(
                torch.from_numpy(field.pixels).permute(2, 0, 1).contiguous(),
                field.red,
                torch.tensor(field.centres).reshape(-1, 2),
            )
            for field in fields
        ]
    return composed


def _open(archive: zipfile.ZipFile, name: str) -> Image.Image:
    return Image.open(io.BytesIO(archive.read(name))).convert("RGB")


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


class Batch(NamedTuple):
    """Input (B, 4, SIDE, SIDE), map of centres (B, 1, h, w), scale (B,), whether boxes are full."""

    density: Tensor
    target: Tensor
    scale: Tensor
    certain: Tensor


def loss_of(finder: Finder, batch: Batch) -> tuple[Tensor, ...]:
    density, target, scale, certain = batch
    pixels = density.contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        seen = Seen(*(one.float() for one in finder(pixels)))
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


def make_batch(sets: dict[str, list[Photo]], rng: np.random.Generator) -> Batch:
    names = list(sets)
    shares = np.array([SHARES[name] for name in names])
    chosen = [names[n] for n in rng.choice(len(names), BATCH, p=shares / shares.sum())]
    views = [view(sets[name][rng.integers(len(sets[name]))], rng) for name in chosen]
    inside = torch.stack([one.inside for one in views])
    images = photograph(torch.stack([one.pixels for one in views]), inside, rng)
    density = find_density(images, inside)
    target = torch.stack(
        [
            target_of(visible(one, slide), one.red)
            for one, slide in zip(views, density[:, 3], strict=True)
        ]
    )
    scale = torch.tensor([math.log2(one.red / RED) for one in views])
    return Batch(density, target, scale, torch.tensor([name != "chula" for name in chosen]))


def visible(one: View, slide: Tensor) -> Tensor:
    """Returns the centres outside of black borders."""
    column, row = one.centres.round().long().clamp(0, SIDE - 1).unbind(1)
    beyond = ((one.centres < 0) | (one.centres >= SIDE)).any(1)
    return one.centres[beyond | (slide[row, column] > 0)]


def train(
    finder: Finder, sets: dict[str, list[Photo]], steps: int, seed: int, rate: float, out: Path
) -> None:
    rng = np.random.default_rng(seed)
    finder = finder.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(finder.parameters(), rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.1)
    ema: Any = get_ema_multi_avg_fn  # untyped
    averaged: Any = AveragedModel(finder, multi_avg_fn=ema(0.99), use_buffers=True)
    start, sums = time.process_time(), np.zeros(3)
    for step in range(1, steps + 1):
        losses = loss_of(finder, make_batch(sets, rng))
        optimizer.zero_grad()
        loss: Any = losses[0] + losses[1] + 0.5 * losses[2]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(finder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        averaged.update_parameters(finder)
        sums += [one.item() for one in losses]
        if step % 100 == 0:
            gone = time.process_time() - start
            heat, sized, around = sums / 100
            scales = f"{sized:.3f} ({around:.3f})"
            print(f"{step} heat {heat:.3f} scale {scales} {gone:.0f} s", flush=True)
            write(averaged.module, out)
            sums[:] = 0


def write(finder: Finder, out: Path) -> None:
    state = {
        key: value.half().contiguous() if value.is_floating_point() else value
        for key, value in finder.state_dict().items()
    }
    save_file(state, out)


def read_all(given: argparse.Namespace) -> dict[str, list[Photo]]:
    """Reads and composes the pictures of all sets, or takes them from the file of before."""
    if given.prepared and given.prepared.is_file():
        kept = torch.load(given.prepared)
        return {name: [Photo(*one) for one in some] for name, some in kept.items()}
    sets = {
        "kaggle": read_kaggle(given.kaggle, given.boxes),
        "pbc": read_pbc(given.pbc, each=60),
        "chula": read_chula(given.chula),
        "drawn": draw(240),
    }
    sets |= compose_all(sets)
    if given.prepared:
        torch.save(
            {name: [tuple(one) for one in some] for name, some in sets.items()}, given.prepared
        )
    return sets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    for name in ("kaggle", "boxes", "pbc", "chula"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--hold", nargs="*", default=[])
    parser.add_argument("--prepared", type=Path)
    parser.add_argument("--start", type=Path)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=4e-3)
    given = parser.parse_args()
    sets = read_all(given)
    sets = {name: some for name, some in sets.items() if name.split()[-1] not in given.hold}
    print({name: len(some) for name, some in sets.items()}, flush=True)
    torch.manual_seed(given.seed)
    finder = Finder()
    if given.start:
        finder.load_state_dict({k: v.float() for k, v in load_file(given.start).items()})
    train(finder, sets, given.steps, given.seed, given.rate, given.out)
    print(f"{given.out}: {given.out.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
