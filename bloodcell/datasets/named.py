"""Named data sets, which `data.root` accepts instead of a folder.

To add a data set, add a module to this package that defines `DATASET`.
"""

import pkgutil
from collections.abc import Callable, Collection, Iterable
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
        photos: photo table that covers every image; None if the package ships it, or there is none.
    """

    images: Path
    photos: Path | None = None


@dataclass(frozen=True)
class NamedDataset:
    """A data set that `data.root` accepts by name.

    Attributes:
        name: value of `data.root`.
        title: short description for help and error messages.
        class_names: sorted classes, known before anything is downloaded or drawn.
        prepare: downloads or draws missing files; safe to call from several processes. Raises
            InputError if the files are not available.
        is_copy: returns whether the paths of images, with forward slashes, are those of a copy of
            the set in any folder or archive.
        photo_table: returns the photo table in the package; empty if there is none.
        credit: authors, source and licence, for the model card.
        repeated: split folders, in lower case, that repeat images of another split and are
            therefore ignored.
    """

    name: str
    title: str
    class_names: tuple[str, ...]
    prepare: Callable[[], Prepared]
    is_copy: Callable[[Collection[str]], bool] = lambda _: False
    photo_table: Callable[[], photos.PhotoTable] = dict
    credit: str = ""
    repeated: tuple[str, ...] = ()


@cache
def named_datasets() -> dict[str, NamedDataset]:
    """Returns all named data sets by name; importing them is cheap."""
    package = __name__.rpartition(".")[0]
    modules = pkgutil.iter_modules(import_module(package).__path__, f"{package}.")
    loaded = [import_module(module.name) for module in modules]
    datasets: list[NamedDataset] = [one.DATASET for one in loaded if hasattr(one, "DATASET")]
    return {one.name: one for one in datasets}


def recognise(paths: Iterable[str]) -> NamedDataset | None:
    """Returns the named data set that these images are a copy of; None if there is none.

    Args:
        paths: paths of the images, with forward slashes.
    """
    names = list(paths)
    return next((one for one in named_datasets().values() if one.is_copy(names)), None)
