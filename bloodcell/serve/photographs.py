"""Opens the training photographs of a model for the page."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from PIL import Image

from bloodcell.data.decode import open_rgb
from bloodcell.data.image_files import READ_ERRORS
from bloodcell.data.source import Source, open_source
from bloodcell.datasets.named import named_datasets
from bloodcell.errors import InputError
from bloodcell.evaluate.runs import CONFIG
from bloodcell.files import at_home

if TYPE_CHECKING:
    from bloodcell.model.gallery import Gallery

# maps the file of a training photograph to a small image, or None if it is not available
Photographs = Callable[[str], Image.Image | None]
_SIDE = 96  # pixels


def find_source(model: Path) -> Source | None:
    """Returns the folder or archive of a run, or None if it is gone or a named data set.

    Args:
        model: run folder or checkpoint in it.
    """
    folder = model.parent.parent if model.parent.name == "checkpoints" else model
    if not (folder / CONFIG).is_file():
        return None
    try:
        settings = yaml.load((folder / CONFIG).read_text(encoding="utf-8"), yaml.CSafeLoader)
        root = settings["data"]["root"]
        roots = [root] if isinstance(root, str) else root
        there = [one not in named_datasets() and at_home(one).exists() for one in roots]
        return open_source(roots) if all(there) else None
    except (
        ValueError,
        LookupError,
        TypeError,
        OSError,
        yaml.YAMLError,
    ):  # the photographs are optional without --data
        return None


def open_photographs(
    source: Source | None, gallery: "Gallery | None", wanted: bool, opened: ExitStack
) -> Photographs:
    """Returns a function that reads a training photograph if the source has all of them.

    Args:
        source: folder or archive that may contain them.
        gallery: lists the photographs that the model was trained on.
        wanted: whether missing photographs are an error.
        opened: exit stack that closes the source.

    Raises:
        InputError: if `wanted` and a photograph is missing.
    """
    if source is None or gallery is None:
        return lambda _: None
    names = _find_names(source, gallery.files)
    missing = [file for file in gallery.files if file not in names]
    if missing and wanted:
        raise InputError(
            f"--data {source.root} lacks {len(missing):,} of {len(gallery.files):,} photographs "
            f"that the model was trained on, e.g. {missing[0]}. Give the data it was trained on, "
            "or leave --data out."
        )
    if missing:
        return lambda _: None
    read = opened.enter_context(source.reader())

    def show(file: str) -> Image.Image | None:
        try:
            picture = open_rgb(read(names[file]))
        except (*READ_ERRORS, KeyError):  # removed since the server started
            return None
        picture.thumbnail((_SIDE, _SIDE))
        return picture

    return show


def _find_names(source: Source, files: Iterable[str]) -> dict[str, str]:
    """Returns the names of training photographs in a source, which may have other outer folders.

    Args:
        source: folder or archive, or several, whose names are then the first folder.
        files: names of the photographs in the data that the model was trained on.
    """

    def key(name: str) -> tuple[str, str]:
        return name.split("/")[0] if source.sets else "", name.split("/")[-1]

    alike = defaultdict[tuple[str, str], list[str]](list)
    for name in source.sizes:
        alike[key(name)].append(name)
    found: dict[str, str] = {}
    for file in files:
        ends = Counter({name: _shared_end(name, file) for name in alike[key(file)]})
        (best, length), (_, second) = [*ends.most_common(2), ("", 0), ("", 0)][:2]
        if file in source.sizes or length > second:
            found[file] = file if file in source.sizes else best
    return found


def _shared_end(one: str, other: str) -> int:
    """Returns the number of equal names at the ends of two paths."""
    pairs = zip(reversed(one.split("/")), reversed(other.split("/")), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
