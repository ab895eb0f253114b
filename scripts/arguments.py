"""What the scripts share: help that keeps a docstring's lines, checked arguments, short errors."""

import csv
import sys
import zipfile
from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path

from bloodcell.errors import InputError, of_disk


def make_parser(doc: str | None) -> ArgumentParser:
    """Returns a parser whose help starts with a script's docstring."""
    return ArgumentParser(description=doc, formatter_class=RawDescriptionHelpFormatter)


def count(text: str) -> int:
    """Returns a whole number, 1 or more."""
    if not text.isdecimal() or not int(text):
        raise ArgumentTypeError(f"{text} must be a whole number, 1 or more")
    return int(text)


def positive(text: str) -> float:
    """Returns a number over 0, such as a time."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < inf:
        raise ArgumentTypeError(f"{text} must be a number over 0")
    return found


def existing(text: str) -> Path:
    """Returns the path of a file or folder that exists."""
    if not Path(text).exists():
        raise ArgumentTypeError(f"{text}: no such file or folder")
    return Path(text)


def writable(text: str) -> Path:
    """Returns the path of a file that can be written, as its folder exists."""
    path = Path(text)
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise ArgumentTypeError(f"{text} must be a file in a folder that exists")
    return path


@contextmanager
def short_errors() -> Iterator[None]:
    """Ends the script with a sentence, not a traceback, if an input cannot be used."""
    try:
        yield
    except InputError as error:
        sys.exit(str(error))
    except zipfile.BadZipFile as error:
        sys.exit(f"An archive cannot be read ({error}). Give a whole .zip.")
    except OSError as error:
        message = of_disk(error, "give another place")
        if message is None:
            raise
        sys.exit(message)


def read_rows(path: Path, *columns: str) -> list[dict[str, str]]:
    """Returns the rows of a .csv file; ends the script if it lacks one of the columns."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows, found = list(reader), reader.fieldnames or []
    except UnicodeDecodeError:
        sys.exit(f"{path} is not a .csv file.")
    if missing := [name for name in columns if name not in found]:
        sys.exit(f"{path} has no column {missing[0]}. Give a table as --help shows.")
    return rows
