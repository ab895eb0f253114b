"""Makes the model that comes with bloodcell from a run folder.

python scripts/bundle.py lightning_logs/NAME/version_0 "blood-cells.zip/*/images/TEST/*"

In half precision: it must name the given images as the run does, all but a few, and be small.
"""

import sys
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

import numpy as np

from bloodcell.model.bundled import FILE_NAME, FOLDER
from bloodcell.report.card import CARD, write_card
from bloodcell.report.whole import beside
from bloodcell.use.images import decode_batches, find_images
from bloodcell.use.model import Model, Probabilities, open_model
from bloodcell.use.saved import load_saved, write_saved

_LARGEST = 8e6  # bytes
_OTHERWISE = 0.005  # share of the images that may be named otherwise: those between two classes
_IMAGES = 2_500


def ask(model: Model, given: list[str]) -> Probabilities:
    """What a model says of the images that can be read, (n, classes)."""
    with ExitStack() as archives:
        images = islice(find_images(given, archives), _IMAGES)
        batches = decode_batches(images, model.description.image_size, 32)
        pixels = ([one.pixels for one in batch if one.pixels is not None] for batch in batches)
        return np.concatenate([model.classify(np.stack(some)) for some in pixels if some])


def bundle(run: Path, given: list[str], place: Path) -> None:
    saved = load_saved(run)
    place.mkdir(exist_ok=True)
    file = place / FILE_NAME
    with beside(file) as partial:
        write_saved(saved, partial)
        if (size := partial.stat().st_size) > _LARGEST:
            sys.exit(f"{size / 1e6:.1f} MB, over {_LARGEST / 1e6:.0f}: not kept")
        whole, half = (ask(open_model(str(one)), given) for one in (run, partial))
        otherwise = float((whole.argmax(1) != half.argmax(1)).mean())
        difference = float(np.abs(whole - half).max())
        said = (
            f"of {len(whole):,} images {otherwise:.2%} named otherwise than by the run, "
            f"probabilities differ by {difference:.2g} at most"
        )
        if otherwise > _OTHERWISE:
            sys.exit(f"{said}: not kept")
    write_card(place / CARD, saved.description, file)
    print(f"{file}: {size / 1e6:.1f} MB; {said}")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    bundle(Path(sys.argv[1]), sys.argv[2:], FOLDER)
