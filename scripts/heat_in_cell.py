"""Measures the share of the heat map inside the white cell, on drawn smears with known cells.

python scripts/heat_in_cell.py lightning_logs/demo-drawn/version_0
"""

from pathlib import Path

import numpy as np
from arguments import existing, make_parser, short_errors
from PIL import Image

from bloodcell.data.crop import show
from bloodcell.datasets.drawn import CLASS_NAMES
from bloodcell.datasets.drawn.scene import HEIGHT, WIDTH
from bloodcell.datasets.drawn.smears import draw_photograph
from bloodcell.infer.heat import find_heat
from bloodcell.infer.saved import load_saved

_EACH = 50  # photographs per class
_SEED = 10_000_000  # far from the seeds of training data


def measure(run: Path) -> None:
    saved = load_saved(run)
    input_format = saved.description.input_format
    size = input_format.size
    print("class: share of the heat in the cell's box, share of the picture in the box, accuracy")
    for name in CLASS_NAMES:
        drawn = [draw_photograph(name, _SEED + n) for n in range(_EACH)]
        seen = find_heat(
            saved, np.stack([show(Image.fromarray(d.pixels), input_format) for d in drawn])
        )
        y, x = (np.mgrid[:size, :size] + 0.5) / size
        inside, area = [], []
        for photograph, heat in zip(drawn, seen.heat, strict=True):
            left, top, right, bottom = photograph.box
            box = (x > left / WIDTH) & (x < right / WIDTH) & (y > top / HEIGHT)
            box &= y < bottom / HEIGHT
            inside.append(heat[box].sum() / max(heat.sum(), 1e-12))
            area.append(box.mean())
        predicted = [saved.description.class_names[label] for label in seen.probability.argmax(1)]
        accuracy = np.mean([one == name for one in predicted])
        print(f"{name}: {np.mean(inside):.3f}, {np.mean(area):.3f}, {accuracy:.2f}")


if __name__ == "__main__":
    parser = make_parser(__doc__)
    parser.add_argument("run", type=existing, help="a run folder")
    given = parser.parse_args()
    with short_errors():
        measure(given.run)
