"""`bloodcell audit`: finds faults in a folder of images before training."""

import contextlib
import csv
import io
import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError
from rich.console import Console
from rich.progress import Progress

from bloodcell.audit.console import print_audit
from bloodcell.audit.copies import Copies, find_copies
from bloodcell.audit.features import ImageFeatures, compute_features
from bloodcell.audit.findings import ScannedFile, describe, sure_word
from bloodcell.audit.store import open_store
from bloodcell.data.decode import note_of, open_rgb
from bloodcell.data.image_files import READ_ERRORS
from bloodcell.data.source import Source, open_source
from bloodcell.data.table import Row, Table, build_table, count_outside
from bloodcell.datasets.chula import BOXES
from bloodcell.errors import InputError, reason, renamed, require
from bloodcell.files import check_place, write_whole
from bloodcell.machine import usable_cpus
from bloodcell.memory import keep_memory

# settings of `fit` in error messages, and the options of `audit` that stand for them
_OPTIONS = {
    r"--data\.root (\w+)": r"\1 as FOLDER",
    **{
        rf"(?<![\w./'-])(--)?{re.escape(setting)}(?!\.?\w)": option  # not within a file name
        for setting, option in (
            ("data.root", "FOLDER"),
            ("data.photos", "--photos"),
            ("data.labels", "--label_table"),
        )
    },
}
_TOGETHER = 16  # images per task; one task per image would need a kilobyte for every image


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
    The exit status is 1 if images of one photograph, scene, field or cell are in more than one of
    the parts train, val and test.
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
        labels: run folders, or .ckpt or .safetensors files of models: list the photographs with
            the most doubtful labels. Each is judged only by models that were not trained on it
            (default: none).
        sheet: with --labels, a .png file for pictures of the most doubted labels (default: none).

    Returns:
        Whether all images of each photograph, scene, field and cell are in one part.

    Raises:
        InputError: if every image is unreadable, a file cannot be written, or the options of
            --labels do not fit.
    """
    read = [Path(one).resolve() for one in (photos, label_table) if one]
    _check_written("--out", out, ".csv" if labels else ".json", read)
    _check_written("--write_photos", write_photos, ".csv", read)
    _check_written("--sheet", sheet, ".png", read)
    require(not (labels and write_photos), "--write_photos", write_photos, "used without --labels")
    require(bool(labels) or not sheet, "--sheet", sheet, "used with --labels")
    keep_memory()
    with renamed(_OPTIONS):
        source = open_source(folder)
        table = build_table(source, photos, label_table)
    if labels:
        from bloodcell.audit.doubts import examine_labels  # needs PyTorch

        examine_labels(source, table, labels, out, sheet)
        return True
    found, copies, rows = _audit_pixels(source, table)
    print_audit(found)  # first, because a file may not be writable
    if out:
        with write_whole(Path(out)) as file:
            file.write(json.dumps(found, indent=1) + "\n")
        print(out)
    if write_photos:
        _write_photos(Path(write_photos), table, copies, rows)
        first = "correct the labels first, then " if found["label_conflicts"] else ""
        print(f"{write_photos}: {first}give it to fit with --data.photos {write_photos}")
    compared = found["photo_table"] or {"leaks": []}
    return not (found["leaks"] or found["scene_leaks"] or compared["leaks"])


def _check_written(flag: str, path: str | None, kind: str, read: Sequence[Path]) -> None:
    check_place(flag, path, kind)
    new = path is None or Path(path).resolve() not in read
    require(new, flag, path, "a file other than the tables that are read")


def _audit_pixels(source: Source, table: Table) -> tuple[dict[str, Any], Copies, list[Row]]:
    """Returns the findings, the copies, and the rows of the readable images."""
    if source.cells:
        raise InputError(
            f"audit {source.root}: its table {BOXES} names several cells of one picture, but audit "
            "compares pictures that have one class each. Give it pictures of single cells."
        )
    start = time.perf_counter()
    files, copies, rows = _scan(source, table)
    found = describe(table, files, copies, rows) | {
        "root": str(source.root),
        "left_out": dict(source.left_out),
        "outside": count_outside(table, source) + table.unlabelled,
        "seconds": round(time.perf_counter() - start, 1),
    }
    return found, copies, rows


def _write_photos(path: Path, table: Table, copies: Copies, rows: Sequence[Row]) -> None:
    """Writes a photo table, in which each unreadable image counts as one photograph."""
    several = np.bincount(copies.photo) > 1
    readable = {}
    each = zip(rows, copies.photo, copies.field, copies.photo_likeness, strict=True)
    for row, photo, field, likeness in each:
        sure = (sure_word(likeness), f"{likeness:.3f}") if several[photo] else ("", "")
        readable[row.path] = (f"p{photo}", f"c{field}", *sure)
    with write_whole(path) as file:
        lines = csv.writer(file)
        lines.writerow(["file", "photo", "cell", "sure", "likeness"])
        for number, row in enumerate(table.rows):
            alone = (f"unreadable{number}", f"unreadable{number}", "", "")
            lines.writerow([row.path, *readable.get(row.path, alone)])


def _scan(source: Source, table: Table) -> tuple[list[ScannedFile], Copies, list[Row]]:
    """Reads all images; returns the files, the copies, and the rows of the readable images."""
    cv2.setNumThreads(1)  # the thread pool below uses all cores
    console = Console(file=sys.stderr)
    n = len(table.rows)
    files: list[ScannedFile] = []
    with (
        Progress(console=console, transient=True, disable=not sys.stderr.isatty()) as bar,
        source.reader() as read,
        open_store() as store,
    ):
        reading = bar.add_task("reading images", total=n)

        def scan_some(start: int) -> list[tuple[ScannedFile, ImageFeatures | None]]:
            return [_scan_file(read, row.path) for row in table.rows[start : start + _TOGETHER]]

        with ThreadPoolExecutor(usable_cpus()) as pool:
            for some in pool.map(scan_some, range(0, n, _TOGETHER)):
                for file, features in some:
                    files.append(file)
                    if features:
                        store.append(features)
                    bar.advance(reading)
        comparing = bar.add_task("comparing them", total=1)
        if not len(store):
            raise InputError(f"{source.root}: none of its {n:,} images can be read.")
        copies = find_copies(store, lambda share: bar.update(comparing, completed=share))
    pairs = zip(table.rows, files, strict=True)
    return files, copies, [row for row, file in pairs if not file.reason]


def _scan_file(read: Callable[[str], bytes], path: str) -> tuple[ScannedFile, ImageFeatures | None]:
    """Reads an image file; returns its description and, if it is readable, its features."""
    try:
        data = read(path)
        shown = open_rgb(data)
        features = compute_features(np.asarray(shown))
        width, height, mode = *shown.size, "other"
        with (
            contextlib.suppress(UnidentifiedImageError),
            Image.open(io.BytesIO(data)) as header,
        ):
            width, height, mode = *header.size, header.mode
    except READ_ERRORS as error:
        return ScannedFile(reason=reason(error)), None
    found = (features.digest, features.comparable, f"{width}x{height}", mode)
    return ScannedFile(*found, note=note_of(shown)), features
