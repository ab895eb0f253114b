"""Opens the training photographs of a model for the page."""

from collections.abc import Callable
from contextlib import ExitStack
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
    missing = [file for file in gallery.files if file not in source.sizes]
    if missing and wanted:
        raise InputError(
            f"--data {source.root} lacks {len(missing):,} of {len(gallery.files):,} photographs "
            f"that the model was trained on, e.g. {missing[0]}. Give the data it was trained on, "
            "or leave --data out."
        )
    if missing:
        return lambda _: None
    read = opened.enter_context(source.reader())

    def show(name: str) -> Image.Image | None:
        try:
            picture = open_rgb(read(name))
        except (*READ_ERRORS, KeyError):  # removed since the server started
            return None
        picture.thumbnail((_SIDE, _SIDE))
        return picture

    return show
