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

import math
import time
from collections import deque
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from arguments import count, existing, make_parser, short_errors, writable
from finder_sets import read_all
from finder_views import Photo, View, photograph, view
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from bloodcell.data.finder import RED, SIDE, STRIDE, Finder, Seen
from bloodcell.data.illumination import find_density

SHARES = {
    "kaggle": 0.15,
    "pbc": 0.1,
    "chula": 0.2,
    "drawn": 0.15,
    "composed of pbc": 0.25,
    "composed of kaggle": 0.15,
}
LABORATORIES = ("kaggle", "pbc", "chula")
BATCH = 24
FRESH = 8  # new views a step
KEPT = 480  # latest views, from which batches are drawn
UNBOXED = 0.4  # height of the map


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


class Example(NamedTuple):
    """Input (4, SIDE, SIDE), map of centres (1, h, w), scale (), whether all cells are boxed ()."""

    density: Tensor
    target: Tensor
    scale: Tensor
    certain: Tensor


def loss_of(finder: Finder, batch: Example) -> tuple[Tensor, ...]:
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


def make_examples(sets: dict[str, list[Photo]], rng: np.random.Generator) -> list[Example]:
    names = list(sets)
    shares = np.array([SHARES[name] for name in names])
    chosen = [names[n] for n in rng.choice(len(names), FRESH, p=shares / shares.sum())]
    views = [view(sets[name][rng.integers(len(sets[name]))], rng) for name in chosen]
    inside = torch.stack([one.inside for one in views])
    images = photograph(torch.stack([one.pixels for one in views]), inside, rng)
    return [
        Example(
            density,
            target_of(visible(one, density[3]), one.red),
            torch.tensor(math.log2(one.red / RED)),
            torch.tensor(name != "chula"),
        )
        for name, one, density in zip(chosen, views, find_density(images, inside), strict=True)
    ]


def turn(example: Example, rng: np.random.Generator) -> Example:
    """Turns and mirrors an example, and stains it more or less strongly."""
    density, target = example.density.clone(), example.target
    density[:3] *= float(np.exp(rng.normal(0, 0.15)))
    turns, mirrored = int(rng.integers(4)), rng.random() < 0.5
    density, target = (one.rot90(turns, (1, 2)) for one in (density, target))
    if mirrored:
        density, target = density.flip(2), target.flip(2)
    return example._replace(density=density, target=target)


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
    latest: deque[Example] = deque(maxlen=KEPT)
    while len(latest) < 4 * BATCH:
        latest.extend(make_examples(sets, rng))
    for step in range(1, steps + 1):
        latest.extend(make_examples(sets, rng))
        drawn = [turn(latest[n], rng) for n in rng.choice(len(latest), BATCH, replace=False)]
        losses = loss_of(finder, Example(*(torch.stack(some) for some in zip(*drawn, strict=True))))
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
            write(averaged.module, out)  # in case it is stopped
            sums[:] = 0
    write(averaged.module, out)


def shown_in(name: str) -> set[str]:
    """Returns the laboratories whose cells a set shows; composed fields have platelets of PBC."""
    return {name.split()[-1], *(["pbc"] if name.startswith("composed") else [])}


def write(finder: Finder, out: Path) -> None:
    state = {
        key: value.half().contiguous() if value.is_floating_point() else value
        for key, value in finder.state_dict().items()
    }
    save_file(state, out)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("out", type=writable, help="a .safetensors file")
    for name in LABORATORIES:
        parser.add_argument(f"--{name}", type=existing, required=True, help="its .zip")
    text = "table of the boxes of the Kaggle photographs"
    parser.add_argument("--boxes", type=existing, required=True, help=text)
    parser.add_argument(
        "--hold", nargs="*", default=[], choices=LABORATORIES, help="laboratories to leave out"
    )
    parser.add_argument("--prepared", type=writable, help="keeps the prepared pictures")
    parser.add_argument("--start", type=existing, help="weights to start from")
    parser.add_argument("--steps", type=count, default=4000, help="default: 4000")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--rate", type=float, default=4e-3, help="largest learning rate")
    given = parser.parse_args()
    if given.prepared and given.prepared.is_file():
        sets = {
            name: [Photo(*one) for one in some] for name, some in torch.load(given.prepared).items()
        }
    else:
        with short_errors():
            sets = read_all(given.kaggle, given.boxes, given.pbc, given.chula)
        if given.prepared:
            torch.save(
                {name: [tuple(one) for one in some] for name, some in sets.items()}, given.prepared
            )
    sets = {name: some for name, some in sets.items() if not shown_in(name) & {*given.hold}}
    print({name: len(some) for name, some in sets.items()}, flush=True)
    torch.manual_seed(given.seed)
    finder = Finder()
    if given.start:
        finder.load_state_dict({k: v.float() for k, v in load_file(given.start).items()})
    train(finder, sets, given.steps, given.seed, given.rate, given.out)
    print(f"{given.out}: {given.out.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
