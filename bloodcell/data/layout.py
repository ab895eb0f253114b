"""The layout of a data set: the official part and the class of each image, from its folders."""

import re
from collections import Counter
from collections.abc import Collection
from itertools import pairwise
from pathlib import Path

from bloodcell.data.image_files import IMAGE_SUFFIXES
from bloodcell.data.labels import read_labels
from bloodcell.data.source import Source
from bloodcell.datasets.named import named_datasets
from bloodcell.errors import InputError, listed

# names of official split folders, such as TRAIN, training_set or test-data
_SPLIT_FOLDER = re.compile(
    r"(?:(train|training)|(val|valid|validation)|(test|testing))(?:[ _-]?(?:set|data|images))?"
)


def part_of(name: str) -> str:
    """Returns the part of the first official split folder in an image's path, or an empty text."""
    return next((part for folder in name.split("/")[:-1] if (part := split_folder(folder))), "")


def split_folder(name: str) -> str:
    """Returns the part (train, val or test) of an official split folder, empty for others."""
    found = _SPLIT_FOLDER.fullmatch(name.lower())
    return ("train", "val", "test")[found.lastindex - 1] if found and found.lastindex else ""


def find_labelled_places(source: Source, labels: Path) -> dict[str, tuple[str, str]]:
    """Returns the official part and the class of each image that a label table names.

    Args:
        source: the images.
        labels: CSV file for `read_labels`.

    Raises:
        InputError: if the table has no lines, or does not match the images; or if some images are
            in a validation or test folder and others are in none, but there is no training folder.
    """
    classes = read_labels(labels, source.root.name, source.sizes)
    if not classes:
        raise InputError(f"data.labels='{labels}' has no lines. Add a line for each image.")
    parts = {name: part_of(name) for name in classes}
    divided = "train" in parts.values()
    if not divided:
        _check_all_in_parts(source, [name for name, part in parts.items() if part], classes)
    return {name: (parts[name] if divided else "", kind) for name, kind in classes.items()}


def find_places(source: Source) -> dict[str, tuple[str, str]]:
    """Returns the official part and the class of each image, from its folders or its box.

    If there is a training folder, images outside the split folders are left out.

    Args:
        source: the images.

    Raises:
        InputError: if no image is in a class folder; if there are a validation or test folder and
            other class folders, but no training folder; or if split folders are in class folders.
    """
    if source.cells:
        return {name: ("", cell.class_name) for name, cell in source.cells.items()}
    repeated = {folder for one in named_datasets().values() for folder in one.repeated}
    split: dict[str, tuple[str, str]] = {}
    for name in source.sizes:
        folders = name.split("/")[:-1]
        for folder, below in pairwise(folders):
            part = folder.lower() if folder.lower() in repeated else split_folder(folder)
            if part:
                split[name] = (part, below)
                break
    parts = Counter(part for part, _ in split.values())
    if parts["train"]:
        return split
    if split:  # e.g. only TEST: without a training part, the images have no official split
        _check_all_in_parts(source, split, [name for name in source.sizes if "/" in name])
        return {name: ("", class_name) for name, (_, class_name) in split.items()}
    return {name: ("", class_name) for name, class_name in _class_folders(source).items()}


def _check_all_in_parts(source: Source, inside: Collection[str], names: Collection[str]) -> None:
    """Raises InputError if some of the images are in a validation or test folder, others not."""
    within = set(inside)
    others = sorted({name.rpartition("/")[0] or "." for name in names if name not in within})
    if within and others:
        example = next(iter(inside))
        raise InputError(
            f"data.root='{source.root}' has no folder train, but a validation or test folder "
            f"({example}) and images outside of it ({listed(others, 4)}). Move the latter into "
            "a folder train, or give data.root one of these folders."
        )


def _class_folders(source: Source) -> dict[str, str]:
    """Returns the class of each image, its folder at the first level where the folders differ."""
    folders = {name: name.split("/")[:-1] for name in source.sizes if "/" in name}
    if not folders:
        raise InputError(_no_images(source))
    shortest = min(folders.values(), key=len)
    depth = 0
    while depth < len(shortest) - 1 and len({f[depth] for f in folders.values()}) == 1:
        depth += 1
    for name, parts in folders.items():
        if any(map(split_folder, parts[depth + 1 :])):
            raise InputError(
                f"data.root='{source.root}' has split folders within class folders ({name}). Move "
                "them above the class folders, as in train/CLASS/image, or rename them."
            )
    return {name: parts[depth] for name, parts in folders.items()}


def _no_images(source: Source) -> str:
    loose = f" ({len(source.sizes)} are directly in it)" if source.sizes else ""
    return (
        f"data.root='{source.root}' has no images in class folders{loose}. Expected "
        f"CLASS/image or train/CLASS/image with one of {', '.join(IMAGE_SUFFIXES)}; or give "
        "data.labels a table with the columns file and class."
    )
