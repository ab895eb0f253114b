"""Drawn smears: the demo data set, drawn by the program and laid out like the Kaggle set."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from bloodcell.datasets.kaggle import CLASS_NAMES, TEST_SIMPLE
from bloodcell.datasets.named import NamedDataset, Prepared
from bloodcell.files import cache_folder, make_once

__all__ = ["CLASS_NAMES", "DATASET", "DRAWN", "is_drawn", "prepare"]

DRAWN = "drawn"


def is_drawn(root: str | Sequence[str]) -> bool:
    """Returns whether `data.root` is the drawn smears, or lists them among other data sets."""
    return DRAWN in ([root] if isinstance(root, str) else root)


def prepare() -> Prepared:
    """Draws 350 photographs per class, with two copies of each, into the cache if missing."""
    # the folder name depends on the drawing code, so a new version never reads old pictures
    code = b"".join(Path(__file__).with_name(n).read_bytes() for n in ("smears.py", "scene.py"))
    folder = cache_folder() / f"drawn-{hashlib.sha256(code).hexdigest()[:8]}"

    def draw() -> None:
        from bloodcell.datasets.drawn.smears import write_smears  # imports NumPy and Pillow

        print(f"drawing blood smears into {folder} (once, half a minute) ...", flush=True)
        write_smears(folder, train_photos=300, test_photos=50, copies=2)

    make_once(folder, draw)
    return Prepared(folder / "images", folder / "photos.csv")


DATASET = NamedDataset(
    DRAWN, "smears drawn by the program", CLASS_NAMES, prepare, repeated=(TEST_SIMPLE,)
)
