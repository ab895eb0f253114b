"""`bloodcell download`: downloads named data sets."""

from bloodcell.datasets.kaggle import KAGGLE
from bloodcell.datasets.named import named_datasets
from bloodcell.errors import InputError, listed


def download(names: list[str]) -> None:
    """Downloads named data sets, and checks their files.

    `fit` does it by itself. Files that were downloaded before are not downloaded again.

    Args:
        names: kaggle, pbc or chula, or several of them (default: kaggle).

    Raises:
        InputError: if a name is unknown, a download fails, or files are missing or changed.
    """
    known = named_datasets()
    for name in names:
        if name not in known:
            raise InputError(f"download {name}: no such data set. Choose from {listed([*known])}.")
    for name in names or [KAGGLE]:
        print(f"{name}: {known[name].prepare().images}")
