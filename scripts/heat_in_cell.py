"""How much of the evidence lies in the white cell: measured on drawn smears, whose cell is known.

python scripts/heat_in_cell.py lightning_logs/demo-drawn/version_0
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from bloodcell.data.crop import show
from bloodcell.datasets.drawn import CLASS_NAMES
from bloodcell.datasets.drawn.scene import HEIGHT, WIDTH
from bloodcell.datasets.drawn.smears import draw_photograph
from bloodcell.infer.heat import find_heat
from bloodcell.infer.saved import load_saved

_EACH = 50  # photographs of a class
_SEED = 10_000_000  # far from those that anything was trained on


def measure(run: Path) -> None:
    saved = load_saved(run)
    look = saved.description.input_format
    size = look.size
    print("class: share of the heat in the cell's box, of the picture in the box, right answers")
    for name in CLASS_NAMES:
        drawn = [draw_photograph(name, _SEED + n) for n in range(_EACH)]
        seen = find_heat(saved, np.stack([show(Image.fromarray(d.pixels), look) for d in drawn]))
        y, x = (np.mgrid[:size, :size] + 0.5) / size
        inside, area = [], []
        for photograph, heat in zip(drawn, seen.heat, strict=True):
            left, top, right, bottom = photograph.box
            box = (x > left / WIDTH) & (x < right / WIDTH) & (y > top / HEIGHT)
            box &= y < bottom / HEIGHT
            inside.append(heat[box].sum() / max(heat.sum(), 1e-12))
            area.append(box.mean())
        said = [saved.description.class_names[label] for label in seen.probability.argmax(1)]
        right_share = np.mean([one == name for one in said])
        print(f"{name}: {np.mean(inside):.3f}, {np.mean(area):.3f}, {right_share:.2f}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    measure(Path(sys.argv[1]))
