"""What a model says of images: a row an image, in a file or on the screen."""

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TextIO

from bloodcell.data.cell import Cell
from bloodcell.errors import InputError
from bloodcell.files import beside, write_whole

PLACE = ("x", "y", "side")  # of a cell
SUFFIXES = (".csv", ".jsonl", ".parquet")
_PARQUET_ROWS = 10_000  # written at a time


class Answer(NamedTuple):
    """What a model says of an image.

    Attributes:
        file: as it was named.
        class_name: of the most probable class; None if the model is unsure or the image unreadable.
        probability: of each class; None if the image cannot be read.
        error: why it cannot be read; empty if it can.
        cell: where it lies on the picture, if it is a cell of it.
        read: gives the picture's bytes again; the same object for all cells of a picture.
    """

    file: str
    class_name: str | None
    probability: dict[str, float] | None
    error: str = ""
    cell: Cell | None = None
    read: Callable[[], bytes] | None = None


class Writer(Protocol):
    """Takes answers one after another."""

    def __call__(self, answer: Answer) -> None:
        """Writes one."""
        ...


def flat(answer: Answer, class_names: list[str], cells: bool = False) -> dict[str, Any]:
    """One row.

    Args:
        answer: is written.
        class_names: the classes.
        cells: whether it is of a cell.

    Returns:
        file, of cells x, y and side in pixels of the picture, class, p_CLASS of each class, error.
    """
    said = answer.probability or {}
    where = {f: round(getattr(answer.cell, f), 1) if answer.cell else None for f in PLACE}
    return {
        "file": answer.file,
        **(where if cells else {}),
        "class": answer.class_name,
        **{f"p_{name}": said.get(name) for name in class_names},
        "error": answer.error,
    }


@contextmanager
def open_writer(
    path: Path | None, screen: TextIO, class_names: list[str], cells: bool = False
) -> Iterator[Writer]:
    """Opens a table; a file is there when it is whole, or not at all.

    Args:
        path: .csv, .jsonl or .parquet; None writes CSV to the screen.
        screen: the standard output.
        class_names: the classes.
        cells: whether a row is a cell.
    """
    if path is None:
        yield _csv_writer(screen, class_names, cells)
    elif path.suffix == ".parquet":
        with _parquet_writer(path, class_names, cells) as write:
            yield write
    else:
        with write_whole(path) as file:
            if path.suffix == ".csv":
                yield _csv_writer(file, class_names, cells)
            else:
                yield lambda answer: print(
                    json.dumps(_rounded(answer, class_names, cells)), file=file
                )


def _csv_writer(file: TextIO, class_names: list[str], cells: bool) -> Writer:
    lines = csv.writer(file, lineterminator="\n")
    lines.writerow(flat(Answer("", None, None), class_names, cells))

    def write(answer: Answer) -> None:
        lines.writerow(_rounded(answer, class_names, cells).values())

    return write


@contextmanager
def _parquet_writer(path: Path, class_names: list[str], cells: bool) -> Iterator[Writer]:
    pyarrow, parquet = load_pyarrow()
    numbers = [(f"p_{name}", pyarrow.float32()) for name in class_names]
    text = pyarrow.string()
    places = [(name, pyarrow.float32()) for name in (PLACE if cells else ())]
    schema = pyarrow.schema([("file", text), *places, ("class", text), *numbers, ("error", text)])
    held: list[dict[str, Any]] = []
    with beside(path) as partial, parquet.ParquetWriter(partial, schema) as file:

        def flush() -> None:
            if held:
                file.write_table(pyarrow.Table.from_pylist(held, schema))
                held.clear()

        def write(answer: Answer) -> None:
            raw = answer.file.encode("utf-8", "surrogateescape")
            name = raw.decode("utf-8", "backslashreplace")  # a name may be no text
            held.append(flat(answer._replace(file=name), class_names, cells))
            if len(held) >= _PARQUET_ROWS:
                flush()

        yield write
        flush()


def load_pyarrow() -> tuple[Any, Any]:
    """Parquet's library.

    Raises:
        InputError: if it is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise InputError(
            "--out: .parquet needs pyarrow: pip install 'bloodcell[parquet]'; or use .csv."
        ) from error
    return pyarrow, parquet


def _rounded(answer: Answer, class_names: list[str], cells: bool) -> dict[str, Any]:
    """Six digits are more than any probability is worth."""
    row = flat(answer, class_names, cells)
    return {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in row.items()}
