"""Creates the bundled model from a run folder and the runs without one data set at a time.

python scripts/bundle.py lightning_logs/NAME/version_0 "blood-cells.zip/*/images/TEST/*" --labs labs

It has half precision, and is kept only if its predictions agree with the run's.
"""

import sys
import tempfile
from pathlib import Path

from arguments import make_parser, short_errors

from bloodcell.evaluate.card import CARD
from bloodcell.infer.export import export
from bloodcell.model.bundled import FILE_NAME, FOLDER

_LARGEST = 8e6  # bytes


def bundle(run: str, images: list[str], labs: str | None) -> None:
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        file = Path(folder) / FILE_NAME
        export(images, run, str(file), labs=labs)
        if (size := file.stat().st_size) > _LARGEST:
            sys.exit(f"{run}: {size / 1e6:.1f} MB, over {_LARGEST / 1e6:.0f}: too large to ship")
        file.with_name(f"{FILE_NAME}.{CARD}").replace(FOLDER / CARD)
        file.replace(FOLDER / FILE_NAME)


if __name__ == "__main__":
    parser = make_parser(__doc__)
    parser.add_argument("run", help="run folder")
    parser.add_argument("images", nargs="+", help="images on which the predictions are compared")
    parser.add_argument("--labs", help="folder of a finished `bloodcell labs`")
    given = parser.parse_args()
    with short_errors():
        bundle(**vars(given))
