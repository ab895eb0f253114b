"""`bloodcell audit`: finds faults in a folder of images before training."""

import contextlib
import csv
import io
import json
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError
from rich.console import Console
from rich.progress import Progress

from bloodcell.audit.console import print_audit
from bloodcell.audit.copies import Copies, find_copies
from bloodcell.audit.features import ImageFeatures, compute_features
from bloodcell.data.decode import READ_ERRORS, note_of, open_rgb
from bloodcell.data.source import Source, open_source
from bloodcell.data.table import PARTS, Row, Table, build_table
from bloodcell.errors import InputError, reason, require
from bloodcell.files import check_place, write_whole
from bloodcell.memory import keep_memory

_TOGETHER = 16  # images per task; a task for each image would take a kilobyte each


class ScannedFile(NamedTuple):
    """The result of reading an image file.

    Attributes:
        features: features for the search for copies; None if the file is unreadable.
        size: width x height of the stored image.
        mode: colour mode, in Pillow's notation.
        reason: reason why the file is unreadable; empty otherwise.
        note: what was left out of the image or scaled; empty if nothing.
    """

    features: ImageFeatures | None
    size: str = ""
    mode: str = ""
    reason: str = ""
    note: str = ""


def audit(
    folder: str,
    photos: str | None = None,
    label_table: str | None = None,
    out: str | None = None,
    write_photos: str | None = None,
    labels: list[str] | None = None,
    sheet: str | None = None,
) -> bool:
    """Finds copies, leaks, label conflicts and unreadable images in a folder.

    Copies of a photograph are found from pixels, even if rotated, sheared or mirrored.
    The exit status is 1 if images of one photograph or scene are in two parts.
    With --labels, only the labels are examined, and the exit status is 0.

    Args:
        folder: a folder of class folders, or a .zip of one.
        photos: a photo table to compare with, a CSV file with the columns file, photo and, if
            known, cell (default: the table of the named data set, if it has one).
        label_table: a CSV file with the columns file and class, for images that are not in class
            folders (default: the class folders).
        out: a .json file for all findings; with --labels, a .csv file (default: none).
        write_photos: a .csv file for a photo table of the found photographs, for --data.photos
            (default: none).
        labels: run folders, or .ckpt or .safetensors files of models: list the photographs whose
            labels those of them doubt most that were not trained on them (default: none).
        sheet: with --labels, a .png file for pictures of the most doubted labels (default: none).

    Returns:
        Whether all images of each photograph, scene and cell are in one part.

    Raises:
        InputError: if every image is unreadable, a file cannot be written, or the options of
            --labels do not fit.
    """
    check_place("--out", out, ".csv" if labels else ".json")
    check_place("--write_photos", write_photos, ".csv")
    check_place("--sheet", sheet, ".png")
    require(not (labels and write_photos), "--write_photos", write_photos, "used without --labels")
    require(bool(labels) or not sheet, "--sheet", sheet, "used with --labels")
    keep_memory()
    start = time.perf_counter()
    source = open_source(folder)
    table = build_table(source, photos, label_table)
    if labels:
        from bloodcell.audit.doubts import examine_labels  # needs PyTorch

        examine_labels(source, table, labels, out, sheet)
        return True
    files, copies, rows = _scan(source, table)
    found = describe(table, files, copies, rows) | {
        "root": str(source.root),
        "left_out": dict(source.left_out),
        "seconds": round(time.perf_counter() - start, 1),
    }
    if out:
        with write_whole(Path(out)) as file:
            file.write(json.dumps(found, indent=1) + "\n")
    if write_photos:
        _write_photos(Path(write_photos), table, copies, rows)
    print_audit(found)
    if out:
        print(out)
    if write_photos:
        first = "correct the labels first, then " if found["label_conflicts"] else ""
        print(f"{write_photos}: {first}give it to fit with --data.photos {write_photos}")
    compared = found["photo_table"] or {"leaks": []}
    return not (found["leaks"] or found["scene_leaks"] or compared["leaks"])


