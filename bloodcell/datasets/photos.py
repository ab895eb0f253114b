"""Photo tables: which photograph, and which cell, an image file was made from.

The Kaggle set ships augmented copies without saying of what. The table in this package was measured
from pixels: every file was registered (SIFT features, affine model) against the 366 photographs of
the original BCCD set; all 12,515 files found theirs, and all labels agree. `photo` is the number
in the name of the original photograph; `cell` is equal for photographs that show the same cell.
"""

import csv
import io
import lzma
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from bloodcell.errors import InputError, listed

COLUMNS = ("file", "photo")


class Origin(NamedTuple):
    """What an image file was made from.

    Attributes:
        photo: name of the photograph.
        cell: name of the white cell it shows; several photographs may share one.
    """

    photo: str
    cell: str


PhotoTable = Mapping[str, Origin]


def shipped() -> PhotoTable:
    """Reads the table of the Kaggle set: 12,515 files, 348 photographs, 325 cells."""
    packed = resources.files("bloodcell.datasets").joinpath("kaggle_photos.csv.xz").read_bytes()
    return _parse(io.StringIO(lzma.decompress(packed).decode()), "the shipped photo table")


def read(path: Path) -> PhotoTable:
    """Reads a photo table from a CSV file.

    Args:
        path: CSV with the columns `file` (the end of the image's path, forward slashes), `photo`
            and, if known, `cell` (default: each photograph shows a cell of its own).

    Raises:
        InputError: if the file is missing, is no CSV, lacks a column or contradicts itself.
    """
    label = f"data.photos='{path}'"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return _parse(file, label)
    except OSError as error:
        raise InputError(
            f"{label} cannot be read ({error.strerror}). Give a CSV file with the columns "
            f"{', '.join(COLUMNS)} and, if known, cell."
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{label} is no CSV file in UTF-8 ({error}). Save it as one.") from error


def find(table: PhotoTable, path: str) -> str | None:
    """Looks an image up by its path or, failing that, by ever shorter ends of it.

    Args:
        table: the photo table.
        path: path of the image, forward slashes.

    Returns:
        The name under which the table has it, None if it has not.
    """
    parts = path.split("/")
    ends = ("/".join(parts[start:]) for start in range(len(parts)))
    return next((end for end in ends if end in table), None)


def _parse(lines: Iterable[str], label: str) -> PhotoTable:
    rows = csv.DictReader(lines)
    columns = rows.fieldnames or []
    missing = [name for name in COLUMNS if name not in columns]
    if missing:
        raise InputError(
            f"{label} lacks the column {listed(missing)} (found: {listed(list(columns))}). "
            "A photo table has the columns file, photo and, if known, cell."
        )
    table: dict[str, Origin] = {}
    cell_of: dict[str, str] = {}
    for row in rows:
        file, photo = row["file"], row["photo"]
        if not file or not photo:
            raise InputError(
                f"{label}, line {rows.line_num}: file={file!r}, photo={photo!r}. "
                "Neither may be empty: fill it in or delete the line."
            )
        # photographs and cells are two kinds of names: a table may number both from 0
        origin = Origin(photo, row.get("cell") or f"photo {photo}")
        if cell_of.setdefault(photo, origin.cell) != origin.cell:
            raise InputError(
                f"{label}, line {rows.line_num}: photo {photo!r} was given another cell above. "
                "All copies of a photograph show the same cell: give them one name."
            )
        if table.setdefault(file.replace("\\", "/"), origin) != origin:
            raise InputError(
                f"{label}, line {rows.line_num}: {file!r} was given another photograph above. "
                "A file comes from one photograph: delete one of the two lines."
            )
    return table
