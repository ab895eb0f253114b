"""Named data sets: what `data.root` can name instead of a folder.

A module of this package that defines `DATASET` adds a data set; nothing else needs a change.
"""

import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from bloodcell.datasets import photos


class Prepared(NamedTuple):
    """The files of a named data set on disk.

    Attributes:
        images: folder with the images.
        photos: photo table that covers every image; None if the package ships the table.
    """

    images: Path
    photos: Path | None = None


@dataclass(frozen=True)
class NamedDataset:
    """A data set that `data.root` can name.

    Attributes:
        name: value of `data.root`.
        title: what it holds, for help and error messages.
        class_names: its classes, sorted, known before anything is downloaded or drawn.
        prepare: downloads or draws the files if they are not there yet. Several processes may call
            it at the same time. It raises InputError if the files cannot be had.
        photo_table: reads the photo table that the package ships; empty if it ships none.
        repeated: split folders, in lower case, whose images repeat those of another part. They
            belong to no part.
    """

    name: str
    title: str
    class_names: tuple[str, ...]
    prepare: Callable[[], Prepared]
    photo_table: Callable[[], photos.PhotoTable] = dict
    repeated: tuple[str, ...] = ()


@cache
def named_datasets() -> dict[str, NamedDataset]:
    """Returns all named data sets by their names; importing them is cheap."""
    package = __name__.rpartition(".")[0]
    modules = pkgutil.iter_modules(import_module(package).__path__, f"{package}.")
    loaded = [import_module(module.name) for module in modules]
    datasets: list[NamedDataset] = [one.DATASET for one in loaded if hasattr(one, "DATASET")]
    return {one.name: one for one in datasets}


def find_shipped_photos(paths: Iterable[str]) -> photos.PhotoTable:
    """Returns the shipped photo table that knows any of these images; an empty one if none does.

    A copy of a named data set is recognised by this, whatever folder or archive it lies in.

    Args:
        paths: paths of the images, with forward slashes.
    """
    names = list(paths)
    tables = (dataset.photo_table() for dataset in named_datasets().values())
    return next((one for one in tables if any(photos.find(one, name) for name in names)), {})
