"""Reads tables as spreadsheet programs write them."""

import codecs
import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from bloodcell.errors import InputError, listed
from bloodcell.files import at_home

_SEPARATORS = ",;\t"
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class Line(NamedTuple):
    """One line of a table.

    Attributes:
        number: its number in the file, from 1.
        values: its values by column, without spaces around them; empty where there is none.
    """

    number: int
    values: dict[str, str]


class Sheet(NamedTuple):
    """A table whose lines are read one by one.

    Attributes:
        columns: names of the columns, in lower case.
        lines: the lines that are not empty.
    """

    columns: list[str]
    lines: Iterator[Line]


def read_sheet(path: Path, label: str, needed: str) -> Sheet:
    """Reads a table from a file in UTF-8 or UTF-16, as `parse_sheet` does.

    Args:
        path: the file.
        label: name of the table in error messages.
        needed: what to give instead of a file that cannot be read.

    Raises:
        InputError: if the file is missing or is not text.
    """
    try:
        text = decode_sheet(at_home(path).read_bytes())
    except OSError as error:
        raise InputError(_cannot_read(label, error, needed)) from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{label} is not a CSV file in UTF-8 or UTF-16 ({error}). Save it as one: in Excel, as "
            "`CSV UTF-8`."
        ) from error
    return parse_sheet(text, label)


def decode_sheet(data: bytes, errors: str = "strict") -> str:
    """Returns the text of a table in UTF-8 or UTF-16.

    Args:
        data: the file.
        errors: as for `bytes.decode`.
    """
    return data.decode("utf-16" if data.startswith(_UTF_16) else "utf-8-sig", errors)


class TableSetting(NamedTuple):
    """A setting whose value is the path of a table.

    Attributes:
        name: the setting.
        needed: what to give instead of a file that cannot be read.
    """

    name: str
    needed: str

    def label(self, path: Path | str) -> str:
        """Returns the name of the table in error messages."""
        return f"{self.name}='{path}'"

    def read(self, path: Path) -> Sheet:
        """Reads the table, as `read_sheet` does."""
        return read_sheet(path, self.label(path), self.needed)

    def check(self, path: str) -> None:
        """Checks that the table exists, without reading it.

        Raises:
            InputError: if the file is missing.
        """
        try:
            at_home(path).stat()
        except OSError as error:
            raise InputError(_cannot_read(self.label(path), error, self.needed)) from error


def _cannot_read(label: str, error: OSError, needed: str) -> str:
    return f"{label} cannot be read ({error.strerror}). Give {needed}."


def parse_sheet(text: str, label: str) -> Sheet:
    """Parses a table with commas, semicolons or tabs between its values, and a header.

    Args:
        text: the table.
        label: name of the table in error messages.

    Raises:
        InputError: if the file is not CSV; iterating over the lines raises it, too, also if a line
            has more values than there are columns.
    """
    header = str(re.match(r"(?:\s*\n)*([^\n]*)", text)[1])  # type: ignore[index]  # always matches
    stated = re.fullmatch(r"sep=([,;|\t])\s*", header)  # a line of Excel before the header
    separator = stated[1] if stated else max(_SEPARATORS, key=header.count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator)

    def read() -> Iterator[list[str]]:
        try:
            for row in rows:
                yield [value.strip() for value in row]
        except csv.Error as error:
            raise InputError(f"{label} is not a CSV file ({error}). Save it as one.") from error

    coming = (row for row in read() if any(row))
    columns = next(coming, [])
    if stated:
        columns = next(coming, [])
    columns = [name.lower() for name in columns]
    blank = dict.fromkeys(columns, "")

    def line(row: list[str]) -> Line:
        if any(row[len(columns) :]):
            raise InputError(
                f"{label}, line {rows.line_num}: {len(row)} values for {len(columns)} columns. Put "
                f"values that contain {separator!r} into quotation marks, or delete the others."
            )
        return Line(rows.line_num, blank | dict(zip(columns, row, strict=False)))

    return Sheet(columns, map(line, coming))


def find_column(sheet: Sheet, names: Sequence[str], label: str) -> str:
    """Returns the first of several names that is a column.

    Raises:
        InputError: if none is.
    """
    for name in names:
        if name in sheet.columns:
            return name
    others = f" (or {', '.join(names[1:])})" if names[1:] else ""
    raise InputError(
        f"{label} lacks the column {names[0]}{others} "
        f"(found: {listed(sheet.columns)}). Give one column this name."
    )
