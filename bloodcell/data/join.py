"""Joins several data sets into one table, under common names of the classes."""

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from bloodcell.data.crop import Crop
from bloodcell.data.source import Source
from bloodcell.data.table import Row, Table, build_table, hash_facts, list_rows
from bloodcell.datasets.classes import common, plain
from bloodcell.datasets.named import named_datasets
from bloodcell.errors import InputError, listed


def build_any_table(
    source: Source,
    photo_table: Path | str | None = None,
    labels: Path | str | None = None,
    classes: Mapping[str, str] | None = None,
) -> Table:
    """Builds the table of one or several data sets.

    One data set keeps the names of its classes. Several are joined under the common names
    (`bloodcell.datasets.classes`); a class need not be in all of them. Photographs, cells and
    paths then begin with the name of the data set.

    Args:
        source: the images.
        photo_table: as for `build_table`; of several data sets, only for those of your own.
        labels: as `photo_table`.
        classes: new names of classes, by their names in the data sets; capitals, spaces and a
            plural s are ignored.

    Raises:
        InputError: as `build_table`; or if `classes` names a class that does not occur, or a
            table is given for named data sets alone, or one of labels for several.
    """
    given = {plain(str(name)): str(new) for name, new in (classes or {}).items()}

    def rename(name: str) -> str:
        return given.get(plain(name), name)

    if not source.sets:
        table = build_table(source, photo_table, labels, rename)
        _check_given(classes, [row.folder or row.class_name for row in table.rows])
        return table
    _check_tables(source, photo_table, labels)
    rows: list[Row] = []
    unmapped = unlabelled = 0
    for name, one in source.sets.items():
        own = (None, None) if one.dataset else (photo_table, labels)
        found, unknown = list_rows(one, *own, lambda name: common(rename(name)))
        rows += [_prefixed(row, name) for row in found]
        unmapped += unknown
        unlabelled += len(one.sizes) - len(found) if own[1] else 0
    _check_given(classes, [row.folder or row.class_name for row in rows])
    names = tuple(sorted({row.class_name for row in rows}))
    if len(names) < 2:
        raise InputError(f"data.root={source.root} has only one class ({names[0]}): give another.")
    return Table(tuple(rows), names, unmapped, hash_facts(rows, source), unlabelled)


def _check_tables(
    source: Source, photo_table: Path | str | None, labels: Path | str | None
) -> None:
    """Raises InputError if a table is given for named data sets alone, or one for several."""
    for setting, path in {"data.photos": photo_table, "data.labels": labels}.items():
        if path and all(one.dataset for one in source.sets.values()):
            raise InputError(
                f"{setting}={path} is only for data sets of your own, but data.root has only named "
                f"ones ({listed([*source.sets])}). Leave it out."
            )
    own_sets = [name for name, one in source.sets.items() if not one.dataset]
    if labels and len(own_sets) > 1:
        raise InputError(
            f"data.labels={labels} is for one data set of your own, but data.root has "
            f"{len(own_sets)} ({listed(own_sets)}). Move their images below one folder, or into "
            "class folders."
        )


def known_classes(
    root: str | Sequence[str], classes: Mapping[str, str] | None, labels: str | None
) -> Sequence[str] | None:
    """Returns the classes of a data set that are known without its images, else None.

    Args:
        root: `data.root`.
        classes: `data.classes`.
        labels: `data.labels`.
    """
    own = classes or labels or not isinstance(root, str)
    named = None if own else named_datasets().get(str(root))
    return named.class_names if named else None


def check_crop(source: Source, crop: Crop) -> None:
    """Raises InputError if whole photographs would be shown for each of their cells."""
    if source.cells and crop == "none":
        first = next(iter(source.cells.values())).file
        raise InputError(
            f"data.crop=none shows whole photographs, but {source.root} has boxes of several cells "
            f"in one, e.g. in {first}. Use --data.crop cell."
        )


def hold_out(table: Table, test_on: Sequence[str]) -> Table:
    """Returns a table whose classes are those of the data sets that are trained on.

    Args:
        table: several data sets.
        test_on: names of those that are only tested on.

    Raises:
        InputError: if a name is not that of a data set, or none is left to train on.
    """
    unknown = [name for name in test_on if name not in table.datasets]
    if unknown or len(test_on) >= len(table.datasets):
        what = "is not a data set of" if unknown else "leaves nothing to train on in"
        raise InputError(
            f"data.test_on={listed(unknown or list(test_on))} {what} data.root: it has "
            f"{listed(table.datasets)}. Give some of them."
        )
    trained = {row.class_name for row in table.rows if row.dataset not in test_on}
    return replace(table, class_names=tuple(sorted(trained)))


def _prefixed(row: Row, name: str) -> Row:
    path, photo, cell = (f"{name}/{one}" for one in (row.path, row.photo, row.cell))
    return replace(row, path=path, photo=photo, cell=cell, dataset=name)


def _check_given(classes: Mapping[str, str] | None, found: Collection[str]) -> None:
    occur = {plain(name): name for name in found}
    for name in classes or {}:
        if plain(str(name)) not in occur:
            near = difflib.get_close_matches(plain(str(name)), occur, n=1)
            hint = f" Did you mean {occur[near[0]]!r}?" if near else ""
            raise InputError(
                f"data.classes: no image has the class {name!r}. The classes are "
                f"{listed(sorted(occur.values()), 20)}.{hint}"
            )
