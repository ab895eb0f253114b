"""Opens the training photographs of a model for the page."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
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


def _find_names(source: Source, files: Sequence[str]) -> dict[str, str]:
    """Returns the names of training photographs in a source, which may have other outer folders.

    Args:
        source: folder or archive, or several, whose names are then the first folder.
        files: names of the photographs in the data that the model was trained on.
    """
    if all(file in source.sizes for file in files):
        return {file: file for file in files}

    def key(name: str) -> tuple[str, str]:
        return name.split("/")[0] if source.sets else "", name.split("/")[-1]

    alike = defaultdict[tuple[str, str], list[str]](list)
    for name in source.sizes:
        alike[key(name)].append(name)
    # by data set: the outer folders of a file and of its name, and how many folders agree
    outer = defaultdict[str, Counter[tuple[str, str]]](Counter)
    for file in files:
        for name in alike[key(file)]:
            then, now = _outer_folders(file, name)
            outer[key(file)[0]][then, now] += file.count("/") - then.count("/") + 1
    found: dict[str, str] = {}
    for file in files:
        for (then, now), _ in outer[key(file)[0]].most_common(1):
            name = now + file.removeprefix(then)
            if file.startswith(then) and name in source.sizes:
                found[file] = name
    return found


def _outer_folders(one: str, other: str) -> tuple[str, str]:
    """Returns what precedes the end that two paths have in common."""
    left, right = one.split("/"), other.split("/")
    while left and right and left[-1] == right[-1]:
        del left[-1], right[-1]
    return "".join(f"{part}/" for part in left), "".join(f"{part}/" for part in right)