def _write_photos(path: Path, table: Table, copies: Copies, rows: Sequence[Row]) -> None:
    """Writes a photo table, in which each unreadable image counts as one photograph."""
    readable = {
        row.path: (f"p{photo}", f"c{scene}")
        for row, photo, scene in zip(rows, copies.photo, copies.scene, strict=True)
    }
    with write_whole(path) as file:
        lines = csv.writer(file)
        lines.writerow(["file", "photo", "cell"])
        for number, row in enumerate(table.rows):
            alone = (f"unreadable{number}", f"unreadable{number}")
            lines.writerow([row.path, *readable.get(row.path, alone)])


def _scan(source: Source, table: Table) -> tuple[list[ScannedFile], Copies, list[Row]]:
    """Reads all images; returns the files, the copies, and the rows of the readable images."""
    cv2.setNumThreads(1)  # the thread pool below uses all cores
    console = Console(file=sys.stderr)
    with (
        Progress(console=console, transient=True, disable=not sys.stderr.isatty()) as bar,
        source.reader() as read,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        n = len(table.rows)
        reading = bar.add_task("reading images", total=n)

        def scan(row: Row) -> ScannedFile:
            try:
                data = read(row.path)
                shown = open_rgb(data)
                features = compute_features(np.asarray(shown))
                width, height, mode = *shown.size, "other"
                with (
                    contextlib.suppress(UnidentifiedImageError),
                    Image.open(io.BytesIO(data)) as header,
                ):
                    width, height, mode = *header.size, header.mode
                return ScannedFile(features, f"{width}x{height}", mode, note=note_of(shown))
            except READ_ERRORS as error:
                return ScannedFile(None, reason=reason(error))
            finally:
                bar.advance(reading)

        def scan_some(start: int) -> list[ScannedFile]:
            return [scan(row) for row in table.rows[start : start + _TOGETHER]]

        files = list(chain.from_iterable(pool.map(scan_some, range(0, n, _TOGETHER))))
        pairs = zip(table.rows, files, strict=True)
        readable = [(row, file.features) for row, file in pairs if file.features]
        comparing = bar.add_task("comparing them", total=1)
        if not readable:
            raise InputError(f"{source.root}: none of its {n:,} images can be read.")
        found = [features for _, features in readable]
        copies = find_copies(found, lambda share: bar.update(comparing, completed=share))
    return files, copies, [row for row, _ in readable]


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
    photos = _groups(copies.photo, rows)
    whole = {tuple(_paths(group)) for group in photos}
    # scenes with one photograph are already listed as photographs
    scenes = [one for one in _groups(copies.scene, rows) if tuple(_paths(one)) not in whole]
    digests: defaultdict[bytes, list[str]] = defaultdict(list)
    for row, one in zip(table.rows, files, strict=True):
        if one.features:
            digests[one.features.digest].append(row.path)
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
        "sizes": dict(Counter(one.size for one in files if one.features).most_common()),
        "modes": dict(Counter(one.mode for one in files if one.features).most_common()),
        "copies": [_paths(group) for group in photos if len(group) > 1],
        "equal_pixels": [names for names in digests.values() if len(names) > 1],
        "photographs": len(photos),
        "scenes": int(copies.scene.max()) + 1,
        "without_features": sum(
            one.features is not None and not one.features.comparable for one in files
        ),
        "leaks": [_paths(group) for group in photos if _crosses(group)],
        "scene_leaks": [_paths(group) for group in scenes if _crosses(group)],
        "label_conflicts": [_paths(group) for group in photos if _contradicts(group)],
        "scene_label_conflicts": [_paths(group) for group in scenes if _contradicts(group)],
        "photo_table": _compare(copies, rows) if not table.unmapped else None,
    }


def _groups(numbers: Iterable[int], rows: Sequence[Row]) -> list[list[Row]]:
    groups: defaultdict[int, list[Row]] = defaultdict(list)
    for number, row in zip(numbers, rows, strict=True):
        groups[int(number)].append(row)
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
        "leaks": [_paths(group) for group in cells.values() if _crosses(group)],
    }
