"""Writes one row of predictions per image to a file or to the standard output."""

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TextIO

from bloodcell.data.cell import Cell
from bloodcell.errors import InputError
from bloodcell.files import beside, check_place, write_whole

PLACE = ("x", "y", "side")  # columns of tables of cells
_PARQUET_ROWS = 10_000  # rows per row group


class Answer(NamedTuple):
    """The prediction for an image or for one cell in it.

    Attributes:
        file: name of the image.
        class_name: predicted class; None if the model abstains or the image is unreadable.
        probability: (classes,); None if the image cannot be read.
        error: reason why the image cannot be read; empty otherwise.
        cell: position of the cell in the image; None for a whole image.
        read: returns the bytes of the image; all cells of an image share this object.
        note: how the image was changed when it was read, e.g. scaled; empty if it was not.
        unlike: whether `distance` exceeds the threshold of the model's gallery; None if the image
            is unreadable or the model has no gallery.
        distance: distance from the training images, as `Gallery.distance` returns it; None where
            `unlike` is None.
    """

    file: str
    class_name: str | None
    probability: dict[str, float] | None
    error: str = ""
    cell: Cell | None = None
    read: Callable[[], bytes] | None = None
    note: str = ""
    unlike: bool | None = None
    distance: float | None = None


class Writer(Protocol):
    """Writes one row per prediction."""

    def __call__(self, answer: Answer) -> None:
        """Writes a row."""
        ...


def flat(answer: Answer, class_names: list[str], cells: bool = False) -> dict[str, Any]:
    """Returns a prediction as one row of a table.

    Args:
        answer: the prediction.
        class_names: the classes.
        cells: whether each row describes a cell and has the columns x, y and side.

    Returns:
        The columns `file`, `class`, one `p_CLASS` for each class, `unlike` and `error`; for cells
        also `x`, `y` and `side` in pixels of the image.
    """
    probability = answer.probability or {}
    where = {f: round(getattr(answer.cell, f), 1) if answer.cell else None for f in PLACE}
    return {
        "file": answer.file,
        **(where if cells else {}),
        "class": answer.class_name,
        **{f"p_{name}": probability.get(name) for name in class_names},
        "unlike": answer.unlike,
        "error": answer.error,
    }


def check_out(path: str | None) -> None:
    """Checks `--out` before any work is done.

    Args:
        path: file of the table; None is the standard output.

    Raises:
        InputError: if the file cannot be written, or pyarrow is missing.
    """
    check_place("--out", path, ".csv", ".jsonl", ".parquet")
    if path and Path(path).suffix == ".parquet":
        _load_pyarrow()


@contextmanager
def open_writer(
    path: Path | None, screen: TextIO, class_names: list[str], cells: bool = False
) -> Iterator[Writer]:
    """Opens a table for writing; the file appears only when it is complete.

    Args:
        path: .csv, .jsonl or .parquet; None writes CSV to the standard output.
        screen: the standard output.
        class_names: the classes.
        cells: whether each row describes a cell.
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
    pyarrow, parquet = _load_pyarrow()
    numbers = [(f"p_{name}", pyarrow.float32()) for name in class_names]
    text = pyarrow.string()
    places = [(name, pyarrow.float32()) for name in (PLACE if cells else ())]
    named = [("class", text), *numbers, ("unlike", pyarrow.bool_()), ("error", text)]
    schema = pyarrow.schema([("file", text), *places, *named])
    rows: list[dict[str, Any]] = []
    with beside(path) as partial, parquet.ParquetWriter(partial, schema) as file:

        def flush() -> None:
            if rows:
                file.write_table(pyarrow.Table.from_pylist(rows, schema))
                rows.clear()

        def write(answer: Answer) -> None:
            raw = answer.file.encode("utf-8", "surrogateescape")
            name = raw.decode("utf-8", "backslashreplace")  # not every file name is valid UTF-8
            rows.append(flat(answer._replace(file=name), class_names, cells))
            if len(rows) >= _PARQUET_ROWS:
                flush()

        yield write
        flush()


def _load_pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise InputError(
            "--out: .parquet needs pyarrow: pip install 'bloodcell[parquet]'; or use .csv."
        ) from error
    return pyarrow, parquet


def _rounded(answer: Answer, class_names: list[str], cells: bool) -> dict[str, Any]:
    """Returns the row with probabilities rounded to six significant digits."""
    row = flat(answer, class_names, cells)
    return {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in row.items()}
