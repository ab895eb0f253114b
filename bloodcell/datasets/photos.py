"""Photo tables, which map each image file to its original photograph and white cell."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from bloodcell.errors import InputError, listed

COLUMNS = ("file", "photo")


class Origin(NamedTuple):
    """The origin of an image file.

    Attributes:
        photo: name of the photograph.
        cell: name of the white cell in the photograph; several photographs may show one cell.
    """

    photo: str
    cell: str


PhotoTable = Mapping[str, Origin]


def read(path: Path) -> PhotoTable:
    """Reads a photo table from a CSV file.

    Args:
        path: CSV file with the columns `file` (the end of the image's path, with forward slashes),
            `photo` and, if known, `cell`. Without `cell`, each photograph has its own cell.

    Raises:
        InputError: if the file is missing, is not CSV, lacks a column or contradicts itself.
    """
    label = f"data.photos='{path}'"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return parse(file, label)
    except OSError as error:
        raise InputError(
            f"{label} cannot be read ({error.strerror}). Give a CSV file with the columns "
            f"{', '.join(COLUMNS)} and, if known, cell."
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{label} is not a CSV file in UTF-8 ({error}). Save it as one."
        ) from error


def find(table: PhotoTable, path: str) -> str | None:
    """Returns the longest suffix of a path that is a key of a photo table, or None.

    Args:
        table: the photo table.
        path: path of the image, with forward slashes.
    """
    parts = path.split("/")
    ends = ("/".join(parts[start:]) for start in range(len(parts)))
    return next((end for end in ends if end in table), None)


def parse(lines: Iterable[str], label: str) -> PhotoTable:
    """Returns the photo table from lines of CSV.

    Args:
        lines: CSV with the header that `read` describes.
        label: name of the table in error messages.

    Raises:
        InputError: if a column or a value is missing, or two lines contradict each other.
    """
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
        # the prefix separates the names of photographs and cells: a table may number both from 0
        origin = Origin(photo, row.get("cell") or f"photo {photo}")
        if cell_of.setdefault(photo, origin.cell) != origin.cell:
            raise InputError(
                f"{label}, line {rows.line_num}: photo {photo!r} has another cell in a line above. "
                "All copies of a photograph show the same cell: give them one name."
            )
        if table.setdefault(file.replace("\\", "/"), origin) != origin:
            raise InputError(
                f"{label}, line {rows.line_num}: {file!r} has another photograph in a line above. "
                "A file comes from one photograph: delete one of the two lines."
            )
    return table
