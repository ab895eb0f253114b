"""The Kaggle set *Blood Cells*: downloaded once, checked file by file."""

import hashlib
from pathlib import Path

from filelock import FileLock

from bloodcell.errors import InputError, reason

HANDLE = "paultimothymooney/blood-cells"
# a fixed version: from the second time on, kagglehub answers from its cache without a network
VERSION = 6
CLASS_NAMES = ("EOSINOPHIL", "LYMPHOCYTE", "MONOCYTE", "NEUTROPHIL")
N_FILES = 12_515
# SHA-256 over the sorted lines "SPLIT/CLASS/FILE SHA-256-OF-FILE\n" of all class folders
DIGEST = "c77b3c043a09aa5647509232a18f7aa3252b4282eef43faca9943e6b965e1d40"


def download() -> Path:
    """Gets the set from Kaggle, or from kagglehub's cache, and checks it against the manifest.

    Returns:
        The folder with the unpacked archive.

    Raises:
        InputError: if it can be got neither way, or files are missing or changed.
    """
    import kagglehub  # takes a second to import; most runs never need it

    cache = Path(kagglehub.config.get_cache_folder())
    cache.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(cache / "bloodcell.lock"):  # of several processes, one downloads
            folder = Path(kagglehub.dataset_download(f"{HANDLE}/versions/{VERSION}"))
    except Exception as error:  # kagglehub raises what its HTTP library does, and more
        raise InputError(
            f"data.root='kaggle' could not be downloaded ({reason(error)}). Without a network, get "
            f"kaggle.com/datasets/{HANDLE} elsewhere and give data.root the .zip; to try without "
            "any data, use --data.root drawn."
        ) from error
    check(folder)
    return folder


def check(folder: Path) -> None:
    """Compares the class folders below a folder with the manifest of the set.

    Raises:
        InputError: if a file is missing, added or changed.
    """
    images = [p for p in folder.rglob("images/*/*/*.jpeg") if p.is_file()]
    if len(images) != N_FILES:
        raise InputError(
            f"data.root='kaggle': {folder} holds {len(images):,} images; the set has {N_FILES:,}. "
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
