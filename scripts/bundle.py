"""Creates the bundled model from a run folder.

python scripts/bundle.py lightning_logs/NAME/version_0 "blood-cells.zip/*/images/TEST/*"

It has half precision, and is kept only if its predictions agree with the run's.
"""

import sys

from bloodcell.evaluate.card import CARD
from bloodcell.infer.export import export
from bloodcell.model.bundled import FILE_NAME, FOLDER

_LARGEST = 8e6  # bytes


def bundle(run: str, given: list[str]) -> None:
    FOLDER.mkdir(exist_ok=True)
    file = FOLDER / FILE_NAME
    export(given, run, str(file))
    (FOLDER / f"{FILE_NAME}.{CARD}").replace(FOLDER / CARD)
    if (size := file.stat().st_size) > _LARGEST:
        sys.exit(f"{file}: {size / 1e6:.1f} MB, over {_LARGEST / 1e6:.0f}: too large to ship")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    bundle(sys.argv[1], sys.argv[2:])
