"""Wide tables: on the console and as Markdown."""

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

_WIDE = 190  # columns, if the output is a file or a pipe
_WIDEST = 10_000


def print_wide(
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    legend: str,
    title: str = "",
    words: Sequence[str] = ("experiment",),
) -> None:
    """Prints a table and its legend; on a narrow terminal, a block of lines for each row.

    Args:
        headings: column headings.
        rows: rows with one cell for each column.
        legend: text below the table.
        title: text above it.
        words: headings of the columns with words, not numbers.
    """
    # Text, because names may contain what Rich takes for styles, as in `d8[lr=1e-4]`
    above = Text(title, style="table.title")
    table = Table(title=above if title else None, box=box.SIMPLE_HEAD, title_justify="left")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in words else "right")
    lines = [list(row) for row in rows]
    for line in lines:
        table.add_row(*map(Text, line))
    console = Console()
    needed = Console(width=_WIDEST).measure(table)
    if not console.is_terminal:
        console.width = max(console.width, _WIDE, needed.maximum)
    if needed.minimum <= console.width:
        console.print(table)
    else:  # numbers would be cut
        if title:
            console.print(above, soft_wrap=True)
        for line in lines:
            _print_block(console, headings, line)
    console.print(legend, highlight=False, markup=False)


def _print_block(console: Console, headings: Sequence[str], line: Sequence[str]) -> None:
    """Prints a row as a block, with a line for each cell that is not empty."""
    wide = max(map(len, headings))
    for heading, cell in zip(headings, line, strict=True):
        if cell:
            console.print(Text(f"  {heading:<{wide}}  {cell}"), soft_wrap=True)
    console.print()


def as_markdown(
    headings: Sequence[str], rows: Iterable[Sequence[str]], legend: str, title: str = ""
) -> str:
    """Returns the table as Markdown."""
    escaped = ([cell.replace("|", "\\|") for cell in row] for row in rows)
    lines = [f"| {' | '.join(line)} |" for line in (headings, ["---"] * len(headings), *escaped)]
    above = [title, ""] if title else []
    return "\n".join([*above, *lines, "", legend, ""])
