"""The table of a data set, with class, official part, photograph and cell of each image."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bloodcell.data.layout import find_labelled_places, find_places, split_folder
from bloodcell.data.source import Source
from bloodcell.datasets import photos
from bloodcell.datasets.classes import plain
from bloodcell.errors import InputError, listed

PARTS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Row:
    """One image.

    Attributes:
        path: name within the source, with forward slashes.
        class_name: name of the class.
        official: part in the official split: train, val or test; empty without an official split;
            or the name of a folder of a named data set that belongs to no part.
        photo: name of the photograph that the image was made from; for a boxed cell, the cell's own
            name, because the cells of a photograph can have several classes.
        cell: name of a group that no split divides: the images of one white cell or, for boxed
            cells, those of one slide.
        dataset: name of the data set.
        folder: the class as the data set names it; None if that name is `class_name`.
    """

    path: str
    class_name: str
    official: str
    photo: str
    cell: str
    dataset: str = ""
    folder: str | None = None


@dataclass(frozen=True)
class Table:
    """All images of a data set.

    Attributes:
        rows: the rows, sorted by path.
        class_names: the classes, sorted; the label of a class is its index. With `test_on`, only
            those of the data sets that are trained on.
        unmapped: number of images that no photo table contains; each counts as a photograph.
        fingerprint: hash of the `fact` of each row, 16 hexadecimal digits.
        unlabelled: number of images that are left out because no label table names them.
    """

    rows: tuple[Row, ...]
    class_names: tuple[str, ...]
    unmapped: int
    fingerprint: str
    unlabelled: int = 0

    @cached_property
    def labels(self) -> list[int]:
        """The label of each row, from 0; -1 if its class is not in `class_names`."""
        index = {name: label for label, name in enumerate(self.class_names)}
        return [index.get(row.class_name, -1) for row in self.rows]

    def numbers_of_sets(self, rows: Iterable[int]) -> list[int]:
        """Returns the index in `datasets` of the data set of each of these rows."""
        index = {name: number for number, name in enumerate(self.datasets)}
        return [index[self.rows[row].dataset] for row in rows]

    @cached_property
    def datasets(self) -> list[str]:
        """The names of the data sets, sorted."""
        return sorted({row.dataset for row in self.rows})


def build_table(
    source: Source,
    photo_table: Path | str | None = None,
    labels: Path | str | None = None,
    rename: Callable[[str], str] = str,
) -> Table:
    """Builds the table of one data set.

    The expected layout is `.../[train|val|test]/CLASS/.../image`. If there is a training folder,
    images outside the split folders are ignored (the Kaggle archive's original photographs).
    With `labels`, the layout is `.../[train|val|test]/.../image`, and images that the label table
    does not name are ignored.

    Args:
        source: the images.
        photo_table: CSV file for `photos.read`. None: the photo table of the source or, for a copy
            of a named data set, the table shipped with the package. An image that no table
            contains counts as a photograph.
        labels: CSV file for `read_labels`; None takes the classes from the folders, or from the
            table of boxes.
        rename: returns the name of a class from its name in the data set.

    Raises:
        InputError: if there are no images, fewer than two classes, classes with almost the same
            name or photographs with two classes, if the given photo table does not contain every
            image once, or if the label table does not match the images.
    """
    rows, unmapped = list_rows(source, photo_table, labels, rename)
    classes = sorted({row.class_name for row in rows})
    _check_classes(source, classes, labels)
    unlabelled = len(source.sizes) - len(rows) if labels else 0
    return Table(tuple(rows), tuple(classes), unmapped, hash_facts(rows, source), unlabelled)


def count_outside(table: Table, source: Source) -> int:
    """Counts the images without a class folder; named data sets have some on purpose."""
    sets = source.sets or {source.name: source}
    own = {name: one for name, one in sets.items() if not one.dataset}
    used = sum(row.dataset in own for row in table.rows)
    found = sum(len(one.sizes) for one in own.values())
    return found - used - table.unlabelled if own else 0


def list_rows(
    source: Source,
    photo_table: Path | str | None,
    labels: Path | str | None,
    rename: Callable[[str], str],
) -> tuple[list[Row], int]:
    """Lists the images of one data set, with any number of classes.

    Args:
        source: the images.
        photo_table: as for `build_table`.
        labels: as for `build_table`.
        rename: as for `build_table`.

    Returns:
        The rows, sorted by path, and the number of images that no photo table contains.

    Raises:
        InputError: as `build_table`, except for the number and the names of the classes.
    """
    placed = find_labelled_places(source, Path(labels)) if labels else find_places(source)
    own = photo_table or source.photos
    origins, unmapped = _origins(source, placed, Path(own) if own else None)
    named = {folder: rename(folder) for _, folder in placed.values()}
    rows = [
        Row(
            *(name, named[folder], official, *origins[name], source.name),
            folder if named[folder] != folder else None,
        )
        for name, (official, folder) in sorted(placed.items())
    ]
    _check_one_class(rows)
    return rows, unmapped


def hash_facts(rows: Iterable[Row], source: Source) -> str:
    """Returns a hash of the `fact` of each row, 16 hexadecimal digits."""
    text = "\n".join(" ".join(fact(row, source)) for row in rows)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _check_classes(source: Source, classes: list[str], labels: Path | str | None) -> None:
    found = f"only one class ({classes[0]})" if len(classes) < 2 else ""
    if not labels and all(map(split_folder, classes)):
        found = f"parts without class folders ({', '.join(classes)})"
    if found:
        raise InputError(
            f"data.root='{source.root}' has {found}. Use a folder of at least two class folders, "
            "or give data.labels a table with the columns file and class."
        )
    alike: dict[str, str] = {}
    for name in classes:
        if (other := alike.setdefault(plain(name), name)) != name:
            place = f"in data.labels={labels}" if labels else "of the folders"
            raise InputError(
                f"data.root='{source.root}': the classes {other!r} and {name!r} have almost the "
                f"same name, so they are probably one class. Correct the names {place}."
            )


def _origins(
    source: Source, names: Iterable[str], own: Path | None
) -> tuple[dict[str, photos.Origin], int]:
    """Returns the origin of each image, and the number of images that no photo table contains."""
    if source.cells and own is None:
        return {name: photos.Origin(name, source.cells[name].slide) for name in names}, 0
    # paths include the root's name, because the root may be images/TRAIN itself
    paths = {name: f"{source.root.name}/{name}" for name in names}
    shipped = source.dataset.photo_table() if source.dataset else {}
    table = photos.read(own) if own else shipped
    keys = {name: photos.find(table, path) for name, path in paths.items()}
    unlisted = [name for name, key in keys.items() if key is None]
    if own and unlisted:
        raise InputError(
            f"data.photos='{own}' has no line for {len(unlisted)} of {len(paths)} images "
            f"({listed(unlisted, 3)}). Add them: every image needs its photograph."
        )
    if own:
        _check_unique(own, keys)
    origins = {name: table[key] if key else photos.Origin(name, name) for name, key in keys.items()}
    return origins, len(unlisted)


def fact(row: Row, source: Source) -> tuple[str, str]:
    """Returns a name (official part, class, file) and its properties (size, photograph, cell).

    With several data sets, the name begins with that of the data set.
    """
    name = f"{row.official}/{row.class_name}/{row.path.split('/')[-1]}"
    centre = source.centre(row.path) or ()
    properties = (source.sizes[row.path], row.photo, row.cell, *centre)
    return f"{row.dataset}/{name}" if source.sets else name, " ".join(map(str, properties))


def _check_unique(own: Path, keys: Mapping[str, str | None]) -> None:
    found: dict[str | None, str] = {}
    for name, key in keys.items():
        if found.setdefault(key, name) != name:
            raise InputError(
                f"data.photos='{own}': the line of {key!r} matches several images ({found[key]}, "
                f"{name}). Name each with its folders, as in {name!r}."
            )


def _check_one_class(rows: Iterable[Row]) -> None:
    found: dict[str, Row] = {}
    for row in rows:
        first = found.setdefault(row.photo, row)
        if first.class_name != row.class_name:
            raise InputError(
                f"Photograph {row.photo!r} has images of two classes ({first.path}, {row.path}). "
                "A photograph has one class: correct the photo table, or move the image."
            )
