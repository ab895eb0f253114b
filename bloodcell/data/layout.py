"""The layout of a data set: the official part and the class of each image, from its folders."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from bloodcell.data.image_files import IMAGE_SUFFIXES
from bloodcell.data.labels import read_labels
from bloodcell.data.source import Source
from bloodcell.datasets.named import named_datasets
from bloodcell.errors import InputError, listed

# names of official split folders, in lower case, and their parts
SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


def find_labelled_places(source: Source, labels: Path) -> dict[str, tuple[str, str]]:
    """Returns the official part and the class of each image that a label table names.

    Args:
        source: the images.
        labels: CSV file for `read_labels`.

    Raises:
        InputError: if the table has no lines, or does not match the images.
    """
    classes = read_labels(labels, source.root.name, source.sizes)
    if not classes:
        raise InputError(f"data.labels='{labels}' has no lines. Add a line for each image.")
    parts = {
        name: next((SPLIT_FOLDERS[f] for f in _folders(name) if f in SPLIT_FOLDERS), "")
        for name in classes
    }
    divided = "train" in parts.values()
    return {name: (parts[name] if divided else "", kind) for name, kind in classes.items()}


def _folders(name: str) -> list[str]:
    return name.lower().split("/")[:-1]


def find_places(source: Source) -> dict[str, tuple[str, str]]:
    """Returns the official part and the class of each image, from its folders or its box.

    If there is a training folder, images outside the split folders are left out.

    Args:
        source: the images.

    Raises:
        InputError: if no image is in a class folder, or if there are a validation or test folder
            and other class folders, but no training folder.
    """
    if source.cells:
        return {name: ("", cell.class_name) for name, cell in source.cells.items()}
    parts_of = SPLIT_FOLDERS | {
        folder: folder for one in named_datasets().values() for folder in one.repeated
    }
    split: dict[str, tuple[str, str]] = {}
    for name in source.sizes:
        folders = name.split("/")[:-1]
        for depth, folder in enumerate(folders[:-1]):
            if folder.lower() in parts_of:
                split[name] = (parts_of[folder.lower()], folders[depth + 1])
                break
    parts = Counter(part for part, _ in split.values())
    if parts["train"]:
        return split
    if split:  # e.g. only TEST: without a training part, the images have no official split
        _check_all_in_parts(source, split)
        return {name: ("", class_name) for name, (_, class_name) in split.items()}
    return {name: ("", class_name) for name, class_name in _class_folders(source).items()}


def _check_all_in_parts(source: Source, split: Mapping[str, object]) -> None:
    others = sorted({name.rpartition("/")[0] for name in source.sizes if name not in split} - {""})
    if others:
        example = next(iter(split))
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
    return {name: parts[depth] for name, parts in folders.items()}


def _no_images(source: Source) -> str:
    loose = f" ({len(source.sizes)} are directly in it)" if source.sizes else ""
    return (
        f"data.root='{source.root}' has no images in class folders{loose}. Expected "
        f"CLASS/image or train/CLASS/image with one of {', '.join(IMAGE_SUFFIXES)}; or give "
        "data.labels a table with the columns file and class."
    )
