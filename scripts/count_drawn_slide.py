"""Draws the fields of a slide with 200 white cells, and compares a differential count with them.

python scripts/count_drawn_slide.py slide
bloodcell predict slide --cells --model lightning_logs/drawn/version_0 --out cells.csv
python scripts/count_drawn_slide.py --count cells.csv

The model has to know drawn cells: `bloodcell fit --config any_lab.yaml --data.root drawn` with
`--name drawn`. The shares of the classes are those of healthy blood, so that an error of a frequent
class shows.
"""

from collections import Counter
from pathlib import Path

from arguments import existing, make_parser, read_rows
from PIL import Image

from bloodcell.datasets.drawn.fields import draw_field

CELLS = {"neutrophil": 120, "lymphocyte": 56, "monocyte": 14, "eosinophil": 10}
FIELD = 1.0  # few cells in each picture, so that the shares can be met


def write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    left, number, pictures = Counter(CELLS), 0, 0
    while left.total():
        drawn = draw_field((11, number), FIELD)
        number += 1
        classes = Counter(name.lower() for name in drawn.class_names)
        if classes and classes <= left:
            left -= classes
            Image.fromarray(drawn.pixels).save(folder / f"{number:05}.png")
            pictures += 1
    print(f"{folder}: {sum(CELLS.values())} white cells in {pictures} pictures")


def count(table: Path) -> None:
    rows = [line for line in read_rows(table, "class", "unlike") if line["class"]]
    counted = Counter(line["class"].lower() for line in rows if line["unlike"] != "True")
    total, worst = sum(CELLS.values()), 0.0
    for name in sorted(CELLS.keys() | counted):
        true, found = CELLS.get(name, 0) / total, counted[name] / max(counted.total(), 1)
        worst = max(worst, abs(found - true))
        print(f"{name:12} drawn {true:.3f}, counted {found:.3f}")
    print(f"{counted.total()} of {len(rows)} cells counted, {total} drawn; worst error {worst:.3f}")


if __name__ == "__main__":
    parser = make_parser(__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("folder", nargs="?", type=Path, help="folder for the pictures")
    what.add_argument("--count", type=existing, help="table of predict --cells")
    given = parser.parse_args()
    write(given.folder) if given.folder else count(given.count)
