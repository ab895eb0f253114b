"""The Kaggle set *Blood Cells*: download, check of every file, and photo table.

The set contains augmented copies without the names of the original photographs. For the photo table
in this package, every file was registered (SIFT features, affine model) with the 366 photographs of
the original BCCD set. All 12,515 files matched one of them, and all labels agree. `photo` is the
number in the name of the original photograph; photographs of the same white cell share one `cell`.
"""

import hashlib
import lzma
from collections.abc import Collection
from functools import cache
from importlib import resources
from pathlib import Path

from bloodcell.datasets import photos
from bloodcell.datasets.downloads import download_kaggle
from bloodcell.datasets.named import NamedDataset, Prepared
from bloodcell.errors import InputError

KAGGLE = "kaggle"
HANDLE = "paultimothymooney/blood-cells"
TEST_SIMPLE = "test_simple"  # folder that repeats the photographs of TEST, without copies
VERSION = 6
CLASS_NAMES = ("EOSINOPHIL", "LYMPHOCYTE", "MONOCYTE", "NEUTROPHIL")
N_FILES = 12_515
# SHA-256 over the sorted lines "SPLIT/CLASS/FILE SHA-256-OF-FILE\n" of all class folders
DIGEST = "c77b3c043a09aa5647509232a18f7aa3252b4282eef43faca9943e6b965e1d40"


def prepare() -> Prepared:
    """Downloads the set from Kaggle into the cache of kagglehub, and checks each file.

    Raises:
        InputError: if the download fails, or files are missing or changed.
    """
    advice = "; to try bloodcell without data, use --data.root drawn"
    folder = download_kaggle(KAGGLE, f"{HANDLE}/versions/{VERSION}", advice)
    check(folder)
    return Prepared(folder)


def check(folder: Path) -> None:
    """Checks the class folders in a folder against the manifest of the set.

    Raises:
        InputError: if a file is missing, added or changed.
    """
    images = [p for p in folder.rglob("images/*/*/*.jpeg") if p.is_file()]
    if len(images) != N_FILES:
        raise InputError(
            f"data.root='kaggle': {folder} contains {len(images):,} images, not {N_FILES:,}. "
            "Delete that folder and run `bloodcell download` again."
        )
    lines = sorted(
        f"{'/'.join(p.parts[-3:])} {hashlib.sha256(p.read_bytes()).hexdigest()}\n" for p in images
    )
    if hashlib.sha256("".join(lines).encode()).hexdigest() != DIGEST:
        raise InputError(
            f"data.root='kaggle': files in {folder} differ from the published set. "
            "Delete that folder and run `bloodcell download` again."
        )


@cache  # both `is_copy` and the table of the images need it
def read_photos() -> photos.PhotoTable:
    """Reads the photo table of the set: 12,515 files, 348 photographs, 325 cells."""
    packed = resources.files("bloodcell.datasets").joinpath("kaggle_photos.csv.xz").read_bytes()
    return photos.parse(lzma.decompress(packed).decode(), "the shipped photo table")


def is_copy(paths: Collection[str]) -> bool:
    """Returns whether the photo table contains any of these images."""
    table = read_photos()
    return any(photos.find(table, path) for path in paths)


DATASET = NamedDataset(
    *(KAGGLE, "the Blood Cells set", CLASS_NAMES, prepare, is_copy, read_photos),
    credit=f"P. Mooney, kaggle.com/datasets/{HANDLE}, from the BCCD photographs (MIT)",
    repeated=(TEST_SIMPLE,),
)
