"""Compares the white cells found in the original photographs with boxes drawn by hand.

python scripts/cells_found.py blood-cells.zip boxes.csv

boxes.csv has the columns source_image, cell (WBC for white cells), xmin, ymin, xmax, ymax, like the
BCCD annotations. The thresholds were fitted on the photographs of TRAIN.
"""

import csv
import io
import math
import sys
import time
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from bloodcell.data.locate import find_cell, find_cells
from bloodcell.data.source import open_source
from bloodcell.data.table import build_table

_FOLDER = "dataset-master/dataset-master/JPEGImages"
_SIMPLE = "test_simple"


class Box(NamedTuple):
    """The box of a white cell, drawn by hand, in pixels."""

    left: int
    top: int
    right: int
    bottom: int

    def contains(self, x: float, y: float) -> bool:
        return self.left <= x <= self.right and self.top <= y <= self.bottom

    def distance(self, x: float, y: float) -> float:
        return math.hypot(x - (self.left + self.right) / 2, y - (self.top + self.bottom) / 2)


def read_boxes(path: Path) -> dict[str, list[Box]]:
    boxes: dict[str, list[Box]] = defaultdict(list)
    with path.open(newline="") as file:
        for line in csv.DictReader(file):
            if line["cell"] == "WBC":
                edges = (int(line[edge]) for edge in ("xmin", "ymin", "xmax", "ymax"))
                boxes[line["source_image"]].append(Box(*edges))
    return boxes


def measure(archive: str, boxes: dict[str, list[Box]]) -> None:
    table = build_table(open_source(archive))
    parts = {f"BloodImage_{int(row.photo):05d}.jpg": row.official for row in table.rows[::-1]}
    parts |= {name: "test" for name, part in parts.items() if part == _SIMPLE}
    with zipfile.ZipFile(archive) as opened:

        def load(name: str) -> torch.Tensor:
            image = Image.open(io.BytesIO(opened.read(name))).convert("RGB")
            return torch.from_numpy(np.array(image)).permute(2, 0, 1).float()

        for part in ("train", "test"):
            found = first = extra = n = 0
            errors, seconds = [], 0.0
            names = [name for name in boxes if parts.get(name, "train") == part]
            for name in names:
                image, around = load(f"{_FOLDER}/{name}"), boxes[name]
                start = time.perf_counter()
                cells = find_cells(image)
                seconds += time.perf_counter() - start
                nearest = [
                    min((b.distance(c.x, c.y) for c in cells if b.contains(c.x, c.y)), default=None)
                    for b in around
                ]
                errors += [one for one in nearest if one is not None]
                hits = sum(one is not None for one in nearest)
                found, n, extra = found + hits, n + len(around), extra + len(cells) - hits
                first += bool(cells) and any(b.contains(*cells[0][:2]) for b in around)
            print(
                f"photographs of {part}, {len(names)}: recall {found}/{n}, precision "
                f"{found}/{found + extra}, first cell within a box {first}/{len(names)}, centre "
                f"{np.median(errors):.0f} px off (95 %: {np.quantile(errors, 0.95):.0f}), "
                f"{1e3 * seconds / len(names):.0f} ms per photograph"
            )
        right = [
            any(
                box.contains(*(2 * find_cell(load(row.path)[None])[0]).tolist())
                for box in boxes[f"BloodImage_{int(row.photo):05d}.jpg"]
            )
            for row in table.rows
            if row.official == _SIMPLE
        ]
        print(f"TEST_SIMPLE, at half the size: within a box {sum(right)}/{len(right)}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    measure(sys.argv[1], read_boxes(Path(sys.argv[2])))
