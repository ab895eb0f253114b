"""The PBC set: 17,092 single cells of healthy donors from the Hospital Clinic of Barcelona.

Acevedo et al., Data in Brief 30:105474, 2020; doi 10.17632/snkd93bnjr.1, licence CC BY 4.0. One
cell is in the middle of each image of about 360 x 363 pixels. The source has no table of patients
or slides, so each file counts as a photograph. `ig` are immature granulocytes.

Tested with files of a reduced copy only; the download from Kaggle was never tried. As no digest of
it is known, `check` compares the number of files in each class with the publication. 17 of its
images are exact duplicates of others.
"""

import re
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from bloodcell.datasets.downloads import download_kaggle
from bloodcell.datasets.named import NamedDataset, Prepared
from bloodcell.errors import InputError

PBC = "pbc"
HANDLE = "unclesamulus/blood-cells-image-dataset"
VERSION = 1
N_FILES = {  # as published
    "basophil": 1_218,
    "eosinophil": 3_117,
    "erythroblast": 1_551,
    "ig": 2_895,
    "lymphocyte": 1_214,
    "monocyte": 1_420,
    "neutrophil": 3_329,
    "platelet": 2_348,
}
_FILE = re.compile(
    r"(?:BA|EO|ERB|IG|MY|MMY|PMY|LY|MO|NEUTROPHIL|BNE|SNE|PLATELET)_\d+\.jpe?g", re.IGNORECASE
)


def is_copy(paths: Collection[str]) -> bool:
    """Returns whether images are in the eight class folders and are named as those of the set."""
    folders = {path.split("/")[-2] for path in paths if _FILE.fullmatch(path.split("/")[-1])}
    return folders == N_FILES.keys()


def prepare() -> Prepared:
    """Downloads the set from Kaggle into the cache of kagglehub.

    Raises:
        InputError: if the download fails, or its number of files is not the published one.
    """
    folder = download_kaggle(PBC, f"{HANDLE}/versions/{VERSION}")
    check(folder)
    return Prepared(folder)


def check(folder: Path) -> None:
    """Checks the number of images of each class.

    Raises:
        InputError: if it differs from the publication.
    """
    found = Counter(path.parent.name for path in folder.rglob("*.jp*g") if path.is_file())
    for name, published in N_FILES.items():
        if found[name] != published:
            raise InputError(
                f"data.root='{PBC}': {folder} contains {found[name]:,} images of the class "
                f"{name}, not {published:,}. Delete that folder, so that it is downloaded again."
            )


DATASET = NamedDataset(
    *(PBC, "the PBC set of Barcelona", tuple(N_FILES), prepare, is_copy),
    credit="A. Acevedo et al., Hospital Clinic of Barcelona, doi.org/10.17632/snkd93bnjr.1 "
    "(CC BY 4.0)",
)
