"""Arranges the findings of `bloodcell audit` in the layout of its JSON file."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from bloodcell.audit.copies import Copies
from bloodcell.audit.groups import SURE
from bloodcell.data.table import PARTS, Row, Table


class ScannedFile(NamedTuple):
    """The result of reading an image file.

    Attributes:
        digest: hash of the pixels; empty if the file is unreadable.
        comparable: whether copies with other pixels can be recognised.
        size: width x height of the stored image.
        mode: colour mode, in Pillow's notation.
        reason: reason why the file is unreadable; empty otherwise.
        note: how the image was changed when it was read, e.g. scaled; empty if it was not.
    """

    digest: bytes = b""
    comparable: bool = False
    size: str = ""
    mode: str = ""
    reason: str = ""
    note: str = ""


def sure_word(likeness: float) -> str:
    """Says how sure it is that images were rightly joined.

    Args:
        likeness: of their least alike join; 1 only if all their pixels are equal.
    """
    if likeness == 1:
        return "equal"
    return "sure" if likeness >= SURE else "likely"


def describe(
    table: Table, files: Sequence[ScannedFile], copies: Copies, rows: Sequence[Row]
) -> dict[str, Any]:
    """Returns the findings in the layout of the JSON file.

    Args:
        table: all images.
        files: the result of reading each image.
        copies: the copies among the n readable images.
        rows: (n,) rows of the readable images.
    """
    digests: defaultdict[bytes, list[str]] = defaultdict(list)
    for row, one in zip(table.rows, files, strict=True):
        if one.digest:
            digests[one.digest].append(row.path)
    readable = [one for one in files if not one.reason]
    lists = _list_groups(copies, rows)
    return {
        "images": len(table.rows),
        "classes": _count(rows, copies.photo, [row.class_name for row in rows]),
        "parts": _count(rows, copies.photo, [row.official or "all" for row in rows]),
        "unreadable": {
            row.path: one.reason for row, one in zip(table.rows, files, strict=True) if one.reason
        },
        "notes": {
            row.path: one.note for row, one in zip(table.rows, files, strict=True) if one.note
        },
        "sizes": dict(Counter(one.size for one in readable).most_common()),
        "modes": dict(Counter(one.mode for one in readable).most_common()),
        "equal_pixels": [names for names in digests.values() if len(names) > 1],
        "photographs": int(copies.photo.max()) + 1,
        "scenes": int(copies.scene.max()) + 1,
        "fields": int(copies.field.max()) + 1,
        "without_features": sum(not one.comparable for one in readable),
        **{name: [group.paths for group in groups] for name, groups in lists.items()},
        "likeness": {
            name: [round(group.likeness, 3) for group in groups] for name, groups in lists.items()
        },
        "photo_table": _compare(copies, rows) if not table.unmapped else None,
    }


def _list_groups(copies: Copies, rows: Sequence[Row]) -> dict[str, list["_Group"]]:
    """Returns the groups of each list of the JSON file."""
    photos = _groups(copies.photo, copies.photo_likeness, rows)
    scenes = _groups(copies.scene, copies.scene_likeness, rows)
    fields = _groups(copies.field, copies.field_likeness, rows)
    # scenes and fields with one photograph are already listed as photographs
    whole = {tuple(group.paths) for group in photos}
    scenes, fields = ([one for one in x if tuple(one.paths) not in whole] for x in (scenes, fields))
    return {
        "copies": [group for group in photos if len(group.rows) > 1],
        "overlaps": fields,
        "leaks": [group.by_part() for group in photos if _crosses(group.rows)],
        "scene_leaks": [group.by_part() for group in fields if _crosses(group.rows)],
        "label_conflicts": [group.by_class() for group in photos if _contradicts(group.rows)],
        "scene_label_conflicts": [group.by_class() for group in scenes if _contradicts(group.rows)],
    }


class _Group(NamedTuple):
    """Images of one photograph, scene or field, and the likeness of its least alike join."""

    rows: list[Row]
    likeness: float

    @property
    def paths(self) -> list[str]:
        return _paths(self.rows)

    def by_part(self) -> "_Group":
        """Returns the group sorted by part, so that its first and last image show the leak."""
        return self._replace(rows=_by_part(self.rows))

    def by_class(self) -> "_Group":
        """Returns the group sorted by class, so that its first and last image contradict."""
        one = self.rows[0].class_name
        return self._replace(rows=sorted(self.rows, key=lambda row: row.class_name != one))


def _groups(
    numbers: Iterable[int], likenesses: Iterable[float], rows: Sequence[Row]
) -> list[_Group]:
    groups: dict[int, _Group] = {}
    for number, likeness, row in zip(numbers, likenesses, rows, strict=True):
        groups.setdefault(int(number), _Group([], float(likeness))).rows.append(row)
    return list(groups.values())


def _count(
    rows: Sequence[Row], photo: Sequence[int] | np.ndarray[Any, Any], keys: Sequence[str]
) -> dict[str, dict[str, int]]:
    found: defaultdict[str, set[int]] = defaultdict(set)
    for number, key in zip(photo, keys, strict=True):
        found[key].add(int(number))
    files = Counter(keys)
    return {key: {"files": files[key], "photographs": len(found[key])} for key in sorted(found)}


def _crosses(group: Sequence[Row]) -> bool:
    """Returns whether a group is in more than one part."""
    return len({row.official for row in group} & {*PARTS}) > 1


def _contradicts(group: Sequence[Row]) -> bool:
    """Returns whether a group is in more than one class."""
    return len({row.class_name for row in group}) > 1


def _by_part(group: Sequence[Row]) -> list[Row]:
    """Sorts images: those of one part, those of no part, and those of the other parts."""
    one = next(row.official for row in group if row.official in PARTS)
    place = dict.fromkeys(PARTS, 2) | {one: 0}
    return sorted(group, key=lambda row: place.get(row.official, 1))


def _paths(group: Sequence[Row]) -> list[str]:
    return [row.path for row in group]


def _compare(copies: Copies, rows: Sequence[Row]) -> dict[str, Any]:
    """Compares the detected photographs with those of the photo table."""
    expected = np.unique([row.photo for row in rows], return_inverse=True)[1]
    together = Counter(zip(copies.photo.tolist(), expected.tolist(), strict=True))

    def pairs(counts: Iterable[int]) -> int:
        return sum(count * (count - 1) // 2 for count in counts)

    def share(part: int, whole: int) -> float:
        return part / whole if whole else 1.0  # no pairs, so none is wrong

    parts = Counter(photo for _, photo in together)  # number of groups per photograph
    mixed = Counter(found for found, _ in together)
    exact = sum(parts[photo] == 1 and mixed[found] == 1 for found, photo in together)
    right = pairs(together.values())
    cells: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        cells[row.cell].append(row)
    several = [group for group in cells.values() if len({row.photo for row in group}) > 1]
    return {
        "photographs": len(parts),
        "found_exactly": exact,
        "groups_of_several_photographs": sum(count > 1 for count in mixed.values()),
        "recall_of_pairs": share(right, pairs(Counter(expected.tolist()).values())),
        "precision_of_pairs": share(right, pairs(Counter(copies.photo.tolist()).values())),
        "cells_photographed_more_than_once": len(several),
        "leaks": [_paths(_by_part(group)) for group in cells.values() if _crosses(group)],
    }
