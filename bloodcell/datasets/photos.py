"""Photo tables, which map each image file to its original photograph and white cell."""

import unicodedata
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from bloodcell.errors import InputError
from bloodcell.spreadsheet import Sheet, TableSetting, find_column, parse_sheet

COLUMNS = ("file", "photo")
SETTING = TableSetting(
    "data.photos", f"a CSV file with the columns {', '.join(COLUMNS)} and, if known, cell"
)


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
        path: table with the columns `file` (the end of the image's path), `photo` and, if known,
            `cell`. Without `cell`, each photograph has its own cell.

    Raises:
        InputError: if the file is missing, is not CSV, lacks a column or contradicts itself.
    """
    return _parse(SETTING.read(path), SETTING.label(path))


def find(table: PhotoTable, path: str) -> str | None:
    """Returns the longest suffix of a path that is a key of a photo table, or None.

    Args:
        table: the photo table.
        path: path of the image, with forward slashes.
    """
    parts = plain(path).split("/")
    ends = ("/".join(parts[start:]) for start in range(len(parts)))
    return next((end for end in ends if end in table), None)


def plain(name: str) -> str:
    """Returns a path in the form in which tables are compared.

    It has forward slashes and composed accents, and `./a.jpeg` is `a.jpeg`.
    """
    return str(PurePosixPath(unicodedata.normalize("NFC", name).replace("\\", "/")))


def parse(text: str, label: str) -> PhotoTable:
    """Returns the photo table from the text of a CSV file.

    Args:
        text: CSV with the header that `read` describes.
        label: name of the table in error messages.

    Raises:
        InputError: if a column or a value is missing, or two lines contradict each other.
    """
    return _parse(parse_sheet(text, label), label)


def _parse(sheet: Sheet, label: str) -> PhotoTable:
    for column in COLUMNS:
        find_column(sheet, (column,), label)
    table: dict[str, Origin] = {}
    cell_of: dict[str, str] = {}
    for number, values in sheet.lines:
        file, photo = values["file"], values["photo"]
        if not file or not photo:
            raise InputError(
                f"{label}, line {number}: file={file!r}, photo={photo!r}. "
                "Neither may be empty: fill it in or delete the line."
            )
        # the prefix separates the names of photographs and cells: a table may number both from 0
        origin = Origin(photo, values.get("cell") or f"photo {photo}")
        if cell_of.setdefault(photo, origin.cell) != origin.cell:
            raise InputError(
                f"{label}, line {number}: photo {photo!r} has another cell in a line above. "
                "All copies of a photograph show the same cell: give these lines the same cell."
            )
        if table.setdefault(plain(file), origin) != origin:
            raise InputError(
                f"{label}, line {number}: {file!r} has another photograph in a line above. "
                "A file comes from one photograph: delete one of the two lines."
            )
    return table
