"""Wide tables: on the console and as Markdown."""

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

_WIDE = 190  # columns, if the output is a file or a pipe


def print_wide(
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    legend: str,
    title: str = "",
    words: Sequence[str] = ("experiment",),
) -> None:
    """Prints a table and its legend.

    Args:
        headings: column headings.
        rows: rows with one cell for each column.
        legend: text below the table.
        title: text above it.
        words: headings of the columns with words, not numbers.
    """
    table = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in words else "right")
    for row in rows:
        table.add_row(*row)
    console = Console()
    wide = console if console.is_terminal else Console(width=max(console.width, _WIDE))
    wide.print(table)
    wide.print(legend, highlight=False)


def as_markdown(
    headings: Sequence[str], rows: Iterable[Sequence[str]], legend: str, title: str = ""
) -> str:
    """Returns the table as Markdown."""
    lines = [f"| {' | '.join(line)} |" for line in (headings, ["---"] * len(headings), *rows)]
    above = [title, ""] if title else []
    return "\n".join([*above, *lines, "", legend, ""])
