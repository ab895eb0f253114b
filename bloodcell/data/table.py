"""The table of a data set: one row an image, with its class, official split, photograph, cell."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bloodcell.data.source import IMAGE_SUFFIXES, Source
from bloodcell.datasets import photos
from bloodcell.errors import InputError, listed

# what folders of a ready-made split are called, and the part each one means
SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
    "test_simple": "test_simple",  # the Kaggle set's TEST photographs once more, without copies
}


@dataclass(frozen=True, slots=True)
class Row:
    """One image.

    Attributes:
        path: name within the source, forward slashes.
        class_name: the folder of its class.
        official: part its folder says: train, val, test, test_simple or, if none, "".
        photo: the photograph it was made from.
        cell: the white cell it shows.
    """

    path: str
    class_name: str
    official: str
    photo: str
    cell: str


@dataclass(frozen=True)
class Table:
    """All images of a data set.

    Attributes:
        rows: one for each image, sorted by path.
        class_names: the classes, sorted; a class's label is its place here.
        unmapped: number of images that no photo table knows: each counts as its own photograph.
        fingerprint: 16 hexadecimal digits that change when a file, its size or what is known of
            it does: what a split depends on.
        facts: of each row, its name (official part, class, file) and what else the fingerprint is
            made from.
    """

    rows: tuple[Row, ...]
    class_names: tuple[str, ...]
    unmapped: int
    fingerprint: str
    facts: tuple[tuple[str, str], ...] = ()

    @cached_property
    def labels(self) -> list[int]:
        """The label of each row, 0 to the number of classes less 1."""
        place = {name: label for label, name in enumerate(self.class_names)}
        return [place[row.class_name] for row in self.rows]


def build_table(source: Source, photo_table: Path | None = None) -> Table:
    """Makes the table of a source.

    Folders are read as `.../[train|val|test]/CLASS/.../image`. Where any image lies below a split
    folder, images outside of one do not count (the Kaggle archive's original photographs).

    Args:
        source: the images.
        photo_table: CSV as `photos.read` takes it; None: the one that came with the source, else
            the shipped one of the Kaggle set; a file that neither knows is its own photo.

    Raises:
        InputError: if there are no images, fewer than two classes, or the photo table leaves
            images out.
    """
    placed = _places(source)
    classes = sorted({class_name for _, class_name in placed.values()})
    if len(classes) < 2:
        raise InputError(
            f"data.root='{source.root}' has one class only ({classes[0]}). Point it at the folder "
            "that holds the class folders, at least two."
        )
    own = photo_table or source.photos
    table = photos.read(own) if own else photos.shipped()
    # the root's own name counts too: the root may be images/TRAIN itself
    keys = {name: photos.find(table, f"{source.root.name}/{name}") for name in placed}
    lost = [name for name, key in keys.items() if key is None]
    if own and lost:
        raise InputError(
            f"data.photos='{own}' has no line for {len(lost)} of {len(placed)} images "
            f"({listed(lost, 3)}). Add them: every image needs its photograph."
        )
    if own:
        _check_unique(own, keys)
    rows = []
    for name, (official, class_name) in sorted(placed.items()):
        key = keys[name]
        origin = table[key] if key else photos.Origin(name, name)
        rows.append(Row(name, class_name, official, origin.photo, origin.cell))
    facts = tuple(
        (
            f"{r.official}/{r.class_name}/{r.path.split('/')[-1]}",
            f"{source.sizes[r.path]} {r.photo} {r.cell}",
        )
        for r in rows
    )
    text = "\n".join(" ".join(fact) for fact in facts).encode("utf-8", "surrogateescape")
    _check_one_class(rows)
    digest = hashlib.sha256(text).hexdigest()[:16]
    return Table(tuple(rows), tuple(classes), len(lost), digest, facts)


def _check_unique(own: Path, keys: Mapping[str, str | None]) -> None:
    found: dict[str | None, str] = {}
    for name, key in keys.items():
        if found.setdefault(key, name) != name:
            raise InputError(
                f"data.photos='{own}': the line of {key!r} fits several images ({found[key]}, "
                f"{name}). Name each with its folders, as in {name!r}."
            )


def _check_one_class(rows: Iterable[Row]) -> None:
    found: dict[str, Row] = {}
    for row in rows:
        first = found.setdefault(row.photo, row)
        if first.class_name != row.class_name:
            raise InputError(
                f"Photograph {row.photo!r} has images of two classes ({first.path}, {row.path}). "
                "A photograph has one class: mend the photo table, or move the image."
            )


def _places(source: Source) -> dict[str, tuple[str, str]]:
    """Tells the official part and the class of each image from its folders."""
    split: dict[str, tuple[str, str]] = {}
    for name in source.sizes:
        folders = name.split("/")[:-1]
        for depth, folder in enumerate(folders[:-1]):
            if folder.lower() in SPLIT_FOLDERS:
                split[name] = (SPLIT_FOLDERS[folder.lower()], folders[depth + 1])
                break
    parts = Counter(part for part, _ in split.values())
    if parts["train"]:
        return split
    if split:  # TEST alone, say: nothing to train on, so its files are a data set like any other
        return {name: ("", class_name) for name, (_, class_name) in split.items()}
    return {name: ("", class_name) for name, class_name in _class_folders(source).items()}


def _class_folders(source: Source) -> dict[str, str]:
    """Takes the first level of folders at which the images part as the classes."""
    folders = {name: name.split("/")[:-1] for name in source.sizes if "/" in name}
    if not folders:
        raise InputError(_no_images(source))
    shortest = min(folders.values(), key=len)
    depth = 0
    while depth < len(shortest) - 1 and len({f[depth] for f in folders.values()}) == 1:
        depth += 1
    return {name: parts[depth] for name, parts in folders.items()}


def _no_images(source: Source) -> str:
    loose = f" ({len(source.sizes)} lie in it directly: is it one class?)" if source.sizes else ""
    return (
        f"data.root='{source.root}' has no images in class folders{loose}. Expected "
        f"CLASS/image or train/CLASS/image with one of {', '.join(IMAGE_SUFFIXES)}."
    )
