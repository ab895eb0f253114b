"""Measures the finder: white cells against boxes, and the field of view against its true width.

python scripts/measure_finder.py blood-cells.zip boxes.csv pbc.zip chula.zip [finder.safetensors]

Nothing is set by hand: `field: auto`. A cell is found if the centre of a found cell lies in its
box; a found cell in no box counts against the precision; further cells in one box are counted as
found twice. Photographs of TEST are not trained on.
"""

from __future__ import annotations

import csv
import io
import math
import time
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from arguments import existing, make_parser, read_rows, short_errors
from PIL import Image
from safetensors.torch import load_file

from bloodcell.data.finder import Finder, load_finder
from bloodcell.data.source import open_source
from bloodcell.data.table import build_table
from bloodcell.datasets.drawn.fields import draw_field

PBC_EACH, DRAWN = 25, 100  # images measured
WIDTHS = {"Kaggle": 1.0, "PBC": 0.75, "Chula": 2.75}  # by the size of red cells
Box = tuple[float, float, float, float]


class Picture(NamedTuple):
    """A picture with its true field of view and the boxes of its white cells, if known."""

    image: Image.Image
    field: float
    boxes: list[Box] | None


def read_boxes(lines: Iterable[dict[str, str]], key: str) -> dict[str, list[Box]]:
    boxes: dict[str, list[Box]] = defaultdict(list)
    for line in lines:
        if line.get("cell", "WBC") == "WBC":
            left, top, right, bottom = (
                float(line[edge]) for edge in ("xmin", "ymin", "xmax", "ymax")
            )
            boxes[line[key]].append((left, top, right, bottom))
    return boxes


def kaggle(archive: Path, boxes: Path, part: str) -> Iterator[Picture]:
    rows = build_table(open_source(str(archive))).rows
    tested = {int(row.photo) for row in rows if row.official != "train"}
    edges = ("xmin", "ymin", "xmax", "ymax")
    around = read_boxes(read_rows(boxes, "source_image", *edges), "source_image")
    with zipfile.ZipFile(archive) as opened:
        for name, some in around.items():
            if (int(name[11:16]) in tested) == (part == "test"):
                data = opened.read(f"dataset-master/dataset-master/JPEGImages/{name}")
                yield Picture(_open(data), WIDTHS["Kaggle"], some)


def chula(archive: Path) -> Iterator[Picture]:
    with zipfile.ZipFile(archive) as opened:
        lines = csv.DictReader(io.TextIOWrapper(opened.open("chula/boxes.csv")))
        for name, some in read_boxes(lines, "file").items():
            yield Picture(_open(opened.read(f"chula/{name}")), WIDTHS["Chula"], some)


