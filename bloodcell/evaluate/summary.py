"""The short table at the end of a training."""

from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text


class Line(NamedTuple):
    """One line of the table.

    Attributes:
        part: train, validation or test.
        loss: mean cross-entropy.
        accuracy: by file, 0 to 1.
        photos: accuracy by photograph, 0 to 1; None where it was not computed.
    """

    part: str
    loss: float
    accuracy: float
    photos: float | None = None


def print_table(title: str, lines: list[Line], notes: list[tuple[str, str]]) -> None:
    """Prints the scores and, below them, notes.

    Args:
        title: the run's name.
        lines: one for each part.
        notes: pairs of label and text.
    """
    table = Table(title=Text(title, style="bold"), box=box.SIMPLE_HEAD, title_justify="left")
    for heading in ("part", "loss", "accuracy", "by photograph"):
        table.add_column(heading, justify="left" if heading == "part" else "right")
    for line in lines:
        photos = "" if line.photos is None else f"{line.photos:.4f}"
        table.add_row(line.part, f"{line.loss:.4f}", f"{line.accuracy:.4f}", photos)
    console = Console()
    console.print(table)
    for label, text in notes:  # soft wrap: a command or a path is copied in one piece
        console.print(Text(f"  {label:<14} {text}"), soft_wrap=True)
