"""Reads, composes and draws the pictures that the finder is trained on."""

import csv
import io
import zipfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from compose_fields import collect, compose
from finder_views import Photo
from PIL import Image

from bloodcell.data.finder import RED, SIDE
from bloodcell.data.source import open_source
from bloodcell.data.table import build_table
from bloodcell.datasets.drawn.fields import draw_field

# widths of the fields of view, measured by the sizes of the red cells in each set
FIELDS = {"kaggle": 1.0, "pbc": 0.75, "chula": 2.75}
COMPOSED = {"pbc": 240, "kaggle": 160}  # fields; with the platelets of PBC
LARGEST = 480  # pixels of the longer side of the pictures in memory


def read_all(archive: Path, boxes: Path, pbc: Path, chula: Path) -> dict[str, list[Photo]]:
    """Reads, draws and composes the pictures of all sets."""
    sets = {
        "kaggle": read_kaggle(archive, boxes),
        "pbc": read_pbc(pbc, each=60),
        "chula": read_chula(chula),
        "drawn": draw(240),
    }
    return sets | compose_all(sets)


def as_photo(image: Image.Image, field: float, centres: list[tuple[float, float]]) -> Photo:
    longer = max(image.size)
    factor = min(1.0, LARGEST / longer)
    size = (round(image.width * factor), round(image.height * factor))
    pixels = torch.from_numpy(np.array(image.convert("RGB").resize(size, Image.Resampling.BOX)))
    places = torch.tensor(centres).reshape(-1, 2) * factor
    return Photo(pixels.permute(2, 0, 1), factor * longer / field * RED / SIDE, places)


def read_kaggle(archive: Path, boxes: Path) -> list[Photo]:
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
            for name in some[:: max(1, len(some) // each)][:each]:
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