def pbc(archive: Path) -> Iterator[Picture]:
    """Images that were not trained on, and their middles: each shows a cell there."""
    with zipfile.ZipFile(archive) as opened:
        names = defaultdict(list)
        for name in sorted(opened.namelist()):
            if name.endswith(".jpg"):
                names[name.split("/")[-2]].append(name)
        for some in names.values():
            for name in some[7 :: max(1, len(some) // PBC_EACH)][:PBC_EACH]:
                image = _open(opened.read(name))
                width, height = image.size
                box = (0.35 * width, 0.35 * height, 0.65 * width, 0.65 * height)
                yield Picture(image, WIDTHS["PBC"], [] if "platelet" in name else [box])


def drawn() -> Iterator[Picture]:
    for number in range(DRAWN):
        field = 0.5 * 8 ** ((number * 0.618) % 1)  # evenly spread logarithms, 0.5 to 4
        one = draw_field((7, number), field)
        yield Picture(Image.fromarray(one.pixels), field, one.boxes)


def _open(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def as_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float()


def _inside(point: tuple[float, float], box: Box) -> bool:
    return box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3]


def measure(name: str, pictures: Iterator[Picture], finder: Finder) -> None:
    ratios, first = [], []
    hits = boxed = extra = twice = 0
    start, n = time.perf_counter(), 0
    for n, (image, field, boxes) in enumerate(pictures, 1):  # noqa: B007
        pixels = as_tensor(image)
        place, _ = finder.locate(pixels[None])
        width = finder.measure_field(pixels)
        ratios.append(math.log2(width / field))
        if boxes is None:
            continue
        cells = finder.find(pixels, width)
        hit = {b for b in boxes for c in cells if _inside(c, b)}
        hits, boxed = hits + len(hit), boxed + len(boxes)
        outside = sum(all(not _inside(c, b) for b in boxes) for c in cells)
        extra, twice = extra + outside, twice + len(cells) - outside - len(hit)
        if boxes:
            x, y = place[0].tolist()
            first.append(any(_inside((x, y), b) for b in boxes))
    seconds = time.perf_counter() - start
    off = np.array(ratios)
    within = np.mean(np.abs(off) <= math.log2(1.2))
    print(
        f"{name:18} {n:4} pictures, field {2 ** np.median(off):.2f} of the true one (median), "
        f"within 20 %: {within:.3f}, worst {2 ** off.min():.2f} to {2 ** off.max():.2f}; "
        f"recall {hits}/{boxed} = {hits / max(1, boxed):.3f}, precision {hits}/{hits + extra} = "
        f"{hits / max(1, hits + extra):.3f}, found twice {twice}, "
        f"most prominent in a box {np.mean(first):.3f}, {1e3 * seconds / n:.0f} ms each",
        flush=True,
    )


def measure_scales(name: str, pictures: Iterator[Picture], finder: Finder) -> None:
    """How much the estimate of a picture changes against the true change of its size."""
    changes: dict[str, list[float]] = defaultdict(list)
    for image, _, _ in pictures:
        before = finder.measure_field(as_tensor(image))
        width, height = image.size
        for factor in (0.5, 0.71, 1.41, 2.0):  # resized: the field stays
            size = (round(width * factor), round(height * factor))
            after = finder.measure_field(as_tensor(image.resize(size, Image.Resampling.BILINEAR)))
            changes[f"resized to {factor}"].append(math.log2(after / before))
        for factor in (0.5, 0.71):  # cropped to the middle
            left, top = width * (1 - factor) / 2, height * (1 - factor) / 2
            part = image.crop((round(left), round(top), round(width - left), round(height - top)))
            after = finder.measure_field(as_tensor(part))
            changes[f"cropped to {factor}"].append(math.log2(after / before / factor))
        padded = Image.new("RGB", (round(width * 1.5), round(height * 1.5)))
        padded.paste(image, (width // 4, height // 4))
        after = finder.measure_field(as_tensor(padded))
        changes["padded to 1.5"].append(math.log2(after / before / 1.5))
    for change, values in changes.items():
        off = np.abs(values)
        print(
            f"{name:18} {change:16} changes by {2 ** np.median(values):.2f} (should be 1), within "
            f"20 %: {np.mean(off <= math.log2(1.2)):.2f}, worst {2 ** off.max():.2f}",
            flush=True,
        )


def every(step: int, pictures: Iterator[Picture]) -> Iterator[Picture]:
    return (picture for number, picture in enumerate(pictures) if number % step == 0)


def main(
    archive: Path, boxes: Path, of_pbc: Path, of_chula: Path, weights: Path | None = None
) -> None:
    finder = load_finder()
    if weights:
        finder.load_state_dict({k: v.float() for k, v in load_file(weights).items()})
    sets: dict[str, Callable[[], Iterator[Picture]]] = {
        "BCCD, train": lambda: kaggle(archive, boxes, "train"),
        "BCCD, TEST": lambda: kaggle(archive, boxes, "test"),
        "PBC": lambda: pbc(of_pbc),
        "Chula": lambda: chula(of_chula),
        "drawn": drawn,
    }
    with torch.inference_mode():
        for name, pictures in sets.items():
            measure(name, pictures(), finder)
        for name, step in (("BCCD, TEST", 4), ("PBC", 10), ("Chula", 12), ("drawn", 4)):
            measure_scales(name, every(step, sets[name]()), finder)


if __name__ == "__main__":
    parser = make_parser(__doc__)
    parser.add_argument("archive", type=existing, help=".zip of the Kaggle set")
    parser.add_argument("boxes", type=existing, help="table of the boxes of its photographs")
    parser.add_argument("of_pbc", type=existing, help=".zip of PBC")
    parser.add_argument("of_chula", type=existing, help=".zip of Chula")
    help_text = "of another finder (default: the shipped one)"
    parser.add_argument("weights", type=existing, nargs="?", help=help_text)
    given = parser.parse_args()
    with short_errors():
        main(**vars(given))
